"""All features of a region: the chain, and what is measured by the models or by code in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auscult.domain.ibsi_features import FEATURES, REGION, TEXTURE
from auscult.platform.errors import TellClinician
from auscult.radiomics import counting, form, intensities, native, texture
from auscult.radiomics.chain import Chain
from auscult.radiomics.peaks import peaks
from auscult.radiomics.process import Processed, process
from auscult.radiomics.shape import autocorrelation, hull
from auscult.radiomics.zones import find_zones

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Infer: TypeAlias = Callable[[str, dict[str, NDArray[Any]]], Arrays]
"""Runs a model by its name: the inference service's client, or ONNX Runtime in this process."""
Count: TypeAlias = Callable[[NDArray[np.integer], NDArray[np.bool_]], counting.Sums]
MOST_VOXELS = 1 << 24
"""Of a box for the models, which take ten times the memory of the code in this process."""
MODELS = ("radiomics_region", "radiomics_texture")


def measure(
    image: NDArray[np.number],
    mask: NDArray[np.bool_],
    spacing: ArrayLike,
    chain: Chain,
    infer: Infer | None = None,
) -> dict[str, float]:
    """Return every feature of `domain.ibsi_features` by name, in its order; NaN where one has no value.

    `image` and `mask`: (z, y, x) of one shape; `spacing`: (3,) mm along (z, y, x). TellClinician as `process`.
    `infer`: runs the models for what they compute; without, code in this process computes the same, in less time
    and memory.

    No value, NaN, have: ratios of axes and densities in an ellipsoid where an axis is 0, as in one voxel or a line;
    Moran's I and Geary's C of a flat region; co-occurrence and tone differences where no voxel has a neighbour; a
    ratio to an intensity of 0. A flat region has correlation 1 and coarseness 1,000,000.
    """
    return features(process(image, mask, spacing, chain), infer)


def features(region: Processed, infer: Infer | None = None) -> dict[str, float]:
    """Return the features of a region whose image is processed."""
    box = region.box
    image, morphology, intensity = region.image[box], region.morphology[box], region.intensity[box]
    named = here(region) if infer is None else modelled(region, infer)
    outer = hull(morphology, region.spacing)
    together = autocorrelation(image, intensity, region.spacing)
    local = peaks(region.image, region.intensity, region.spacing)
    named |= {
        "morph_diam": outer.diameter,
        "morph_vol_dens_conv_hull": named["morph_volume"] / outer.volume,
        "morph_area_dens_conv_hull": named["morph_area_mesh"] / outer.area,
        "morph_moran_i": together.moran,
        "morph_geary_c": together.geary,
        "loc_peak_loc": local.local,
        "loc_peak_glob": local.highest,
    }
    return {feature.name: named[feature.name] for feature in FEATURES}


def modelled(region: Processed, infer: Infer) -> dict[str, float]:
    """Return what the models compute."""
    box = region.box
    image, morphology = region.image[box], region.morphology[box]
    if image.size > MOST_VOXELS:
        raise TellClinician(
            "region-too-large",
            f"the box has more than {MOST_VOXELS:,} voxels, too many for the models; choose a larger spacing",
        )
    levels = region.levels[box].astype(np.int32)
    zones_2d, zones_3d = find_zones(levels, morphology)
    shape = infer(
        "radiomics_region",
        {
            "image": np.where(morphology, image, 0).astype(np.float32),
            "morphology": np.ascontiguousarray(morphology),
            "intensity": np.ascontiguousarray(region.intensity[box]),
            "spacing": region.spacing.astype(np.float32),
            "volume_bins": np.array(region.volume_bins),
        },
    )["features"]
    textures = infer("radiomics_texture", {"levels": levels, "zones_2d": zones_2d, "zones_3d": zones_3d})["features"]
    named = {feature.name: float(value) for feature, value in zip(REGION, shape.ravel(), strict=True)}
    return named | {feature.name: float(value) for feature, value in zip(TEXTURE, textures.ravel(), strict=True)}


def here(region: Processed, count: Count | None = None) -> dict[str, float]:
    """Return what the models compute, without them. `count`: the compiled kernels, where they can; else numpy."""
    box = region.box
    image, morphology, intensity = region.image[box], region.morphology[box], region.intensity[box]
    levels = region.levels[box]
    count = count or (native.count if native.serves(levels) else counting.count)
    values = intensities.Values.among(image[intensity])
    shape = form.shape(morphology, region.spacing)
    shape["com"] = form.centre_of_mass_shift(image, morphology, intensity, region.spacing)
    statistics = intensities.statistics(values)
    shape["integ_int"] = statistics["mean"] * shape["volume"]
    families = {
        "morph": shape,
        "stat": statistics,
        "ivh": intensities.volume_histogram(values, region.volume_bins),
        "ih": intensities.histogram(np.bincount(levels[intensity])[1:]),
    }
    named = {f"{prefix}_{name}": value for prefix, family in families.items() for name, value in family.items()}
    textures = texture.features(count(levels, morphology))
    matrices = (feature.name for feature in TEXTURE if not feature.name.startswith("ih_"))
    return named | dict(zip(matrices, textures.tolist(), strict=True))

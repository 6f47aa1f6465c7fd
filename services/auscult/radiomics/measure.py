"""All features of a region: the chain, the models, and what is measured beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from auscult.domain.ibsi_features import FEATURES, REGION, TEXTURE
from auscult.radiomics.chain import Chain
from auscult.radiomics.peaks import peaks
from auscult.radiomics.process import Processed, process
from auscult.radiomics.shape import autocorrelation, hull
from auscult.radiomics.zones import find_zones

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Infer: TypeAlias = Callable[[str, dict[str, NDArray[Any]]], Arrays]
"""Runs a model by its name: the inference service's client, or ONNX Runtime in this process."""
MODELS = ("radiomics_region", "radiomics_texture")


def measure(
    image: NDArray[np.number], mask: NDArray[np.bool_], spacing: NDArray[np.float64], chain: Chain, infer: Infer
) -> dict[str, float]:
    """Return every feature of `domain.ibsi_features` by name, in its order; NaN where one has no value.

    `image` and `mask`: (z, y, x) of one shape; `spacing`: (3,) mm along (z, y, x). TellClinician as `process`.

    No value, NaN, have: ratios of axes and densities in an ellipsoid where an axis is 0, as in one voxel or a line;
    Moran's I and Geary's C of a flat region; co-occurrence and tone differences where no voxel has a neighbour; a
    ratio to an intensity of 0. A flat region has correlation 1 and coarseness 1,000,000.
    """
    return features(process(image, mask, spacing, chain), infer)


def features(region: Processed, infer: Infer) -> dict[str, float]:
    """Return the features of a region whose image is processed."""
    box = region.box
    image, morphology = region.image[box], region.morphology[box]
    intensity, levels = region.intensity[box], region.levels[box]
    zones_2d, zones_3d = find_zones(levels, morphology)
    shape = infer(
        "radiomics_region",
        {
            "image": np.where(morphology, image, 0).astype(np.float32),
            "morphology": np.ascontiguousarray(morphology),
            "intensity": np.ascontiguousarray(intensity),
            "spacing": region.spacing.astype(np.float32),
            "volume_bins": np.array(region.volume_bins),
        },
    )["features"]
    texture = infer(
        "radiomics_texture", {"levels": np.ascontiguousarray(levels), "zones_2d": zones_2d, "zones_3d": zones_3d}
    )["features"]
    named = {feature.name: float(value) for feature, value in zip(REGION, shape.ravel(), strict=True)}
    named |= {feature.name: float(value) for feature, value in zip(TEXTURE, texture.ravel(), strict=True)}
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

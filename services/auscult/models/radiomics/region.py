"""`radiomics_region`: a region's shape, intensities and intensity-volume histogram, in double precision.

Inputs: `image` FP32 [z, y, x], HU, a box around the region; `morphology` BOOL [z, y, x], the region as outlined;
`intensity` BOOL [z, y, x], its voxels whose intensities count; `spacing` FP32 [3], mm along (z, y, x);
`volume_bins` FP64 [3], the first and last level of the intensity-volume histogram and the step between, HU.

Output: `features` FP64 [K] in the order of `domain.ibsi_features`: MORPHOLOGICAL but for what host code measures
(HOST), then STATISTICAL and FRACTIONS.

What has no value is NaN: shape where the region is empty or a spacing is not positive and finite; intensities where
no voxel counts or one of theirs is not finite; a ratio to nothing. An image and masks of other shapes are an error.
"""

from __future__ import annotations

import math

import numpy as np
import spox.opset.ai.onnx.v17 as op
from onnx import ModelProto
from spox import Tensor, Var, argument, build

from auscult.domain.ibsi_features import REGION
from auscult.models.metadata import describe
from auscult.models.radiomics.ellipsoid import surface
from auscult.models.radiomics.intensities import LEVEL_STATISTICS, statistics, volume_histogram
from auscult.models.radiomics.mesh import mesh
from auscult.models.radiomics.morphology import morphology
from auscult.models.real import Real, every, never_empty, where

BOX = ("z", "y", "x")
STATISTICS = {**LEVEL_STATISTICS, "energy": "energy", "rms": "root-mean-square"}


def author() -> ModelProto:
    """Return the graph."""
    inputs = {
        "image": argument(Tensor(np.float32, BOX)),
        "morphology": argument(Tensor(np.bool_, BOX)),
        "intensity": argument(Tensor(np.bool_, BOX)),
        "spacing": argument(Tensor(np.float32, (3,))),
        "volume_bins": argument(Tensor(np.float64, (3,))),
    }
    return describe(
        build(inputs, {"features": _features(*inputs.values())}),
        text="Shape, intensity statistics and intensity-volume histogram of a region, as the IBSI defines them.",
        features=",".join(feature.name for feature in REGION),
        ibsi_codes=",".join(feature.code.code for feature in REGION),
        units=",".join(feature.unit for feature in REGION),
    )


def _features(image: Var, outlined: Var, intensity: Var, spacing: Var, volume_bins: Var) -> Var:
    first = op.const(np.array([0]))
    # Stacking fails where the shapes differ, which gathering alone would not notice.
    stacked = op.concat([op.unsqueeze(Real.of(each).var, first) for each in (image, outlined, intensity)], axis=0)
    image, outlined, intensity = (op.gather(stacked, op.const(place)) for place in range(3))
    steps, bins = Real.of(spacing), Real.of(volume_bins)
    inside, counted = (op.transpose(op.non_zero(op.cast(mask, to=np.bool_))) for mask in (outlined, intensity))
    occupied, told = (op.greater(op.size(found), op.const(0)) for found in (inside, counted))
    # Operators fail on nothing at all, so an empty region is computed as one voxel; its answer becomes NaN.
    index = never_empty(Real.of(inside), np.zeros((1, 3)))
    weighed = never_empty(Real.of(counted), np.zeros((1, 3))) * steps
    values = never_empty(Real(op.gather_nd(image, counted)), np.zeros(1))

    measurable = every(occupied, steps > 0, steps.finite())
    known = every(told, values.finite())
    binned = every(known, bins.finite(), bins.at(2) > 0)
    shape = _shape(op.cast(outlined, to=np.bool_), index, steps)
    mean = values.mean()
    weight = values.sum()
    heaviest = (weighed * values.column(1)).sum(0) / where(weight.equals(0), np.nan, weight)
    shift = heaviest - Real(op.reduce_mean((index * steps).var, axes=[0], keepdims=False))
    both = {"com": (shift * shift).sum().sqrt(), "integ_int": mean * shape["volume"]}
    described = statistics(values)
    named: dict[str, Real] = {}
    for valid, prefix, family in (
        (measurable, "morph", shape),
        (every(measurable, known), "morph", both),
        (known, "stat", {short: described[name] for short, name in STATISTICS.items()}),
        (binned, "ivh", volume_histogram(values, bins)),
    ):
        named |= {f"{prefix}_{name}": where(valid, value, np.nan) for name, value in family.items()}
    if named.keys() != {feature.name for feature in REGION}:
        raise ValueError("domain.ibsi_features.REGION does not name what is computed here")
    return op.concat([op.reshape(named[feature.name].var, op.const([1])) for feature in REGION], axis=0)


def _shape(mask: Var, index: Real, steps: Real) -> dict[str, Real]:
    """Return the features of the mesh, of the voxels, and of both; `index`: [n, 3], their (z, y, x), n > 0."""
    volume, area = mesh(mask, steps)
    known = morphology(index, steps)
    major, minor, least = (known[f"{axis}-axis-length"] for axis in ("major", "minor", "least"))
    low, high = (reduce(index.var, axes=[0], keepdims=False) for reduce in (op.reduce_min, op.reduce_max))
    box = (Real(high) - Real(low) + 1) * steps
    box_area = (box.at(0) * box.at(1) + box.at(1) * box.at(2) + box.at(0) * box.at(2)) * 2
    ellipsoid = major * minor * least * (math.pi / 6)
    # The sphere of the same volume has this surface, and all of compactness and sphericity compare with it.
    sphere = (volume * volume * (36 * math.pi)) ** (1 / 3)
    return {
        "volume": volume,
        "vol_approx": known["volume"],
        "area_mesh": area,
        "av": area / volume,
        "comp_1": volume / (area**1.5 * math.sqrt(math.pi)),
        "comp_2": (sphere / area) ** 3,
        "sph_dispr": area / sphere,
        "sphericity": sphere / area,
        "asphericity": area / sphere - 1,
        "pca_maj_axis": major,
        "pca_min_axis": minor,
        "pca_least_axis": least,
        "pca_elongation": known["elongation"],
        "pca_flatness": known["flatness"],
        "vol_dens_aabb": volume / (box.at(0) * box.at(1) * box.at(2)),
        "area_dens_aabb": area / box_area,
        "vol_dens_aee": where(ellipsoid > 0, volume / ellipsoid, np.nan),
        "area_dens_aee": where(minor > 0, area / surface(major / 2, minor / 2, least / 2), np.nan),
    }

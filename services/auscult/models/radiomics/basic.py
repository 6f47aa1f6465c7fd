"""`radiomics_basic`: a region's shape, intensities and their histogram, in double precision.

Inputs: `image` FP32 [z, y, x], HU, a box around the region; `mask` BOOL [z, y, x], the region in that box;
`spacing` FP32 [3], mm along (z, y, x); `bin_width` and `bin_min` FP32 [1], HU, the fixed bin size of the
histogram and a bound between two bins.

Output: `features` FP64 [K] in the order of `domain.ibsi.RADIOMICS_BASIC`.

What has no value is NaN: everything for an empty mask; morphology where a spacing is not positive and
finite; intensities where one of the region's is not finite; the histogram also where the bin width is not
positive and finite or `bin_min` is not finite. The files of this package say what one voxel and a flat
region give. An image and a mask of different shapes are an error.
"""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from onnx import ModelProto
from spox import Tensor, Var, argument, build

from auscult.domain.ibsi import RADIOMICS_BASIC
from auscult.models.metadata import describe
from auscult.models.radiomics.intensities import histogram, statistics
from auscult.models.radiomics.morphology import morphology
from auscult.models.real import Real, every, never_empty, where

BOX = ("z", "y", "x")


def author() -> ModelProto:
    """Return the graph."""
    inputs = {
        "image": argument(Tensor(np.float32, BOX)),
        "mask": argument(Tensor(np.bool_, BOX)),
        "spacing": argument(Tensor(np.float32, (3,))),
        "bin_width": argument(Tensor(np.float32, (1,))),
        "bin_min": argument(Tensor(np.float32, (1,))),
    }
    return describe(
        build(inputs, {"features": _features(**inputs)}),
        text="Shape, intensity statistics and intensity histogram of a region, as the IBSI defines them.",
        features=",".join(feature.name for feature in RADIOMICS_BASIC),
        ibsi_codes=",".join(feature.code.code for feature in RADIOMICS_BASIC),
        units=",".join(feature.unit for feature in RADIOMICS_BASIC),
    )


def _features(*, image: Var, mask: Var, spacing: Var, bin_width: Var, bin_min: Var) -> Var:
    first = op.const(np.array([0]))
    # Stacking fails where the shapes differ, which gathering alone would not notice.
    stacked = op.concat([op.unsqueeze(Real.of(each).var, first) for each in (image, mask)], axis=0)
    inside = op.transpose(op.non_zero(mask))
    occupied = op.greater(op.size(inside), op.const(0))
    # Operators fail on nothing at all, so an empty region is computed as one voxel; its answer becomes NaN.
    index = never_empty(Real.of(inside), np.zeros((1, 3)))
    values = never_empty(Real(op.gather_nd(op.gather(stacked, op.const(0)), inside)), np.zeros(1))
    steps, width, bound = Real.of(spacing), Real.of(bin_width), Real.of(bin_min)

    measurable = every(occupied, steps > 0, steps.finite())
    known = every(occupied, values.finite())
    binned = every(known, width > 0, width.finite(), bound.finite())
    named: dict[str, Real] = {}
    for valid, family in (
        (measurable, morphology(index, steps)),
        (known, statistics(values)),
        (binned, histogram(values, width, bound)),
    ):
        named |= {name: where(valid, value, np.nan) for name, value in family.items()}
    if named.keys() != {feature.name for feature in RADIOMICS_BASIC}:
        raise ValueError("domain.ibsi.RADIOMICS_BASIC does not name what is computed here")
    return op.concat([op.reshape(named[feature.name].var, op.const([1])) for feature in RADIOMICS_BASIC], axis=0)

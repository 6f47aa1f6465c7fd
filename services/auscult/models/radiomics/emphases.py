"""The features that the matrices of runs, zones and dependences share: of level i, and of a length, size ... j."""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.real import Real


def columns(quality: Var) -> tuple[Real, Var]:
    """Return the values of `quality` (INT64 [n], from 0), ascending, FP64 [J], and each entry's place among them.

    Sizes of zones are few among many possible ones, so that a matrix with a column for each would be nearly empty.
    """
    size = op.add(op.reduce_max(quality, axes=[0]), op.const([1]))
    ones = op.expand(op.const(1), op.shape(quality))
    present = op.scatter_elements(op.constant_of_shape(size, value=np.zeros(1, np.int64)), quality, ones, axis=0)
    rank = op.sub(op.cumsum(present, op.const(0)), op.const(1))
    return Real.of(op.reshape(op.non_zero(present), op.const([-1]))), op.gather(rank, quality)


def emphases(matrices: Real, quality: Real, grey: Var, voxels: Real) -> list[Real]:
    """Return 17 features as [M] for `matrices`: [M, G, J], counts of level i and quality j.

    `quality`: [J], the values of j. `voxels`: [M], of how many voxels each matrix tells. Order: low j, high j, low i,
    high i, low j low i, low j high i, high j low i, high j high i, non-uniformity of i, and normalised, of j, and
    normalised, entries per voxel, variance of i, of j, entropy, energy.
    A matrix without an entry gives NaN.
    """
    entries = matrices.sum(1, 2)
    share = matrices / entries.column(1).column(1)
    of_level, of_quality = share.sum(2), share.sum(1)
    levels = Real.of(op.range(op.const(1), op.add(grey, op.const(1)), op.const(1)))
    high_i, high_j = levels * levels, quality * quality
    low_i, low_j = high_i**-1, high_j**-1
    low_j_of_level, high_j_of_level = (share * low_j).sum(2), (share * high_j).sum(2)
    level_mean, quality_mean = (of_level * levels).sum(1), (of_quality * quality).sum(1)
    from_level, from_quality = levels - level_mean.column(1), quality - quality_mean.column(1)
    level_uniformity, quality_uniformity = (of_level * of_level).sum(1), (of_quality * of_quality).sum(1)
    return [
        low_j_of_level.sum(1),
        high_j_of_level.sum(1),
        (of_level * low_i).sum(1),
        (of_level * high_i).sum(1),
        (low_j_of_level * low_i).sum(1),
        (low_j_of_level * high_i).sum(1),
        (high_j_of_level * low_i).sum(1),
        (high_j_of_level * high_i).sum(1),
        level_uniformity * entries,
        level_uniformity,
        quality_uniformity * entries,
        quality_uniformity,
        entries / voxels,
        (of_level * from_level * from_level).sum(1),
        (of_quality * from_quality * from_quality).sum(1),
        share.information().sum(1, 2),
        (share * share).sum(1, 2),
    ]

"""Neighbourhood grey tone difference (IBSI IPET) and neighbouring grey level dependence matrices (IBSI REK0).

Both at distance 1, dependence at coarseness 0: a neighbour depends where its level is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.radiomics.lattice import IN_PLANE, Lattice, count, key
from auscult.models.radiomics.runs import without_level_0
from auscult.models.real import Real, where

MOST = 27
"""Dependences of a voxel: itself and its 26 neighbours."""


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """Of each voxel, FP64 [n]: how many neighbours the region has, the sum of their levels, how many have its own."""

    many: Real
    total: Real
    same: Real


def neighbours(lattice: Lattice, pairs: list[tuple[Var, Var]]) -> tuple[Neighbours, Neighbours]:
    """Return the eight neighbours in a slice and the 26 in the volume, from `Lattice.pairs`."""
    found: list[Neighbours] = []
    level = op.cast(lattice.level, to=np.int32)
    many = total = same = op.const(np.int32(0))
    for number, pair in enumerate(pairs, start=1):
        for other in pair:
            many = op.add(many, op.cast(op.greater(other, op.const(np.int32(0))), to=np.int32))
            total = op.add(total, other)
            same = op.add(same, op.cast(op.equal(other, level), to=np.int32))
        if number in {len(IN_PLANE), len(pairs)}:
            found.append(Neighbours(Real.of(many), Real.of(total), Real.of(same)))
    return found[0], found[1]


def tone_differences(lattice: Lattice, around: Neighbours) -> Real:
    """Return [slice, 2, G]: for each slice and level the number of voxels with a neighbour, and their differences."""
    bins = op.add(lattice.grey, op.const(1))
    where_to = key((lattice.slice_of, 0), (lattice.level, bins))
    alone = around.many.equals(0)
    mean = around.total / where(alone, 1, around.many)
    differences = where(alone, 0, abs(Real.of(lattice.level) - mean))
    both = [
        op.unsqueeze(count(where_to, (lattice.slices, bins), each.var), op.const([1]))
        for each in (where(alone, 0, 1), differences)
    ]
    end = op.const([np.iinfo(np.int64).max])
    return Real(op.slice(op.concat(both, axis=1), op.const([1]), end, op.const([2])))


def tone_features(matrices: Real, grey: Var) -> list[Real]:
    """Return coarseness, contrast, busyness, complexity and strength as [M] each, from [M, 2, G].

    A flat region: coarseness 1,000,000 as the IBSI asks, the others 0. A matrix without an entry gives NaN.
    """
    levels = Real.of(op.range(op.const(1), op.add(grey, op.const(1)), op.const(1)))
    numbers, sums = (Real(op.gather(matrices.var, op.const(row), axis=1)) for row in range(2))
    voxels = numbers.sum(1)
    share = numbers / voxels.column(1)
    present = where(numbers > 0, 1, 0)
    levels_present = present.sum(1)
    row, column = share.column(2), share.column(1)
    both = present.column(2) * present.column(1)
    apart = levels.column(1) - levels.column(0)
    level_share = share * levels
    weighted = (share * sums).sum(1)
    total = sums.sum(1)
    weight_row, weight_column = (share * sums).column(2), (share * sums).column(1)
    busy = (abs(level_share.column(2) - level_share.column(1)) * both).sum(1, 2)
    either = row + column
    pairs = levels_present * (levels_present - 1)
    present_pairs = (row * column * apart * apart).sum(1, 2)
    # A matrix without an entry has 0 / 0 here, which each feature takes over.
    none = (voxels - voxels) / voxels
    return [
        where(weighted.equals(0), none + 1e6, weighted**-1),
        where(pairs.equals(0), none, present_pairs / pairs * (total / voxels)),
        where(busy.equals(0), none, weighted / busy),
        (abs(apart) * both * (weight_row + weight_column) / where(either.equals(0), 1, either)).sum(1, 2) / voxels,
        where(total.equals(0), none, (either * both * apart * apart).sum(1, 2) / total),
    ]


def dependences(lattice: Lattice, around: Neighbours) -> Real:
    """Return how often a voxel of level i depends on j voxels, itself among them: [slice, G, 27]."""
    bins = op.add(lattice.grey, op.const(1))
    same = op.cast(around.same.var, to=np.int64)
    where_to = key((lattice.slice_of, 0), (lattice.level, bins), (op.min([same, op.const(MOST - 1)]), MOST))
    return without_level_0(count(where_to, (lattice.slices, bins, MOST)))

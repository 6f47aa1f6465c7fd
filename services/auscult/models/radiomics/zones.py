"""Grey level size zone (IBSI 9SAK) and distance zone matrices (IBSI VMDZ), from a list of zones.

Which voxels make a zone is found outside the graph; see docs/decisions/0005-radiomics-in-graphs-and-beside-them.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.radiomics.emphases import columns
from auscult.models.radiomics.lattice import Lattice, count, key
from auscult.models.radiomics.runs import without_level_0
from auscult.models.real import Real


@dataclass(frozen=True, eq=False, slots=True)
class Zones:
    """For each of UNDIRECTED the `matrices`, [M, G, J], and the `voxels` they tell of, [M]; `quality`: [J]."""

    matrices: list[Real]
    voxels: list[Real]
    quality: Real


def zones(lattice: Lattice, in_slices: Var, in_volume: Var) -> tuple[Zones, Zones]:
    """Return the matrices of sizes and those of distances.

    Both lists: INT64 [zones, 4], each one's slice (from 0), level, size in voxels and distance from the edge.
    """
    # The volume counts as one more slice. A zone of level 0 makes sure that there always is something to count.
    whole = op.mul(op.const(np.array([[0, 1, 1, 1]])), in_volume)
    place = op.mul(op.const(np.array([[1, 0, 0, 0]])), lattice.slices)
    listed = op.concat([in_slices, op.add(whole, place), op.const(np.array([[0, 0, 1, 1]]))], axis=0)
    slice_of, level, size, distance = (op.gather(listed, op.const(column), axis=1) for column in range(4))
    bins = op.add(lattice.grey, op.const(1))
    many = op.add(lattice.slices, op.const(1))
    counted = op.mul(size, op.cast(op.greater(level, op.const(0)), to=np.int64))
    voxels = Real(count(slice_of, (many,), op.cast(counted, to=np.float64)))
    found = []
    for quality in (size, distance):
        values, column = columns(quality)
        width = op.size(values.var)
        where_to = key((slice_of, 0), (level, bins), (column, width))
        matrices = without_level_0(count(where_to, (many, bins, width)))
        found.append(Zones(_ways(matrices, lattice.slices), _ways(voxels, lattice.slices), values))
    return found[0], found[1]


def _ways(each: Real, slices: Var) -> list[Real]:
    """Part [slice + 1, ...] into that of each slice, their sum and that of the volume."""
    end = op.reshape(slices, op.const([1]))
    by_slice = Real(op.slice(each.var, op.const([0]), end))
    merged = Real(op.unsqueeze(by_slice.sum(0).var, op.const([0])))
    return [by_slice, merged, Real(op.slice(each.var, end, op.add(end, op.const([1]))))]

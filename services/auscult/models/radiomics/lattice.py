"""A region's discretised voxels in a flat array with a border of nothing, so that a neighbour is an offset away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

IN_PLANE = ((0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
"""Steps (z, y, x) to half of the eight neighbours in a slice."""
DIRECTIONS = (*IN_PLANE, *((1, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)))
"""Steps to half of the 26 neighbours; the others are their opposites (IBSI, direction vectors at distance 1)."""


@dataclass(frozen=True, eq=False, slots=True)
class Lattice:
    """INT64 but for `flat`, INT32 to spare memory.

    `flat`: [N], levels from 1, 0 outside the region; `plane`, `row`: voxels from slice to slice, from line to line;
    `slices`: how many, with the two of the border; `grey`: the number of levels G; `inside`: [n], the region's
    places in `flat`; `level`: [n], from 1; `slice_of`: [n].
    """

    flat: Var
    plane: Var
    row: Var
    slices: Var
    grey: Var
    inside: Var
    level: Var
    slice_of: Var

    @classmethod
    def of(cls, levels: Var) -> Lattice:
        """Prepare `levels` (INT32 [z, y, x]). A region without a voxel gets one, of level 0, which nothing counts."""
        padded = op.pad(levels, op.const(np.ones(6, np.int64)), op.const(np.int32(0)))
        depth, height, width = (op.gather(op.shape(padded), op.const(axis)) for axis in range(3))
        flat = op.reshape(padded, op.const([-1]))
        # A voxel of the border stands for those of an empty region, for which many operators fail.
        found = op.reshape(op.non_zero(flat), op.const([-1]))
        empty = op.cast(op.equal(op.size(found), op.const(0)), to=np.int64)
        inside = op.concat(
            [found, op.slice(op.const([0]), op.const([0]), op.unsqueeze(empty, op.const([0])))], axis=0
        )
        plane = op.mul(height, width)
        return cls(
            flat=flat,
            plane=plane,
            row=width,
            slices=depth,
            grey=op.max([_wide(op.reduce_max(flat, keepdims=False)), op.const(1)]),
            inside=inside,
            level=_wide(op.gather(flat, inside)),
            slice_of=op.div(inside, plane),
        )

    def offset(self, step: tuple[int, int, int]) -> Var:
        """Return how far along `flat` a step (z, y, x) leads, INT64; above 0 for those of DIRECTIONS."""
        z, y, x = step
        across = op.mul(self.row, op.const(y))
        return op.add(op.add(op.mul(self.plane, op.const(z)), across), op.const(x))

    def pairs(self) -> Iterator[tuple[Var, Var]]:
        """Yield for each of DIRECTIONS the levels a step ahead of and a step behind each voxel, INT32 [n]."""
        last = op.sub(op.size(self.flat), op.const(1))
        for step in DIRECTIONS:
            offset = self.offset(step)
            # Only from the border, which stands for an empty region, a step can leave the array.
            ahead = op.min([op.add(self.inside, offset), last])
            behind = op.max([op.sub(self.inside, offset), op.const(0)])
            yield op.gather(self.flat, ahead), op.gather(self.flat, behind)


def _wide(var: Var) -> Var:
    return op.cast(var, to=np.int64)


def count(keys: Var, shape: tuple[Var | int, ...], weights: Var | None = None) -> Var:
    """Return how often each key occurs, FP64 of `shape`; `keys`: INT64 [n], places in the flattened result.

    `weights`: FP64 [n], added up in place of the occurrences.
    """
    sizes = op.concat([op.reshape(op.const(n) if isinstance(n, int) else n, op.const([1])) for n in shape], axis=0)
    zeros = op.constant_of_shape(op.reduce_prod(sizes, axes=[0]), value=np.zeros(1))
    ones = op.constant_of_shape(op.shape(keys), value=np.ones(1)) if weights is None else weights
    return op.reshape(op.scatter_elements(zeros, keys, ones, axis=0, reduction="add"), sizes)


def key(*parts: tuple[Var, Var | int]) -> Var:
    """Return the place of (index, size) after (index, size), as in a row-major array; the first size is not used."""
    (place, _), *others = parts
    for index, size in others:
        place = op.add(op.mul(place, op.const(size) if isinstance(size, int) else size), _wide(index))
    return place

"""Grey level run length matrices (IBSI TP0I): how often level i goes on for j voxels along a direction."""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.radiomics.emphases import columns
from auscult.models.radiomics.lattice import DIRECTIONS, IN_PLANE, Lattice, count, key
from auscult.models.real import Real


def runs(lattice: Lattice) -> tuple[Real, Real, Real]:
    """Return [slice, 4, G, J] in each slice, [13, G, J] in the volume, and the run lengths [J] of their columns."""
    found = [_along(lattice, lattice.offset(step)) for step in DIRECTIONS]
    lengths, column = columns(op.concat([length for _, _, length in found], axis=0))
    width = op.size(lengths.var)
    bins = op.add(lattice.grey, op.const(1))
    slices, across, start = [], [], op.const([0])
    for number, (place, level, length) in enumerate(found):
        stop = op.add(start, op.shape(length))
        here = op.slice(column, start, stop)
        start = stop
        if number < len(IN_PLANE):
            where_to = key((op.div(place, lattice.plane), 0), (level, bins), (here, width))
            slices.append(op.unsqueeze(count(where_to, (lattice.slices, bins, width)), op.const([1])))
        else:
            where_to = key((level, 0), (here, width))
            across.append(op.unsqueeze(count(where_to, (bins, width)), op.const([0])))
    in_plane = without_level_0(op.concat(slices, axis=1))
    volume = without_level_0(op.concat(across, axis=0))
    return in_plane, Real(op.concat([in_plane.sum(0).var, volume.var], axis=0)), lengths


def _along(lattice: Lattice, offset: Var) -> tuple[Var, Var, Var]:
    """Return each run's place in the flat array, level and length, INT64 [runs] each, and one more of level 0.

    Read in steps of `offset`, the flat array has each run's voxels one after the other, and the border between runs.
    """
    one = op.const([1])
    step = op.reshape(offset, one)
    rows = op.div(op.add(op.shape(lattice.flat), op.sub(step, one)), step)
    rest = op.sub(op.mul(rows, step), op.shape(lattice.flat))
    nothing = np.int32(0)
    full = op.pad(lattice.flat, op.concat([op.const([0]), rest], axis=0), op.const(nothing))
    stepped = op.reshape(op.transpose(op.reshape(full, op.concat([rows, step], axis=0)), perm=[1, 0]), op.const([-1]))
    before = op.slice(op.concat([op.const([nothing]), stepped], axis=0), op.const([0]), op.const([-1]))
    # Where a run begins, or what is between runs; each goes on until the next begins.
    first = op.reshape(op.non_zero(op.not_(op.equal(stepped, before))), op.const([-1]))
    following = op.slice(op.concat([first, op.shape(stepped)], axis=0), one, op.const([np.iinfo(np.int64).max]))
    level = op.cast(op.gather(stepped, first), to=np.int64)
    # What is between runs has level 0, which is not counted, and must not make columns of its own lengths.
    length = op.where(op.greater(level, op.const(0)), op.sub(following, first), op.const(1))
    place = op.add(op.mul(op.mod(first, rows), step), op.div(first, rows))
    none = op.const([0])  # at the border; so that there always is something to count
    return (
        op.concat([place, none], axis=0),
        op.concat([level, none], axis=0),
        op.concat([length, one], axis=0),
    )


def without_level_0(counts: Var) -> Real:
    """Drop the first of the matrices' rows, [..., G + 1, J]: what is not in the region."""
    return Real(op.slice(counts, op.const([1]), op.const([np.iinfo(np.int64).max]), op.const([-2])))

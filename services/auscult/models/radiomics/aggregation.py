"""How a region's matrices are brought together: averaged over slices and directions, or merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.real import Real, where


def directional(in_plane: Real, volume: Real) -> list[Real]:
    """Return the matrices, [M, ., .], of each of DIRECTIONAL from [slice, 4, ., .] and [13, ., .]."""
    shape = op.shape(in_plane.var)
    flat = op.concat([op.const([-1]), op.slice(shape, op.const([2]), op.const([4]))], axis=0)
    along = in_plane.sum(0)
    each = Real(op.reshape(in_plane.var, flat))
    return [each, in_plane.sum(1), along, _merged(along), volume, _merged(volume)]


def undirected(in_plane: Real, volume: Real) -> list[Real]:
    """Return the matrices, [M, ., .], of each of UNDIRECTED from [slice, ., .] each."""
    return [in_plane, _merged(in_plane), _merged(volume)]


def _merged(matrices: Real) -> Real:
    return Real(op.unsqueeze(matrices.sum(0).var, op.const([0])))


def stack(ways: Sequence[Real]) -> Real:
    """Put the matrices of all `ways` one after the other."""
    return Real(op.concat([way.var for way in ways], axis=0))


def averaged(ways: Sequence[Real], formula: Callable[[Real], list[Real]]) -> Var:
    """Return the F features of each of `ways` ([M, ...]), averaged over its matrices: [ways * F].

    `formula` gives each feature as [M] for all of them at once. A matrix without an entry, NaN, does not count.
    """
    values = Real(op.concat([feature.column(1).var for feature in formula(stack(ways))], axis=1))
    valid = values.equals(values)
    known, number = where(valid, values, 0), Real.of(valid)
    means, start = [], op.const([0])
    for way in ways:
        stop = op.add(start, op.slice(op.shape(way.var), op.const([0]), op.const([1])))
        total, count = (Real(op.slice(each.var, start, stop)).sum(0) for each in (known, number))
        means.append((total / count).var)
        start = stop
    return op.concat(means, axis=0)

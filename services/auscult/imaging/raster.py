"""Polygons to pixels: a pixel belongs to a shape when its centre does, by the even-odd rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fill(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the `(y, x)` mask of closed polygons, each `(n, 2)` points (x, y) in pixels.

    All polygons count together, so an inner one is a hole and one inside that an island; a keyhole's two
    coincident edges cancel. Centres on a left or upper edge are inside, on a right or lower edge outside: shapes
    that share an edge share no pixel. Scanline algorithm, all edges of all rows at once.
    """
    rows, columns = shape
    start = np.concatenate([*polygons, np.empty((0, 2))])
    end = np.concatenate([*(np.roll(polygon, -1, axis=0) for polygon in polygons), np.empty((0, 2))])
    # Each edge runs downwards, so that the two directions of a keyhole's edge cross a row at the same number.
    upwards = start[:, 1] > end[:, 1]
    start[upwards], end[upwards] = end[upwards], start[upwards]
    first = np.clip(np.ceil(start[:, 1]), 0, rows).astype(int)
    last = np.clip(np.ceil(end[:, 1]), 0, rows).astype(int)
    crossed = last - first
    edge = np.repeat(np.arange(len(start)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    along = (row - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + along * (end[edge, 0] - start[edge, 0])
    column = np.clip(np.ceil(x), 0, columns).astype(int)
    toggles = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    inside: NDArray[np.bool_] = np.cumsum(toggles.reshape(rows, columns + 1), axis=1)[:, :-1] % 2 == 1
    return inside

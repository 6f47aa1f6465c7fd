"""A region's outline on one slice, along the edges of its pixels."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Region

Corner = tuple[int, int]
Polygon = tuple[tuple[float, float], ...]


def outline(region: Region, slice_index: int) -> tuple[Polygon, ...]:
    """Return closed polygons, points (x, y) in pixels of the whole slice; none where the region is not on it.

    `slice_index` counts the volume's slices. Outer boundaries and holes are separate polygons of opposite
    direction; filled by the even-odd rule they give the mask back exactly. Pixels that touch at a corner alone
    are outlined apart. The last point is not repeated.
    """
    plane = slice_index - region.offset[0]
    if not 0 <= plane < len(region.mask):
        return ()
    _, top, left = region.offset
    after = _edges(region.mask[plane])
    polygons = []
    while after:
        corners = _loop(after)
        polygons.append(tuple((x + left - 0.5, y + top - 0.5) for y, x in corners))
    return tuple(polygons)


def _edges(mask: NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Return the directed edges between inside and outside, by where they start; inside is on their right.

    Corner (y, x) is the upper left one of pixel (y, x), seen with y downwards.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    across = np.diff(padded, axis=0)[:, 1:-1]
    down = np.diff(padded, axis=1)[1:-1]
    after: defaultdict[Corner, list[Corner]] = defaultdict(list)
    for y, x in np.argwhere(across).tolist():
        ends = ((y, x), (y, x + 1))
        start, end = ends if across[y, x] > 0 else ends[::-1]
        after[start].append(end)
    for y, x in np.argwhere(down).tolist():
        ends = ((y, x), (y + 1, x))
        start, end = ends if down[y, x] < 0 else ends[::-1]
        after[start].append(end)
    return dict(after)


def _loop(after: dict[Corner, list[Corner]]) -> list[Corner]:
    """Take one closed loop out of `after`; return the corners at which it turns."""
    start = min(after)
    corner, heading = start, (0, 0)
    turns: list[Corner] = []
    while corner in after:
        following = after[corner]
        # Where two pixels touch at a corner two edges leave it: turning right stays with the pixel we came along.
        right = (corner[0] + heading[1], corner[1] - heading[0])
        step = following.pop(following.index(right) if right in following else 0)
        if not following:
            del after[corner]
        direction = (step[0] - corner[0], step[1] - corner[1])
        if direction != heading:
            turns.append(corner)
        corner, heading = step, direction
        if corner == start:
            break
    return turns

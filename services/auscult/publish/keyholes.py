"""Outlines with holes as single contours: a channel without width leads from each hole to what surrounds it."""

from __future__ import annotations

from collections.abc import Sequence

from auscult.imaging.contours import Polygon

Point = tuple[float, float]


def joined(polygons: Sequence[Polygon]) -> list[Polygon]:
    """Join each hole with the polygon around it; `polygons` are `contours.outline`'s of one slice.

    Channels run along rows of pixel edges, half a pixel from every centre, so that no reader's rounding makes a
    difference. The holes furthest left are joined first: what is left of the others is then joined already.
    """
    outer = [list(polygon) for polygon in polygons if _area(polygon) > 0]
    holes = [list(polygon) for polygon in polygons if _area(polygon) < 0]
    for hole in sorted(holes, key=min):
        start = hole.index(min(hole))
        around, place, entry = _left_of(hole[start], outer)
        tour = [*hole[start:], *hole[:start], hole[start]]
        # An entry that is a corner already is passed twice: once on the way in, once on the way out.
        outer[around][place + 1 : place + 1] = [entry, *tour, entry]
        outer[around] = _without_repeats(outer[around])
    return [tuple(polygon) for polygon in outer]


def _area(polygon: Sequence[Point]) -> float:
    """Return twice the signed area: positive for outer boundaries, as `outline` goes round them."""
    following = [*polygon[1:], polygon[0]]
    return sum(x * y1 - x1 * y for (x, y), (x1, y1) in zip(polygon, following, strict=True))


def _left_of(corner: Point, polygons: Sequence[Sequence[Point]]) -> tuple[int, int, Point]:
    """Return the nearest edge to the left of `corner` at its height: polygon, edge, and the point on the edge."""
    x, y = corner
    best: tuple[float, int, int] | None = None
    for number, polygon in enumerate(polygons):
        for edge, (start, end) in enumerate(zip(polygon, [*polygon[1:], polygon[0]], strict=True)):
            if start[0] == end[0] < x and min(start[1], end[1]) <= y <= max(start[1], end[1]):
                best = max(best or (start[0], number, edge), (start[0], number, edge))
    if best is None:
        raise ValueError("a hole needs a polygon around it")
    at, number, edge = best
    return number, edge, (at, y)


def _without_repeats(polygon: list[Point]) -> list[Point]:
    """Leave out points that equal the one before: an entry at a corner."""
    return [point for index, point in enumerate(polygon) if point != polygon[index - 1]]

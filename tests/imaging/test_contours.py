"""Outlines follow the pixels they enclose."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from auscult.domain.volume import Geometry, Region, RegionSource
from auscult.imaging.contours import outline
from auscult.imaging.raster import fill

SHAPE = (3, 12, 11)
GEOMETRY = Geometry(np.zeros(3), np.eye(3)[::-1], np.ones(3), SHAPE)
SOURCE = RegionSource("model", "test")


def signed_area(polygon: tuple[tuple[float, float], ...]) -> float:
    """Return a polygon's area by the shoelace formula, negative where it runs the other way round."""
    x, y = np.array(polygon).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def region(plane: np.ndarray, top: int = 2, left: int = 3) -> Region:
    """Return a region on slice 1 with its first pixel at (top, left)."""
    return Region(plane[None].astype(bool), (1, top, left), GEOMETRY, SOURCE)


def test_one_pixel_is_a_square_around_its_centre() -> None:
    """Pixel (x 3, y 2) reaches half a pixel to each side."""
    (polygon,) = outline(region(np.ones((1, 1))), 1)
    assert set(polygon) == {(2.5, 1.5), (3.5, 1.5), (3.5, 2.5), (2.5, 2.5)}
    assert signed_area(polygon) == 1


def test_a_straight_edge_has_two_points() -> None:
    """Points in the middle of an edge are left out."""
    assert [len(polygon) for polygon in outline(region(np.ones((4, 6))), 1)] == [4]


def test_a_hole_is_a_polygon_of_its_own() -> None:
    """It runs the other way round."""
    plane = np.ones((5, 5))
    plane[1:4, 1:3] = 0
    assert sorted(signed_area(polygon) for polygon in outline(region(plane), 1)) == [-6, 25]


def test_pixels_that_touch_at_a_corner_are_apart() -> None:
    """A checkerboard is as many squares as it has pixels."""
    assert [signed_area(polygon) for polygon in outline(region(np.indices((4, 4)).sum(axis=0) % 2), 1)] == [1] * 8


def test_other_slices_have_no_outline() -> None:
    """Slices count in the volume, not in the region's box."""
    assert outline(region(np.ones((2, 2))), 0) == outline(region(np.ones((2, 2))), 2) == ()


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))).filter(np.any))
def test_an_outline_that_is_filled_is_the_region(plane: np.ndarray) -> None:
    """Whatever the shape; and the areas, holes negative, add up to the number of pixels."""
    polygons = outline(region(plane), 1)
    expected = np.zeros(SHAPE[1:], bool)
    expected[2 : 2 + plane.shape[0], 3 : 3 + plane.shape[1]] = plane
    assert np.array_equal(fill([np.array(polygon) for polygon in polygons], SHAPE[1:]), expected)
    assert sum(map(signed_area, polygons)) == plane.sum()

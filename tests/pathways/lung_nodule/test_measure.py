"""Diameters and density of regions of known shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.domain.volume import Geometry, Region, RegionSource, Volume
from auscult.pathways.lung_nodule.fleischner import Appearance
from auscult.pathways.lung_nodule.measure import density, size

SOURCE = RegionSource("model", "test")


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Geometry:
    """Return an axial grid."""
    return Geometry(np.zeros(3), np.eye(3)[::-1].copy(), np.array(spacing), shape)


def ellipsoid(radii: tuple[float, float, float], spacing: tuple[float, float, float], turn: float = 0.0) -> Region:
    """Return the voxels whose centres lie in an ellipsoid with radii (z, y, x) in mm, turned in the slice plane."""
    shape = tuple(int(2 * max(radii) / step) + 5 for step in spacing)
    geometry = grid(shape, spacing)  # type: ignore[arg-type]
    z, y, x = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True))
    across = x[None, None] * np.cos(turn) + y[None, :, None] * np.sin(turn)
    down = -x[None, None] * np.sin(turn) + y[None, :, None] * np.cos(turn)
    inside = (z[:, None, None] / radii[0]) ** 2 + (down / radii[1]) ** 2 + (across / radii[2]) ** 2 <= 1
    return Region.of(inside, geometry, SOURCE)


@settings(max_examples=40, deadline=None)
@given(st.floats(3.5, 14), st.floats(0.6, 1.0), st.floats(0, np.pi), st.floats(0.5, 0.9))
def test_diameters_of_an_ellipse(radius: float, ratio: float, turn: float, pixel: float) -> None:
    """From 7 mm on, the longest is right within 1.25 pixels, the other within 1.75, however it is turned."""
    region = ellipsoid((radius, radius * ratio, radius), (1.0, pixel, pixel), turn)
    measured = size(region)
    assert measured.longest == pytest.approx(2 * radius, abs=1.25 * pixel)
    assert measured.perpendicular == pytest.approx(2 * radius * ratio, abs=1.75 * pixel)
    assert measured.perpendicular <= measured.longest + 1e-9


def test_one_voxel_has_a_size() -> None:
    """The smallest region still has one: its outline is a diamond inside the pixel."""
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    measured = size(Region.of(mask, grid((3, 3, 3), (2.0, 0.7, 0.7)), SOURCE))
    assert measured.longest == pytest.approx(0.7 / np.sqrt(2))
    assert measured.slice_index == 1


def test_the_slice_with_the_longest_diameter_is_named() -> None:
    """The index counts in the volume, not in the region's box."""
    mask = np.zeros((6, 9, 9), bool)
    mask[2, 4, 3:6] = True
    mask[3, 4, 2:8] = True
    assert size(Region.of(mask, grid((6, 9, 9), (1.0, 1.0, 1.0)), SOURCE)).slice_index == 3


@pytest.mark.parametrize(
    ("hu", "core", "expected"),
    [(40, 40, Appearance.SOLID), (-600, -600, Appearance.NONSOLID), (-600, 20, Appearance.PART_SOLID)],
)
def test_appearance_from_density(hu: int, core: int, expected: Appearance) -> None:
    """Solid, ground glass, and ground glass around a solid core are told apart."""
    region = ellipsoid((6, 6, 6), (1.0, 0.8, 0.8))
    image = np.full(region.geometry.shape, -850, np.int16)
    image[region.box][region.mask] = hu
    middle = tuple(slice(n // 2 - 2, n // 2 + 3) for n in image.shape)
    image[middle] = core
    found = density(Volume(image, region.geometry, "1.2", ()), region)
    assert found.appearance is expected
    assert (found.solid_diameter is not None) == (expected is Appearance.PART_SOLID)

"""The coarse search for the lungs."""

from __future__ import annotations

import numpy as np
import pytest

from auscult.domain.volume import Geometry, Volume
from auscult.pathways.lung_nodule.lungs import find_lungs

SPACING = np.array([2.0, 2.0, 2.0])


def chest(*, cut: bool = False, lungs: bool = True) -> Volume:
    """Return a body of water in air, with two ellipsoids of lung; `cut` leaves the upper half of them out."""
    shape = (60, 100, 140) if cut else (120, 100, 140)
    geometry = Geometry(np.array([0.0, 0.0, -140.0]), np.eye(3)[::-1].copy(), SPACING, shape)
    z, y, x = np.meshgrid(*[np.arange(n) * 2.0 for n in shape], indexing="ij")
    hu = np.full(shape, -1000, np.int16)
    hu[((y - 100) / 80) ** 2 + ((x - 140) / 120) ** 2 < 1] = 30
    if lungs:
        for middle in (80.0, 200.0):
            hu[((z - 120) / 90) ** 2 + ((y - 100) / 50) ** 2 + ((x - middle) / 40) ** 2 < 1] = -850
    return Volume(hu, geometry, "1.2", tuple("1.2.3" for _ in range(shape[0])))


def test_the_box_holds_both_lungs_and_not_the_room() -> None:
    """Air around the body is not lung; the box has a margin around what is."""
    found = find_lungs(chest())
    assert found is not None
    z, y, x = found.box
    assert z.start * 2 <= 30
    assert z.stop * 2 >= 210
    assert x.start * 2 <= 40
    assert x.stop * 2 >= 240
    assert y.start > 0
    assert y.stop < 100
    assert found.whole


def test_sides_and_heights_are_the_patients() -> None:
    """In LPS x grows to the patient's left; height runs from the base to the apex."""
    found = find_lungs(chest())
    assert found is not None
    assert found.side(np.array([80.0, 100.0, 0.0])) == "right"
    assert found.side(np.array([200.0, 100.0, 0.0])) == "left"
    low, high = (found.height(np.array([80.0, 100.0, z])) for z in (-100.0, 60.0))
    assert low == pytest.approx(0.05, abs=0.06)
    assert high == pytest.approx(0.94, abs=0.06)


def test_heights_mean_nothing_where_the_scan_cuts_the_lungs() -> None:
    """Without the apex in view nobody can say how high a place lies."""
    found = find_lungs(chest(cut=True))
    assert found is not None
    assert not found.whole
    assert found.height(np.array([80.0, 100.0, 0.0])) is None


def test_a_body_without_lungs_has_none() -> None:
    """An abdomen is not mistaken for a chest."""
    assert find_lungs(chest(lungs=False)) is None

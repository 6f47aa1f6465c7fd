"""The phantom's anatomy: the same by seed, made of the right tissues, with a nodule that is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auscult.domain.volume import Geometry
from auscult.imaging.phantom.anatomy import Phantom, box, chest, cube, grown

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def person() -> Phantom:
    """Return a chest with a solid nodule of 14 mm."""
    return chest(3, diameter_mm=14.0, kind="solid", side="right", upper_lobe=True, spiculated=False)


@pytest.fixture(scope="module")
def coarse(person: Phantom) -> tuple[Geometry, np.ndarray]:
    """Return the whole chest on a coarse grid."""
    grid = person.grid(pixels=112, pixel_mm=3.0, slice_mm=5.0)
    return grid, person.render(grid)


def at(phantom: Phantom, x: float, y: float, z: float) -> float:
    """Return the median HU of 5 mm about a place in the canonical chest."""
    return float(np.median(phantom.render(cube(np.array((x, y, z)) * phantom.thorax.scale, 5.0, (1.0, 1.0, 1.0)))))


def test_the_same_seed_draws_the_same_chest() -> None:
    """Two draws give equal truth and voxels; another seed does not."""
    first, second, other = chest(11), chest(11), chest(12)
    assert first.truth == second.truth
    assert first.truth != other.truth
    place = cube((60.0, 0.0, 0.0), 40.0, (2.0, 2.0, 2.0))
    assert np.array_equal(first.render(place), second.render(place))
    assert not np.array_equal(first.render(place), other.render(place))


@pytest.mark.parametrize(
    ("place", "low", "high"),
    [
        ((60.0, -30.0, 40.0), -900, -800),
        ((20.0, -26.0, -50.0), 40, 50),
        ((-62.0, -8.0, -100.0), 50, 60),
        ((0.0, 67.0, 0.0), 60, 350),
        ((0.0, 24.0, 80.0), -1000, -900),
        ((0.0, 0.0, 80.0), -110, 60),
        ((0.0, 89.0, 0.0), 20, 100),
    ],
    ids=["lung", "heart", "liver", "vertebra", "trachea", "mediastinum", "cord"],
)
def test_each_tissue_has_its_hu(place: tuple[float, float, float], low: float, high: float) -> None:
    """Where an organ is, the HU are its own."""
    assert low <= at(chest(3, with_nodule=False), *place) <= high


def test_the_chest_has_the_proportions_of_a_chest(person: Phantom, coarse: tuple[Geometry, np.ndarray]) -> None:
    """Two lungs of litres, the left the smaller; bone, fat and muscle all around; the back lung the denser."""
    grid, hu = coarse
    x, y, z = np.moveaxis(grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1)), -1, 0)
    litres = (person.thorax.lung(x, y, z) < 0) * grid.voxel_volume / 1e6
    right, left = litres[x < 0].sum(), litres[x > 0].sum()
    assert 1.2 < left < right < 3.6
    assert (hu > 300).mean() > 0.005
    assert 0.02 < (np.abs(hu + 105) < 5).mean() < 0.3
    assert 0.05 < (np.abs(hu - 52) < 5).mean() < 0.5
    inside = (person.thorax.lung(x, y, z) < -5) & (hu < -800)
    assert 5 < hu[inside & (y > 40)].mean() - hu[inside & (y < -40)].mean() < 40


def test_vessels_branch_and_taper(person: Phantom) -> None:
    """Hundreds of segments, from the hilum's millimetres to the periphery's tenths."""
    radii = person.vessels.r1
    assert len(radii) > 300
    assert radii.max() > 2.5
    assert radii.min() < 0.7


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    diameter=st.floats(4, 25),
    side=st.sampled_from(["left", "right"]),
    upper=st.booleans(),
    kind=st.sampled_from(["solid", "part_solid", "nonsolid"]),
)
def test_the_truth_is_what_was_asked(seed: int, diameter: float, side: str, *, upper: bool, kind: str) -> None:
    """The nodule has the size, type and lobe that were asked for, and lies in the lung."""
    phantom = chest(seed, diameter_mm=diameter, kind=kind, side=side, upper_lobe=upper)
    truth = phantom.truth
    assert truth is not None
    assert truth.diameter_mm == pytest.approx(diameter, abs=0.01)
    assert 0.6 * diameter < truth.perpendicular_mm <= truth.diameter_mm
    assert (truth.type, truth.side, truth.upper_lobe) == (kind, side, upper)
    assert (truth.centre[0] > 0) == (side == "left")
    assert phantom.thorax.lung(*truth.centre) < -truth.diameter_mm / 2


@pytest.mark.parametrize("juxtapleural", [False, True])
def test_the_mask_measures_what_the_truth_says(*, juxtapleural: bool) -> None:
    """Voxels on a fine grid have the truth's volume and longest axial diameter."""
    phantom = chest(5, diameter_mm=12.0, juxtapleural=juxtapleural)
    truth = phantom.truth
    assert truth is not None
    region = phantom.region(cube(truth.centre, 24.0, (0.4, 0.4, 0.4)))
    assert region.volume == pytest.approx(truth.volume_mm3, rel=0.01)
    longest = 0.0
    for plane in region.mask:
        points = np.argwhere(plane) * 0.4
        edge = points[:: max(1, len(points) // 300)]
        if len(edge):
            longest = max(longest, float(np.linalg.norm(edge[:, None] - edge, axis=-1).max()))
    assert longest == pytest.approx(truth.diameter_mm, abs=0.8)
    assert (truth.diameter_mm < 11.9) == juxtapleural


def test_nodule_types_differ_in_density() -> None:
    """A solid nodule is soft tissue, ground glass lets the lung shine through, a part-solid one has both."""
    middle = {}
    for kind in ("solid", "part_solid", "nonsolid"):
        phantom = chest(8, diameter_mm=18.0, kind=kind, spiculated=False)
        region = phantom.region(cube(phantom.truth.centre, 30.0, (1.0, 1.0, 1.0)))
        hu = phantom.render(region.geometry)[region.box][region.mask]
        middle[kind] = np.percentile(hu, (20, 95))
    assert middle["solid"][0] > -50
    assert middle["nonsolid"][0] < -450
    assert middle["part_solid"][0] < -450
    assert middle["part_solid"][1] > -20


def test_a_part_shows_what_the_whole_shows(person: Phantom) -> None:
    """A rendered box equals the same voxels of a larger render."""
    whole = cube((50.0, 0.0, 0.0), 60.0, (2.0, 1.5, 1.5))
    corner = whole.to_patient((8, 10, 6))
    part = box(tuple(corner), (2.0, 1.5, 1.5), (12, 16, 20))
    assert np.abs(person.render(whole)[8:20, 10:26, 6:26] - person.render(part)).max() < 0.5


def test_impossible_requests_are_refused(person: Phantom) -> None:
    """Sizes, types and grids that no phantom has are named."""
    with pytest.raises(ValueError, match="4 to 25 mm"):
        chest(1, diameter_mm=40)
    with pytest.raises(ValueError, match="kind is one of"):
        chest(1, kind="calcified")
    with pytest.raises(ValueError, match="no nodule"):
        chest(1, with_nodule=False).region(cube((0.0, 0.0, 0.0), 10.0, (1.0, 1.0, 1.0)))
    grid = cube((0.0, 0.0, 0.0), 10.0, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="axial supine"):
        person.render(Geometry(grid.origin, np.eye(3), grid.spacing, grid.shape))


def test_a_nodule_grows_as_it_is_told() -> None:
    """Its volume doubles in the doubling time, all else stays; what would be too large is refused."""
    person = chest(5, kind="solid", diameter_mm=9.0)
    later = grown(person, 300, 150.0)
    assert person.truth is not None
    assert later.truth is not None
    assert later.truth.volume_mm3 == pytest.approx(4 * person.truth.volume_mm3, rel=0.01)
    assert (later.truth.centre, later.truth.type) == (person.truth.centre, person.truth.type)
    with pytest.raises(ValueError, match="beyond 25 mm"):
        grown(person, 3000, 150.0)
    with pytest.raises(ValueError, match="no nodule"):
        grown(chest(5, with_nodule=False), 300, 150.0)

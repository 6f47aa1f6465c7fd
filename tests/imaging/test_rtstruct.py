"""What a person drew becomes the voxels inside, or is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from auscult.domain.study import Study
from auscult.imaging.raster import fill
from auscult.platform.errors import DeadLetter
from dicom_factory import ct_series, structure_set

Load = Callable[[Iterable[Dataset | bytes]], Study]
REAL = Path(__file__).parents[3] / "shared/data/lung_ct_with_gtv"
SHAPE, SPACING, ORIGIN = (20, 40, 44), (2.0, 1.0, 1.0), np.array([-20.0, -30.0, 40.0])
SLICES = ct_series(SHAPE, SPACING, hu=np.zeros(SHAPE, np.int16))


def on_slice(index: float, polygon: Sequence[Sequence[float]], origin: np.ndarray = ORIGIN) -> np.ndarray:
    """Return a contour, `(n, 3)` LPS in mm, from points (x, y) in mm on an axial slice of `SLICES`."""
    points = np.asarray(polygon, float)
    return origin + np.column_stack([points, np.full(len(points), index * SPACING[0])])


def circle(x: float, y: float, radius: float, count: int = 90) -> np.ndarray:
    """Return a polygon around (x, y)."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)])


def area(polygon: np.ndarray) -> float:
    """Return a polygon's area by the shoelace formula."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def slow_fill(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the even-odd mask by testing each pixel's centre against each edge."""
    mask = np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            crossings = 0
            for polygon in polygons:
                for pair in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                    # Downwards, as `fill` has them: the other way round a centre on the edge may be rounded off it.
                    (x0, y0), (x1, y1) = sorted(pair, key=lambda point: point[1])
                    if (y0 <= row) != (y1 <= row):
                        crossings += x0 + (row - y0) / (y1 - y0) * (x1 - x0) <= column
            mask[row, column] = crossings % 2
    return mask


POINTS = st.tuples(st.floats(-2, 9).map(lambda v: round(v, 2)), st.floats(-2, 9).map(lambda v: round(v, 2)))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(POINTS, min_size=3, max_size=7).map(np.array), min_size=0, max_size=3))
def test_pixels_are_inside_by_the_even_odd_rule(polygons: list[np.ndarray]) -> None:
    """Any polygons, crossing themselves or leaving the image, give what a test of each pixel gives."""
    assert np.array_equal(fill(polygons, (7, 8)), slow_fill(polygons, (7, 8)))


def test_shapes_that_share_an_edge_share_no_pixel() -> None:
    """Two halves of a square, cut through pixel centres, cover each pixel once."""
    left = np.array([[1, 1], [4, 1], [4, 6], [1, 6]], float)
    right = np.array([[4, 1], [7, 1], [7, 6], [4, 6]], float)
    one, other = fill([left], (8, 8)), fill([right], (8, 8))
    assert not (one & other).any()
    assert one.sum() + other.sum() == 6 * 5


def test_a_sphere_has_its_volume(load: Load) -> None:
    """Circles on slices give the sphere within 2 %, at its centre, under the ROI's name."""
    radius = 12.0
    contours = [
        on_slice(z, circle(20, 18, math.sqrt(radius**2 - (2 * (z - 9)) ** 2)))
        for z in range(4, 15)
        if z not in {3, 15}
    ]
    structures = structure_set(SLICES, {"GTV-1": contours})
    (region,) = load([*SLICES, structures]).regions
    assert region.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02)
    assert region.centroid == pytest.approx(ORIGIN + np.array([20, 18, 18]), abs=0.1)
    assert (region.source.kind, region.source.name) == ("rtstruct", "GTV-1")
    assert region.source.sop_instance_uid == structures.SOPInstanceUID


def test_a_ring_with_an_island_keeps_its_hole(load: Load) -> None:
    """Contours within contours are holes, and islands within those."""
    rings = [circle(20, 18, 14, 180), circle(20, 18, 9, 180), circle(20, 18, 4, 180)]
    (region,) = load([*SLICES, structure_set(SLICES, {"ring": [on_slice(5, ring) for ring in rings]})]).regions
    expected = area(rings[0]) - area(rings[1]) + area(rings[2])
    assert region.volume == pytest.approx(expected * SPACING[0], rel=0.02)
    z, y, x = region.box
    assert z == slice(5, 6)
    assert region.mask[0, 18 - y.start, 20 - x.start]
    assert not region.mask[0, 18 - y.start, 20 + 6 - x.start]


def test_a_keyhole_is_a_ring(load: Load) -> None:
    """A hole drawn as one contour with a channel, here through pixel centres, leaves no trace of the channel."""
    outer = [(5, 5), (25, 5), (25, 25), (5, 25), (5, 15)]
    inner = [(10, 15), (10, 20), (20, 20), (20, 10), (10, 10), (10, 15)]
    keyhole = [*outer, *inner, (5, 15)]
    (region,) = load([*SLICES, structure_set(SLICES, {"ring": [on_slice(3, keyhole)]})]).regions
    square = np.ones((20, 20), bool)
    square[5:15, 5:15] = False
    assert np.array_equal(region.mask[0], square)


@pytest.mark.parametrize("orientation", [(0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, -0.48, 0.64, 0.6)])
def test_contours_follow_the_series_orientation(load: Load, orientation: tuple[float, ...]) -> None:
    """A structure set on sagittal or oblique slices lands on the same voxels as on axial ones."""
    slices = ct_series(SHAPE, SPACING, hu=np.zeros(SHAPE, np.int16), orientation=orientation)
    row, column = np.reshape(orientation, (2, 3))
    to_patient = np.array([row, column, np.cross(row, column)])
    polygon = circle(20.3, 18.1, 9)
    contour = ORIGIN + on_slice(7, polygon, np.zeros(3)) @ to_patient
    (region,) = load([*slices, structure_set(slices, {"GTV": [contour]})]).regions
    expected = np.zeros(SHAPE, bool)
    expected[7] = slow_fill([polygon], SHAPE[1:])
    assert np.array_equal(region.mask, expected[region.box])
    assert region.mask.sum() == expected.sum()


def test_all_structures_come_with_their_names(load: Load) -> None:
    """ROIs that enclose no voxel, and those that are points, are left out; the rest keep their order."""
    rois = {
        "Heart": [on_slice(2, circle(10, 10, 5))],
        "empty": [],
        "tiny": [on_slice(2, circle(10.5, 10.5, 0.2))],
        "GTV": [on_slice(4, circle(30, 20, 4))],
        "isocentre": [on_slice(3, [(1, 1)])],
    }
    structures = structure_set(SLICES, rois)
    structures.ROIContourSequence[4].ContourSequence[0].ContourGeometricType = "POINT"
    assert [region.source.name for region in load([*SLICES, structures]).regions] == ["Heart", "GTV"]


def test_what_lies_beside_the_image_is_cut_off(load: Load) -> None:
    """A body outline that leaves the image is filled within it."""
    body = [(-10, -10), (100, -10), (100, 100), (-10, 100)]
    (region,) = load([*SLICES, structure_set(SLICES, {"BODY": [on_slice(1, body)]})]).regions
    assert region.mask.shape == (1, *SHAPE[1:])
    assert region.mask.all()


CONTOUR = [on_slice(5, circle(20, 18, 8))]


def malformed() -> Dataset:
    """Return a structure set with a contour of two and a half points."""
    structures = structure_set(SLICES, {"GTV": CONTOUR})
    structures.ROIContourSequence[0].ContourSequence[0].ContourData = [1, 2, 3, 4, 5]
    return structures


def on_a_missing_slice() -> Dataset:
    """Return a structure set whose contour refers to an image that is not there."""
    structures = structure_set(SLICES, {"GTV": CONTOUR})
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    structures.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]
    return structures


@pytest.mark.parametrize(
    ("reason", "structures"),
    [
        ("rtstruct-other-series", structure_set(SLICES, {"GTV": CONTOUR}, series_uid="1.2.3")),
        ("rtstruct-other-series", structure_set(SLICES, {"GTV": CONTOUR}, frame_of_reference_uid="1.2.3")),
        ("rtstruct-between-slices", structure_set(SLICES, {"GTV": [on_slice(5.5, circle(20, 18, 8))]})),
        ("rtstruct-missing-slices", structure_set(SLICES, {"GTV": [on_slice(-1, circle(20, 18, 8))]})),
        ("rtstruct-missing-slices", on_a_missing_slice()),
        ("rtstruct-malformed", malformed()),
    ],
)
def test_a_structure_set_that_does_not_fit_is_named(load: Load, reason: str, structures: Dataset) -> None:
    """No region is made up from contours that belong elsewhere."""
    with pytest.raises(DeadLetter) as caught:
        load([*SLICES, structures])
    assert caught.value.reason == reason


def test_a_structure_set_on_another_series_of_the_study_is_left_out(load: Load) -> None:
    """Two series, each with its structures: those of the chosen one count."""
    other = ct_series((5, 8, 8), study_uid=SLICES[0].StudyInstanceUID, series_uid=generate_uid())
    drawn = [structure_set(SLICES, {"GTV": CONTOUR}), structure_set(other, {"other": CONTOUR})]
    assert [region.source.name for region in load([*SLICES, *other, *drawn]).regions] == ["GTV"]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real CT with its RTSTRUCT is not in {REAL}")
def test_the_real_tumour_has_the_volume_that_its_contours_enclose(load: Load) -> None:
    """Within 2 % of the contours' area times the distance of the slices, on a real chest CT."""
    files = [path.read_bytes() for path in sorted(REAL.rglob("*.dcm"))]
    (region,) = load(files).regions
    structures = dcmread(next((REAL / "mask").iterdir()))
    enclosed = sum(
        area(np.array(contour.ContourData, float).reshape(-1, 3)[:, :2]) * 3.0
        for contour in structures.ROIContourSequence[0].ContourSequence
    )
    assert region.source.name == "GTV-1"
    assert region.volume == pytest.approx(enclosed, rel=0.02)

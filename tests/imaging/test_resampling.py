"""Slices that make no regular grid are resampled to one where that is declared, and keep their places."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from auscult.domain.volume import Region, RegionSource, Volume
from auscult.imaging import part10
from auscult.imaging.filling import Reading, filled
from auscult.imaging.header import InstanceHeader
from auscult.imaging.rtstruct import rtstruct_regions
from auscult.imaging.seg import seg_regions
from auscult.imaging.slices import stack
from auscult.platform.errors import DeadLetter
from auscult.publish.dicom_rtstruct import Structure, write_rtstruct
from auscult.publish.dicom_seg import Segment, write_seg
from dicom_factory import ct_series, encode

SHAPE = (6, 14, 12)
UIDS = {"sop_instance_uid": "2.25.1", "series_uid": "2.25.2", "made": datetime(2026, 1, 31, tzinfo=UTC)}


def lying(shifts: Sequence[Sequence[float]], heights: Sequence[float], axes: np.ndarray) -> list[Dataset]:
    """Return slices at `heights` mm, shifted by (x, y) mm in their planes, that hold a linear function of LPS."""
    slices = ct_series((len(heights), *SHAPE[1:]), (2.0, 0.8, 0.7), orientation=[*axes[0], *axes[1]])
    columns, rows = np.meshgrid(np.arange(SHAPE[2]) * 0.7, np.arange(SHAPE[1]) * 0.8)
    for each, (across, down), height in zip(slices, shifts, heights, strict=True):
        origin = np.array([-20.0, -30.0, 40.0]) + across * axes[0] + down * axes[1] + height * axes[2]
        each.ImagePositionPatient = [f"{value:.10f}" for value in origin]
        place = origin + columns[..., None] * axes[0] + rows[..., None] * axes[1]
        each.PixelData = (1000 + np.rint(field(place))).astype("<u2").tobytes()
        each.RescaleIntercept = -1000
    return slices


def field(place: np.ndarray) -> np.ndarray:
    """Return the value at LPS positions, `(..., 3)`: linear, so that linear interpolation gives it back."""
    values: np.ndarray = place @ np.array([9.0, -7.0, 5.0]) + 300
    return values


def read(slices: Sequence[Dataset]) -> Volume:
    """Read slices as they may be."""
    files = {each.SOPInstanceUID: part10.read(encode(each)) for each in slices}
    stacked = stack([InstanceHeader.of(file) for file in files.values()], resample=True)
    return filled(stacked, files, Reading(resample=True))


TURN = Rotation.from_euler("xyz", (0.3, -0.2, 0.5)).as_matrix().T
TILT = [(0.0, 0.37 * index) for index in range(6)]
UNEVEN = [0.0, 2.0, 4.5, 6.0, 8.7, 10.0]


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=6, max_size=6),
    st.lists(st.floats(1.6, 2.4), min_size=5, max_size=5),
)
def test_every_voxel_has_the_value_of_its_place(
    turn: tuple[float, float, float], shifts: list[tuple[float, float]], gaps: list[float]
) -> None:
    """Whatever the slices' shifts, distances and direction: a linear field comes back, or nothing is claimed."""
    axes = Rotation.from_euler("xyz", turn).as_matrix().T
    slices = lying(shifts, [0, *np.cumsum(gaps)], axes)
    volume = read(slices)
    expected = field(volume.geometry.to_patient(np.moveaxis(np.indices(volume.geometry.shape), 0, -1)))
    known = _known(volume, slices)
    assert np.abs(volume.hu - expected)[known].max() <= 1.6  # HU are whole numbers, before and after
    assert known.sum() > 50


def _known(volume: Volume, slices: Sequence[Dataset]) -> np.ndarray:
    """Return the voxels that lie inside all slices' outlines, seen along the normal."""
    geometry = volume.geometry
    corners = np.array([geometry.to_index(np.array(each.ImagePositionPatient, float))[1:] for each in slices])
    low, high = np.ceil(corners.max(axis=0) - 1e-6), np.floor(corners.min(axis=0) + 1e-6)
    high += np.array(SHAPE[1:]) - 1
    _, y, x = np.indices(geometry.shape)
    inside: np.ndarray = (y >= low[0]) & (y <= high[0]) & (x >= low[1]) & (x <= high[1])
    return inside


@pytest.mark.parametrize(
    ("shifts", "heights", "reason"),
    [(TILT, range(0, 12, 2), "gantry-tilt"), ([(0, 0)] * 6, UNEVEN, "irregular-spacing")],
)
def test_nothing_is_resampled_unless_it_is_declared(
    shifts: list[tuple[float, float]], heights: Sequence[float], reason: str
) -> None:
    """It is refused by name; where it is declared the volume says what was done."""
    slices = lying(shifts, heights, TURN)
    with pytest.raises(DeadLetter) as caught:
        stack([InstanceHeader.read(encode(each)) for each in slices])
    assert caught.value.reason == reason
    volume = read(slices)
    assert volume.resampled is not None
    assert ("10.5 degrees" if reason == "gantry-tilt" else "1.3 to 2.7 mm") in volume.resampled.how
    for index, uid in enumerate(volume.sop_instance_uids):
        image = next(each for each in slices if uid == each.SOPInstanceUID)
        y, x = volume.resampled.offsets[index]
        z = volume.geometry.to_index(np.array(image.ImagePositionPatient, float))
        assert (y, x) == pytest.approx(z[1:], abs=1e-6)
        assert abs(z[0] - index) <= 0.5 + 1e-6


def test_a_tilted_series_keeps_its_slices_planes() -> None:
    """Nothing is blended across slices: whole pixels of shift give the stored values back, air around them."""
    slices = lying([(0.0, 0.8 * index) for index in range(6)], range(0, 12, 2), np.eye(3))
    volume = read(slices)
    assert volume.geometry.shape == (6, 19, 12)
    for index, each in enumerate(slices):
        stored = np.frombuffer(each.PixelData, "<u2").reshape(SHAPE[1:]).astype(int) - 1000
        assert np.array_equal(volume.hu[index, index : index + 14], stored)
        assert (volume.hu[index, :index] == -1024).all()


def test_slices_that_are_missing_are_not_interpolated() -> None:
    """A gap of twice the distance is a missing slice, unless its slices are as thick: then it is a part apart."""
    slices = lying([(0, 0)] * 6, (0, 2, 4, 8, 12, 16), TURN)
    headers = [InstanceHeader.read(encode(each)) for each in slices]
    with pytest.raises(DeadLetter, match="missing-slices"):
        stack(headers, resample=True)
    for each in slices[3:]:
        each.SliceThickness = 4
    headers = [InstanceHeader.read(encode(each)) for each in slices]
    with pytest.raises(DeadLetter, match="irregular-spacing"):
        stack(headers)
    assert stack(headers, resample=True).geometry.spacing[0] == pytest.approx(4)
    wide = lying([(0, 0)] * 6, (0, 2, 4.5, 6, 8.7, 18), TURN)
    with pytest.raises(DeadLetter, match="irregular-spacing"):
        stack([InstanceHeader.read(encode(each)) for each in wide], resample=True)


@pytest.mark.parametrize(("shifts", "heights"), [(TILT, range(0, 12, 2)), ([(0, 0)] * 6, UNEVEN), (TILT, UNEVEN)])
def test_what_is_found_on_the_grid_is_written_where_it_is(
    shifts: list[tuple[float, float]], heights: Sequence[float], tmp_path: Path
) -> None:
    """The SEG has the grid's own frames; contours lie in the planes of the slices."""
    slices = lying(shifts, heights, TURN)
    volume = read(slices)
    mask = np.zeros(volume.geometry.shape, bool)
    mask[1:5, 4:9, 3:8] = True
    region = Region.of(mask, volume.geometry, RegionSource("model", "m", "1"))
    sources = [next(each for each in slices if each.SOPInstanceUID == uid) for uid in volume.sop_instance_uids]
    seg = write_seg([Segment(region, "a", ("m", "1"))], sources, resampled=True, **UIDS)
    (back,) = seg_regions(encode(seg), [volume.series_uid], volume, automatic=True)
    assert np.array_equal(back.mask, region.mask)
    assert back.offset == region.offset
    path = tmp_path / "seg.dcm"
    path.write_bytes(encode(seg))
    assert hd.seg.segread(path).get_volume().array.sum() == mask.sum()
    frames = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in seg.PerFrameFunctionalGroupsSequence]
    places = sorted(volume.geometry.to_index(np.array(frames, float)).tolist())
    assert np.array(places) == pytest.approx(np.array([[index, 0, 0] for index in range(1, 5)]), abs=1e-4)
    structures = write_rtstruct([Structure(region, "a", ("m", "1"))], sources, resampled=True, **UIDS)
    by_uid = {each.SOPInstanceUID: each for each in slices}
    for contour in structures.ROIContourSequence[0].ContourSequence:
        image = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        off = (points - np.array(image.ImagePositionPatient, float)) @ TURN[2]
        assert np.abs(off).max() <= 1e-3
    if heights is not UNEVEN:
        (drawn,) = rtstruct_regions(structures, [volume.series_uid], volume)
        assert np.array_equal(drawn.mask, region.mask)

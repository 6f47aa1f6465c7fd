"""A structure set gives the mask back, voxel by voxel, whoever fills its contours."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain.volume import Geometry, Region, RegionSource, Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.rtstruct import rtstruct_regions
from auscult.imaging.slices import stack
from auscult.publish.dicom_rtstruct import Structure, write_rtstruct
from dicom_factory import ct_series, encode

SHAPE = (4, 9, 11)
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, -0.48, 0.64, 0.6),
}
SERIES = {
    name: ct_series(SHAPE, (2.5, 0.7, 0.9), orientation=orientation, hu=np.zeros(SHAPE, np.int16))
    for name, orientation in ORIENTATIONS.items()
}
MASKS = st.builds(
    lambda seed, share: np.random.default_rng(seed).random(SHAPE) < share,
    st.integers(0, 2**32 - 1),
    st.floats(0.02, 0.98),
).filter(lambda mask: bool(mask.any()))


def geometry(slices: list[Dataset]) -> Geometry:
    """Return the series' grid."""
    return stack([InstanceHeader.read(encode(dataset)) for dataset in slices]).geometry


GRIDS = {name: geometry(slices) for name, slices in SERIES.items()}


def written(name: str, *masks: NDArray[np.bool_], **changes: Any) -> Dataset:
    """Return a structure set of masks, as it comes back from a file."""
    source = RegionSource("model", "contours", "1")
    structures = [
        Structure(Region.of(mask, GRIDS[name], source), f"Organ {number}", ("contours", "1"), "ORGAN", **changes)
        for number, mask in enumerate(masks, start=1)
    ]
    made = datetime(2026, 1, 31, 12, tzinfo=UTC)
    dataset = write_rtstruct(structures, SERIES[name], sop_instance_uid="2.25.1", series_uid="2.25.2", made=made)
    return dcmread(BytesIO(encode(dataset)))


def read_by_us(name: str, dataset: Dataset) -> list[NDArray[np.bool_]]:
    """Fill the contours by our own reader."""
    slices = SERIES[name]
    uids = tuple(str(each.SOPInstanceUID) for each in slices)
    volume = Volume(np.zeros(SHAPE, np.int16), GRIDS[name], str(slices[0].SeriesInstanceUID), uids)
    masks = []
    for region in rtstruct_regions(dataset, [volume.series_uid], volume):
        mask = np.zeros(SHAPE, bool)
        mask[region.box] = region.mask
        masks.append(mask)
    return masks


def winding(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return how often a polygon, points (x, y), goes round each pixel's centre: by angles, not by crossings."""
    rows, columns = np.indices(shape)
    turned = np.zeros(shape)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        ax, ay, bx, by = x0 - columns, y0 - rows, x1 - columns, y1 - rows
        turned += np.arctan2(ax * by - ay * bx, ax * bx + ay * by)
    return np.rint(turned / (2 * np.pi)).astype(int)


def read_by_another(name: str, dataset: Dataset) -> NDArray[np.bool_]:
    """Fill the first ROI as a system does that knows nothing of us: non-zero winding, each contour on its image."""
    mask = np.zeros(SHAPE, bool)
    by_uid = {each.SOPInstanceUID: (index, each) for index, each in enumerate(SERIES[name])}
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        index, image = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
        along_row, along_column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        assert np.abs(points @ np.cross(along_row, along_column)).max() < 1e-3, "the contour lies on its slice"
        pixels = np.column_stack([points @ along_row / 0.9, points @ along_column / 0.7])
        mask[index] |= winding(pixels, SHAPE[1:]) != 0
    return mask


@settings(max_examples=12, deadline=None)
@given(mask=MASKS, name=st.sampled_from(sorted(ORIENTATIONS)))
def test_any_mask_comes_back(mask: NDArray[np.bool_], name: str) -> None:
    """Holes, islands within holes, single voxels and corners that touch, on slices of any orientation."""
    dataset = written(name, mask)
    (back,) = read_by_us(name, dataset)
    assert np.array_equal(back, mask)
    assert np.array_equal(read_by_another(name, dataset), mask)


def test_a_ring_is_one_contour_and_an_island_another() -> None:
    """A hole is a keyhole: no contour lies inside another that is filled."""
    mask = np.zeros(SHAPE, bool)
    mask[1, 1:8, 1:9] = True
    mask[1, 2:7, 2:8] = False
    mask[1, 4, 5] = True
    dataset = written("axial", mask)
    contours = dataset.ROIContourSequence[0].ContourSequence
    assert [contour.NumberOfContourPoints for contour in contours] == [11, 4]
    assert {contour.ContourGeometricType for contour in contours} == {"CLOSED_PLANAR"}
    assert np.array_equal(read_by_another("axial", dataset), mask)


def test_structures_say_what_they_are_and_on_what_they_lie() -> None:
    """Name, type, code, colour, algorithm, volume; the series and each contour's image are referred to."""
    one, two = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    one[1:3, 2, 2] = two[3, 4, 4] = True
    dataset = written("axial", one, two)
    slices = SERIES["axial"]
    roi, _ = dataset.StructureSetROISequence
    assert (roi.ROIName, roi.ROIGenerationAlgorithm) == ("Organ 1", "AUTOMATIC")
    assert roi.ROIGenerationDescription == "contours 1"
    assert float(roi.ROIVolume) == pytest.approx(2 * 2.5 * 0.7 * 0.9 / 1000)
    observation = dataset.RTROIObservationsSequence[0]
    assert (observation.RTROIInterpretedType, observation.ReferencedROINumber) == ("ORGAN", 1)
    assert observation.RTROIIdentificationCodeSequence[0].CodeValue == "27925004"
    colours = [tuple(each.ROIDisplayColor) for each in dataset.ROIContourSequence]
    assert len(set(colours)) == 2
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert len(series.ContourImageSequence) == len(slices)
    images = [
        c.ContourImageSequence[0].ReferencedSOPInstanceUID for c in dataset.ROIContourSequence[0].ContourSequence
    ]
    assert images == [slices[1].SOPInstanceUID, slices[2].SOPInstanceUID]


def test_slices_that_are_not_the_grids_are_an_error() -> None:
    """Too few or in the wrong order: nothing is written."""
    region = Region.of(np.ones(SHAPE, bool), GRIDS["axial"], RegionSource("model", "m", "1"))
    for slices in (SERIES["axial"][:-1], SERIES["axial"][::-1]):
        with pytest.raises(ValueError, match="slice"):
            write_rtstruct(
                [Structure(region, "1", None)],
                slices,
                sop_instance_uid="2.25.1",
                series_uid="2.25.2",
                made=datetime(2026, 1, 31, 12, tzinfo=UTC),
            )

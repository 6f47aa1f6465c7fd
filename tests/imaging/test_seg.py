"""A segmentation that came with the study becomes its voxels, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless, generate_uid

from auscult.domain.study import Study
from auscult.platform.errors import DeadLetter
from dicom_factory import ct_series

Load = Callable[[Iterable[Dataset | bytes]], Study]
CATEGORY = codes.SCT.MorphologicallyAbnormalStructure
SHAPE = (10, 16, 20)
SLICES = ct_series(SHAPE, hu=np.zeros(SHAPE, np.int16), orientation=(0.8, 0.6, 0, -0.48, 0.64, 0.6))
MASK = np.zeros(SHAPE, bool)
MASK[3:7, 4:12, 5:15] = np.random.default_rng(1).random((4, 8, 10)) > 0.4


def segmentation(
    pixels: np.ndarray,
    labels: Sequence[str] = ("Lesion 1",),
    sources: Sequence[Dataset] = SLICES,
    *,
    kind: str = "BINARY",
    **options: object,
) -> Dataset:
    """Return another system's SEG. `pixels`: `(z, y, x)` or `(z, y, x, segment)`."""
    descriptions = [
        hd.seg.SegmentDescription(
            number, label, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Nodule, "MANUAL"
        )
        for number, label in enumerate(labels, start=1)
    ]
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Other",
        manufacturer_model_name="Other",
        software_versions="1",
        device_serial_number="1",
        **options,
    )


def test_a_binary_segment_comes_back_voxel_by_voxel(load: Load) -> None:
    """On an oblique series, with its empty frames left out."""
    made = segmentation(MASK)
    (region,) = load([*SLICES, made]).regions
    assert np.array_equal(region.mask, MASK[region.box])
    assert region.mask.sum() == MASK.sum()
    assert (region.source.kind, region.source.name) == ("seg", "Lesion 1, Nodule")
    assert region.source.sop_instance_uid == made.SOPInstanceUID


def test_frames_may_come_in_any_order(load: Load) -> None:
    """A SEG made on slices that were sorted the other way round is the same region."""
    (region,) = load([*SLICES, segmentation(MASK[::-1].copy(), sources=SLICES[::-1])]).regions
    assert np.array_equal(region.mask, MASK[region.box])


def test_positions_written_with_one_decimal_are_the_same_grid(load: Load) -> None:
    """A SEG takes over its slices' rounded positions, which lie a little beside the even grid."""
    slices = ct_series(SHAPE, (0.625, 1.0, 1.0), hu=np.zeros(SHAPE, np.int16))
    for dataset in slices:
        dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]
    (region,) = load([*slices, segmentation(MASK, sources=slices)]).regions
    assert np.array_equal(region.mask, MASK[region.box])


def test_overlapping_segments_stay_apart(load: Load) -> None:
    """Each segment is a region; an empty one is left out."""
    nodule = np.zeros_like(MASK)
    nodule[5, 5, 6] = True
    pixels = np.stack([MASK, np.zeros_like(MASK), nodule], axis=-1)
    regions = load([*SLICES, segmentation(pixels, ("Lung", "none", "Nodule 2"))]).regions
    assert [(region.source.name, region.mask.sum()) for region in regions] == [
        ("Lung, Nodule", MASK.sum()),
        ("Nodule 2", 1),
    ]


@pytest.mark.parametrize("options", [{}, {"transfer_syntax_uid": RLELossless}])
def test_a_fractional_segment_counts_from_one_half(load: Load, options: dict[str, str]) -> None:
    """Voxels of at least half the maximum belong to it."""
    fractions = np.where(MASK, 0.6, 0.4)
    (region,) = load([*SLICES, segmentation(fractions, kind="FRACTIONAL", **options)]).regions
    assert region.mask.sum() == MASK.sum()


def test_a_segment_that_is_smaller_than_the_slices_lands_in_its_place(load: Load) -> None:
    """Frames cropped to the lesion are placed by their position."""
    corner = np.array(SLICES[3].ImagePositionPatient, float)
    orientation = [float(value) for value in SLICES[3].ImageOrientationPatient]
    row, column = np.reshape(orientation, (2, 3))
    normal = np.cross(row, column)
    positions = [
        hd.PlanePositionSequence("PATIENT", list(corner + 5 * row + 4 * column + 2.0 * index * normal))
        for index in range(4)
    ]
    made = segmentation(
        MASK[3:7, 4:12, 5:15],
        plane_positions=positions,
        plane_orientation=hd.PlaneOrientationSequence(
            "PATIENT", [float(v) for v in SLICES[3].ImageOrientationPatient]
        ),
        pixel_measures=hd.PixelMeasuresSequence([1.0, 1.0], 2.0, 2.0),
    )
    (region,) = load([*SLICES, made]).regions
    assert np.array_equal(region.mask, MASK[region.box])


def shifted() -> Dataset:
    """Return a SEG that lies half a pixel beside the CT's."""
    made = segmentation(MASK)
    for frame in made.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(place.ImagePositionPatient[0]) + 0.5, *place.ImagePositionPatient[1:]]
    return made


def without(keyword: str) -> Dataset:
    """Return a SEG that lacks a mandatory attribute."""
    made = segmentation(MASK)
    del made[keyword]
    return made


OTHER = ct_series(SHAPE, hu=np.zeros(SHAPE, np.int16), study_uid=SLICES[0].StudyInstanceUID)


@pytest.mark.parametrize(
    ("reason", "made"),
    [
        ("seg-other-series", segmentation(MASK, sources=OTHER)),
        ("seg-other-grid", shifted()),
        ("undecodable-attribute", without("SegmentSequence")),
        ("undecodable-attribute", without("SharedFunctionalGroupsSequence")),
    ],
)
def test_a_segmentation_that_does_not_fit_is_named(load: Load, reason: str, made: Dataset) -> None:
    """Voxels of another series, or between the CT's, are not resampled."""
    with pytest.raises(DeadLetter) as caught:
        load([*SLICES, made])
    assert caught.value.reason == reason

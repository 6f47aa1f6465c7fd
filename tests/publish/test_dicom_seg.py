"""What is written as SEG is what was found, and the same each time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from auscult.domain import codes
from auscult.domain.volume import Geometry, Region, RegionSource, Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.seg import seg_regions
from auscult.imaging.slices import stack
from auscult.publish.dicom_seg import Segment, write_seg
from dicom_factory import ct_series, encode

SHAPE = (9, 16, 20)
SLICES = ct_series(SHAPE, orientation=(0.8, 0.6, 0, -0.48, 0.64, 0.6))
STACK = stack([InstanceHeader.read(encode(dataset)) for dataset in SLICES])
VOLUME = Volume(
    np.zeros(SHAPE, np.int16),
    STACK.geometry,
    SLICES[0].SeriesInstanceUID,
    tuple(header.sop_instance_uid for header in STACK.slices),
)
MASK = np.zeros(SHAPE, bool)
MASK[3:7, 4:12, 5:15] = np.random.default_rng(1).random((4, 8, 10)) > 0.4


def region(mask: np.ndarray = MASK, geometry: Geometry = STACK.geometry) -> Region:
    """Return a model's region."""
    return Region.of(mask, geometry, RegionSource("model", "segmenter", "1"))


def written(*segments: Segment, slices: list = SLICES) -> bytes:
    """Return a SEG as a file."""
    dataset = write_seg(
        segments or (Segment(region(), "Nodule 1", None),),
        slices,
        sop_instance_uid="2.25.1",
        series_uid="2.25.2",
        made=datetime(2026, 1, 31, 12, tzinfo=UTC),
    )
    return encode(dataset)


def test_a_region_comes_back_voxel_by_voxel() -> None:
    """Written and read again, segments that overlap too, nothing is lost or added."""
    other = np.zeros_like(MASK)
    other[6:9, 10:, 10:] = True
    data = written(Segment(region(), "Nodule 1", None), Segment(region(other), "Nodule 2", None))
    assert InstanceHeader.read(data).referenced_series == (VOLUME.series_uid,)
    first, second = seg_regions(data, [VOLUME.series_uid], VOLUME)
    assert np.array_equal(first.mask, MASK[first.box])
    assert first.mask.sum() == MASK.sum()
    assert np.array_equal(second.mask, other[second.box])
    assert second.mask.sum() == other.sum()
    assert first.source.name == "Nodule 1"


def test_the_slices_may_be_files(tmp_path: Path) -> None:
    """The image store's paths serve as well as data sets."""
    paths = []
    for number, dataset in enumerate(SLICES):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(encode(dataset))
    assert written(slices=paths) == written()


def test_the_same_result_is_the_same_object() -> None:
    """Neither the clock nor chance leaves a trace: a resend is the same bytes."""
    assert written() == written()


def test_a_segment_says_what_it_is_and_who_drew_it() -> None:
    """Codes for nodule and lung; the model by name and version, or MANUAL."""
    dataset = dcmread(
        BytesIO(written(Segment(region(), "Nodule 1", ("segmenter", "1.2")), Segment(region(), "Nodule 2", None)))
    )
    automatic, manual = dataset.SegmentSequence
    assert automatic.SegmentedPropertyCategoryCodeSequence[0].CodeValue == codes.ABNORMAL_STRUCTURE.code
    assert automatic.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.NODULE.code
    assert automatic.AnatomicRegionSequence[0].CodeValue == codes.LUNG.code
    assert automatic.AnatomicRegionSequence[0].CodingSchemeDesignator == "SCT"
    assert (automatic.SegmentAlgorithmType, manual.SegmentAlgorithmType) == ("AUTOMATIC", "MANUAL")
    algorithm = automatic.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("segmenter", "1.2")
    assert (dataset.SOPInstanceUID, dataset.SeriesInstanceUID) == ("2.25.1", "2.25.2")
    assert dataset.StudyInstanceUID == SLICES[0].StudyInstanceUID
    assert dataset.PatientID == "P-1"


def test_our_own_automatic_result_is_nothing_a_person_drew() -> None:
    """A PACS that sends our SEG back does not make it an input; a manual segment stays one."""
    data = written(Segment(region(), "Nodule 1", ("segmenter", "1")), Segment(region(), "Nodule 2", None))
    assert [each.source.name for each in seg_regions(data, [VOLUME.series_uid], VOLUME)] == ["Nodule 2"]


def test_slices_that_are_not_the_grids_are_an_error() -> None:
    """Too few, in the wrong order, or two grids: nothing is written."""
    for slices in (SLICES[:-1], SLICES[::-1]):
        with pytest.raises(ValueError, match="slice"):
            written(slices=slices)
    moved = replace(STACK.geometry, origin=STACK.geometry.origin + 1)
    with pytest.raises(ValueError, match="one grid"):
        written(Segment(region(), "1", None), Segment(region(geometry=moved), "2", None))


def test_fractions_come_back(tmp_path: Path) -> None:
    """A fractional SEG holds probabilities in steps of 1/255; empty frames are left out of it, too."""
    fractions = np.random.default_rng(2).random(region().mask.shape)
    dataset = write_seg(
        [Segment(region(), "Nodule 1", ("segmenter", "1"), fractions=fractions)],
        SLICES,
        sop_instance_uid="2.25.1",
        series_uid="2.25.2",
        made=datetime(2026, 1, 31, 12, tzinfo=UTC),
        kind="FRACTIONAL",
    )
    path = tmp_path / "seg.dcm"
    path.write_bytes(encode(dataset))
    assert dataset.NumberOfFrames == 4
    back = hd.seg.segread(path).get_volume(combine_segments=False, rescale_fractional=True).array
    assert (
        np.abs(np.sort(back.ravel()[back.ravel() > 0]) - np.sort(fractions.ravel())[-np.count_nonzero(back) :]).max()
        <= 0.5 / 255
    )


def test_a_label_map_holds_segments_that_do_not_overlap() -> None:
    """As PS3.3 has it since 2024; where they overlap, it is refused."""
    other = np.zeros_like(MASK)
    other[3:7, 13:, :3] = True
    pair = [Segment(region(), "1", ("s", "1")), Segment(region(other), "2", ("s", "1"))]
    uids = {"sop_instance_uid": "2.25.1", "series_uid": "2.25.2"}
    made = datetime(2026, 1, 31, 12, tzinfo=UTC)
    dataset = write_seg(pair, SLICES, made=made, kind="LABELMAP", **uids)
    labels = dcmread(BytesIO(encode(dataset))).pixel_array
    assert [np.count_nonzero(labels == number) for number in (1, 2)] == [MASK.sum(), other.sum()]
    with pytest.raises(ValueError, match="overlap"):
        write_seg([pair[0], Segment(region(), "2", ("s", "1"))], SLICES, made=made, kind="LABELMAP", **uids)


CHARACTER_SETS = {
    "ISO_IR 100": "Müller^Jürgen".encode("latin-1"),
    "ISO_IR 192": "Müller^Jürgen=王^小東".encode(),
    "GB18030": "王^小東".encode("gb18030"),
    "\\ISO 2022 IR 87": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
    "": "Müller^Jürgen".encode("latin-1"),
}


@pytest.mark.parametrize("name", CHARACTER_SETS)
def test_patient_and_study_are_the_sources_byte_by_byte(name: str) -> None:
    """Character sets, odd values and absent ones are kept as they are; what may not be absent is empty."""
    first = SLICES[0]
    source = Dataset()
    source.update(first)
    source.file_meta = first.file_meta
    for keyword in ("AccessionNumber", "StudyTime", "PatientSex"):
        delattr(source, keyword)
    source.SpecificCharacterSet = name.split("\\") if "\\" in name else name
    whole = encode(source)
    named = dcmread(BytesIO(whole))
    for keyword, value in (
        ("PatientName", CHARACTER_SETS[name]),
        ("StudyDescription", CHARACTER_SETS[name].replace(b"^", b" ")),
        ("PatientBirthDate", b"1960.02.03"),
    ):
        tag = Tag(keyword)
        named[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)  # noqa: FBT003
    data = written(Segment(region(np.ones_like(MASK)), "1", None), slices=[named, *SLICES[1:]])
    for value in (CHARACTER_SETS[name], CHARACTER_SETS[name].replace(b"^", b" "), b"1960.02.03"):
        assert value in data
    back = dcmread(BytesIO(data))
    assert back.get("SpecificCharacterSet", "") == source.SpecificCharacterSet
    for keyword in ("AccessionNumber", "StudyTime", "PatientSex"):
        assert keyword in back
        assert not back[keyword].value


def test_the_sources_are_left_as_they_are() -> None:
    """Nothing of what is given is changed."""
    before = encode(SLICES[3])
    written()
    assert encode(SLICES[3]) == before

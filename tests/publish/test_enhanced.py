"""Results on an enhanced multi-frame image refer to its frames, and come back as on single slices."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain.volume import Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.rtstruct import rtstruct_regions
from auscult.imaging.seg import seg_regions
from auscult.publish.pacs.objects import ResultObjects
from auscult.publish.sources import FrameOf
from dicom_factory import encode, enhanced
from dicom_results import Read

KINDS = ("seg", "sr", "rtstruct", "capture")


@pytest.fixture(scope="module")
def whole(read: Read) -> Dataset:
    """Return the series as one image, its frames in the opposite order of the grid's slices."""
    return enhanced(read.slices)


@pytest.fixture(scope="module")
def volume(read: Read, whole: Dataset) -> Volume:
    """Return the volume that it is read as."""
    count = len(read.slices)
    frames = tuple(range(count, 0, -1))
    uids = (str(whole.SOPInstanceUID),) * count
    return Volume(np.empty(0), read.geometry, str(whole.SeriesInstanceUID), uids, frames=frames)


def objects(read: Read, image: Dataset | Path, volume: Volume) -> dict[str, Dataset]:
    """Return what is written about the result, by modality."""
    outlines = [replace(each.outline, sop_instance_uid=volume.sop_instance_uids[0]) for each in read.result.findings]
    findings = tuple(
        replace(each, outline=outline) for each, outline in zip(read.result.findings, outlines, strict=True)
    )
    slices = [FrameOf(image, number) for number in volume.frames]
    made = ResultObjects(replace(read.result, findings=findings), read.regions, slices, KINDS)
    return {dataset.Modality: dcmread(BytesIO(encode(dataset))) for dataset in made.datasets()}


@pytest.fixture(scope="module")
def written(read: Read, whole: Dataset, volume: Volume) -> dict[str, Dataset]:
    """Write them."""
    return objects(read, whole, volume)


def frames_of(item: Dataset) -> list[int]:
    """Return the frames of an image that an item refers to."""
    numbers = item.ReferencedFrameNumber
    return [numbers] if isinstance(numbers, int) else list(numbers)


def test_a_file_serves_as_well(
    read: Read, whole: Dataset, volume: Volume, written: dict[str, Dataset], tmp_path: Path
) -> None:
    """Read once, it gives the same objects."""
    path = tmp_path / "enhanced.dcm"
    path.write_bytes(encode(whole))
    again = objects(read, path, volume)
    assert {kind: encode(dataset) for kind, dataset in again.items()} == {
        kind: encode(dataset) for kind, dataset in written.items()
    }


def test_segments_refer_to_the_frames_they_lie_on(
    read: Read, whole: Dataset, volume: Volume, written: dict[str, Dataset]
) -> None:
    """Each frame of the SEG has its source frame, at the same place; voxels come back one by one."""
    seg = written["SEG"]
    (series,) = seg.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == whole.SOPInstanceUID
    assert "ReferencedFrameNumber" not in instance
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPClassUID == whole.SOPClassUID
        (number,) = frames_of(image)
        theirs = whole.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(theirs, abs=1e-4)
    data = encode(seg)
    found = seg_regions(data, InstanceHeader.read(data).referenced_series, volume, automatic=True)
    for ours, theirs in zip(read.regions, found, strict=True):
        assert np.array_equal(ours.mask, theirs.mask)
        assert ours.offset == theirs.offset
    highdicom = hd.seg.segread(BytesIO(data))
    assert highdicom.get_source_image_uids()[0][2] == whole.SOPInstanceUID


def test_contours_refer_to_the_frames_they_lie_on(
    read: Read, whole: Dataset, volume: Volume, written: dict[str, Dataset]
) -> None:
    """And give the voxels back."""
    structures = written["RTSTRUCT"]
    found = rtstruct_regions(structures, [volume.series_uid], volume)
    assert [np.array_equal(a.mask, b.mask) for a, b in zip(read.regions, found, strict=True)] == [True, True]
    for contour in structures.ROIContourSequence[0].ContourSequence:
        (number,) = frames_of(contour.ContourImageSequence[0])
        position = whole.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
        index = volume.geometry.to_index([contour.ContourData[:3], position])
        assert index[0][0] == pytest.approx(index[1][0], abs=1e-3)


def test_the_report_has_the_image_as_evidence_and_its_frames_as_sources(
    whole: Dataset, written: dict[str, Dataset]
) -> None:
    """Highdicom reads it; no reference is left to anything that does not exist."""
    report = written["SR"]
    parsed = hd.sr.Comprehensive3DSR.from_dataset(report)
    groups = parsed.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 2
    known = {whole.SOPInstanceUID, written["SEG"].SOPInstanceUID}
    named: list[str] = []
    report.walk(
        lambda _, element: named.append(element.value) if element.keyword == "ReferencedSOPInstanceUID" else None
    )
    assert set(named) == known
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    instances = [
        each.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    ]
    assert sorted(instances) == sorted(known)
    (source,) = (item for item in groups[1].referenced_segment if item.name.value == "121233")
    assert source.referenced_frame_numbers == [1]  # the last slice of the grid is the first frame

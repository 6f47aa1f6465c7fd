"""The series: valid CT Image Storage, which comes back as the volume that was scanned."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from auscult.domain.identity import is_uid, sop_digest
from auscult.domain.study import StudyRef
from auscult.domain.volume import Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.phantom import SyntheticPatient, chest, scan, write_series
from auscult.imaging.phantom.anatomy import Phantom, cube
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study

TYPE_1 = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "ImageType", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelSpacing", "ImageOrientationPatient"),
    *("ImagePositionPatient", "RescaleIntercept", "RescaleSlope", "PixelData"),
)
TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber", "SeriesNumber", "PositionReferenceIndicator", "Manufacturer"),
    *("InstanceNumber", "AcquisitionNumber", "KVP", "SliceThickness", "PatientPosition"),
)
"""CT Image IOD, PS3.3 A.3.3: attributes that must have a value, and that must be there."""


@pytest.fixture(scope="module")
def person() -> Phantom:
    """Return a chest."""
    return chest(6)


@pytest.fixture(scope="module")
def volume(person: Phantom) -> Volume:
    """Return a scan of the nodule's surroundings."""
    return scan(person, cube(person.truth.centre, 30.0, (2.5, 0.9, 0.8)))


@pytest.fixture(scope="module")
def files(person: Phantom, volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return its files."""
    return write_series(person, tmp_path_factory.mktemp("series"), volume=volume)


def test_slices_have_all_required_attributes(files: list[Path]) -> None:
    """Type 1 attributes have values, type 2 are there, UIDs are UIDs, and it says that it is synthetic."""
    for path in files:
        image = dcmread(path)
        assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert image.SOPClassUID == CTImageStorage
        assert all(not image[keyword].is_empty for keyword in TYPE_1)
        assert all(keyword in image for keyword in TYPE_2)
        assert all(is_uid(image[keyword].value) for keyword in TYPE_1 if keyword.endswith("UID"))
        assert "Synthetic" in image.ImageComments
        assert "Synthetic" in image.SeriesDescription
        assert image.BodyPartExamined == "CHEST"
        assert image.PatientAge == "067Y"


def test_the_stored_series_is_the_scan(person: Phantom, volume: Volume, files: list[Path], tmp_path: Path) -> None:
    """Through the image store, HU and geometry come back, and so do age, time and patient."""
    store = ImageStore(tmp_path, min_free_bytes=0)
    headers = []
    for path in files:
        headers.append(InstanceHeader.read(path))
        store.put("site", headers[-1], path.read_bytes())
    digest = sop_digest(header.sop_instance_uid for header in headers)
    study = load_study(StudyRef("site", headers[0].study_uid, digest), store)
    assert np.array_equal(study.volume.hu, volume.hu)
    assert study.volume.geometry.matches(volume.geometry)
    assert study.identity.patient_id == f"PHANTOM-{person.seed}"
    assert study.age_at_study == 67
    assert isinstance(study.acquired, datetime)


def test_writing_again_gives_the_same_bytes(
    person: Phantom, volume: Volume, files: list[Path], tmp_path: Path
) -> None:
    """The same seed writes the same files; another patient or time makes other UIDs."""
    again = write_series(person, tmp_path / "again", volume=volume)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]
    other = write_series(
        person,
        tmp_path / "other",
        patient=SyntheticPatient(patient_id="X", sex="M"),
        acquired=datetime(2026, 2, 1, tzinfo=UTC),
        volume=volume,
    )
    first, moved = dcmread(files[0]), dcmread(other[0])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert first[keyword].value != moved[keyword].value


def test_a_time_without_offset_is_refused(person: Phantom, volume: Volume, tmp_path: Path) -> None:
    """The time zone is written, so it must be known."""
    with pytest.raises(ValueError, match="UTC offset"):
        write_series(person, tmp_path, acquired=datetime(2026, 2, 1), volume=volume)  # noqa: DTZ001

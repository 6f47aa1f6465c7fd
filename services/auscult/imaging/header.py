"""What an instance says about itself, checked: the gate through which every DICOM object comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    MediaStorageDirectoryStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from auscult.domain.identity import is_uid
from auscult.domain.study import PatientIdentity
from auscult.imaging.part10 import CANNOT_UNDERSTAND, Part10, read, understood
from auscult.platform.errors import Refused

DOES_NOT_MATCH_CLASS = 0xA900
"""C-STORE status `Error: Data Set does not match SOP Class` (PS3.4, B.2.3)."""
CLASS_NOT_SUPPORTED = 0x0122
"""C-STORE status `Refused: SOP Class not supported` (PS3.7, C.5.6)."""

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """The identity and place of one instance. Lengths in mm, positions in LPS. Holds PHI: never logged."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    transfer_syntax_uid: str
    patient: PatientIdentity
    rows: int
    """0 for objects without pixels, as `columns`."""
    columns: int
    position: Vector | None
    """Centre of the first pixel, 3 values (PS3.3, C.7.6.2.1.1)."""
    orientation: Vector | None
    """Unit vectors along a row and along a column, 6 values."""
    pixel_spacing: Vector | None
    """Between rows, between columns."""
    slice_thickness: float | None
    frame_of_reference_uid: str
    instance_number: int | None
    image_type: tuple[str, ...]
    referenced_series: tuple[str, ...]
    """Series on which a structure set or segmentation was drawn."""

    @classmethod
    def read(cls, source: bytes | Path) -> InstanceHeader:
        """Check a DICOM file and return its header; the pixels are measured, not read.

        Refused: `not-dicom`, `truncated`, `missing-attribute`, `invalid-uid`, `unsupported-class`,
        `meta-mismatch`. Nothing else is raised, whatever the bytes are.
        """
        return cls.of(read(source if isinstance(source, bytes) else source.read_bytes()))

    @classmethod
    def of(cls, file: Part10) -> InstanceHeader:
        """Return the header of a file that was read; Refused as by `read`."""
        with understood():
            _check(file)
            return _header(file)

    @property
    def is_ct_image(self) -> bool:
        """Whether it is a CT slice; a localiser is a projection, not a slice."""
        return self.sop_class_uid == CTImageStorage and "LOCALIZER" not in self.image_type

    @property
    def is_structure_set(self) -> bool:
        """Whether it is an RTSTRUCT."""
        return self.sop_class_uid == RTStructureSetStorage

    @property
    def is_segmentation(self) -> bool:
        """Whether it is a SEG."""
        return self.sop_class_uid == SegmentationStorage


def _refused(reason: str, message: str, status: int = CANNOT_UNDERSTAND) -> Refused:
    return Refused(reason, message, status=status)


def _check(file: Part10) -> None:
    dataset, meta = file.dataset, file.dataset.file_meta
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            raise _missing(keyword)
        if not is_uid(_text(dataset, keyword)):
            raise _refused("invalid-uid", f"{keyword} is not a UID as PS3.5, 9.1 defines it")
    for ours, theirs in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if meta.get(theirs) and _text(meta, theirs) != _text(dataset, ours):
            raise _refused("meta-mismatch", f"{theirs} and {ours} differ", DOES_NOT_MATCH_CLASS)
    sop_class = UID(_text(dataset, "SOPClassUID"))
    if not sop_class.keyword.endswith("Storage") or sop_class == MediaStorageDirectoryStorage:
        raise _refused("unsupported-class", "the SOP class is not a known storage class", CLASS_NOT_SUPPORTED)
    if not _text(dataset, "Modality"):
        raise _missing("Modality")
    if sop_class.keyword.endswith("ImageStorage") or sop_class == SegmentationStorage:
        _check_pixels(file)


def _check_pixels(file: Part10) -> None:
    """Hold the pixel data's length against what the attributes say (PS3.5, 8.1.1)."""
    dataset, pixels = file.dataset, file.pixels
    bits, frames = 1, 1
    for keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames"):
        value = _integer(dataset, keyword)
        if value is None and keyword != "NumberOfFrames":
            raise _missing(keyword)
        if value is not None and value < 1:
            raise _refused("missing-attribute", f"{keyword} is not positive", DOES_NOT_MATCH_CLASS)
        if keyword == "NumberOfFrames":
            frames = value or 1
        bits *= value or 1
    if pixels is None:
        # A file cut between two elements ends here too: nothing then shows that more was meant to come.
        raise _missing("PixelData")
    if file.transfer_syntax.is_compressed:
        # The first item is the offset table; a frame has one or more items of its own (PS3.5, A.4).
        whole = pixels.fragments - 1 >= frames
    else:
        if str(dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422":
            bits = bits * 2 // 3
        whole = pixels.length >= (bits + 7) // 8
    if not whole:
        raise _refused("truncated", "PixelData is shorter than Rows, Columns and NumberOfFrames say; send it again")


def _header(file: Part10) -> InstanceHeader:
    dataset = file.dataset
    return InstanceHeader(
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        sop_class_uid=_text(dataset, "SOPClassUID"),
        modality=_text(dataset, "Modality"),
        transfer_syntax_uid=str(file.transfer_syntax),
        patient=PatientIdentity(
            patient_id=_text(dataset, "PatientID"),
            issuer=_text(dataset, "IssuerOfPatientID"),
            birth_date=_date(_text(dataset, "PatientBirthDate")),
            sex=_text(dataset, "PatientSex"),
        ),
        rows=_integer(dataset, "Rows") or 0,
        columns=_integer(dataset, "Columns") or 0,
        position=_vector(dataset, "ImagePositionPatient", 3),
        orientation=_vector(dataset, "ImageOrientationPatient", 6),
        pixel_spacing=_vector(dataset, "PixelSpacing", 2),
        slice_thickness=next(iter(_vector(dataset, "SliceThickness", 1) or ()), None),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
        instance_number=_integer(dataset, "InstanceNumber"),
        image_type=tuple(str(value) for value in _values(dataset, "ImageType")),
        referenced_series=tuple(dict.fromkeys(_referenced_series(dataset))),
    )


def _referenced_series(dataset: Dataset) -> Iterator[str]:
    for series in dataset.get("ReferencedSeriesSequence") or ():
        yield _text(series, "SeriesInstanceUID")
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield _text(series, "SeriesInstanceUID")


def _missing(keyword: str) -> Refused:
    return _refused("missing-attribute", f"{keyword} is missing or empty", DOES_NOT_MATCH_CLASS)


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _values(dataset: Dataset, keyword: str) -> tuple[Any, ...]:
    value = dataset.get(keyword)
    if value is None or value == "":
        return ()
    return tuple(value) if dataset[keyword].VM > 1 else (value,)


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = dataset.get(keyword)
    return None if value is None or value == "" else int(value)


def _vector(dataset: Dataset, keyword: str, length: int) -> Vector | None:
    """Return `length` finite numbers, or None where the attribute is absent; Refused where it is anything else."""
    values = tuple(float(value) for value in _values(dataset, keyword))
    if not values:
        return None
    if len(values) != length or not all(math.isfinite(value) for value in values):
        raise _refused("missing-attribute", f"{keyword} does not hold {length} numbers", DOES_NOT_MATCH_CLASS)
    return values


def _date(text: str) -> date | None:
    """Read a DICOM DA; None where it is no date, as a birth date that is not known often is."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        return None

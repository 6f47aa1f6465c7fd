"""What an instance says about itself, checked: the gate through which every DICOM object comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from auscult.domain.identity import is_uid
from auscult.domain.study import PatientIdentity
from auscult.imaging.frames import DOES_NOT_MATCH_CLASS, Frame, Vector, frames
from auscult.imaging.marks import NO_MARKS, Marks
from auscult.imaging.own_results import is_own_result
from auscult.imaging.part10 import CANNOT_UNDERSTAND, Part10, read, understood
from auscult.platform.errors import Refused

CLASS_NOT_SUPPORTED = 0x0122
"""C-STORE status `Refused: SOP Class not supported` (PS3.7, C.5.6)."""

LARGEST_FRAME = 256 * 2**20
"""Bytes of a decoded frame; a mammogram has 40 million, a slide's tile less."""
LARGEST_IMAGE = 4 * 2**30
"""Bytes of all decoded frames of a compressed object: few bytes promise many only in a bomb."""

_ENHANCED = {
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
}
VOLUMES: Mapping[str, frozenset[UID]] = {
    "CT": frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}),
    "MR": frozenset({MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage}),
    "PT": frozenset({PositronEmissionTomographyImageStorage}),
}
"""The classes of which volumes are made, by modality; the first that a study has is its volume's."""


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
    own_result: bool = False
    """Whether it is what this product itself wrote, which is no part of the study's contents."""
    marks: Marks = NO_MARKS
    """What tells stacks of one series apart."""
    burned_in: bool = False
    """Whether text is written into its pixels (BurnedInAnnotation)."""
    frames: tuple[Frame, ...] = ()
    """Of an enhanced image."""
    frame: Frame | None = None
    """Where this stands for one frame of an enhanced image."""

    @classmethod
    def read(cls, source: bytes | Path) -> InstanceHeader:
        """Check a DICOM file and return its header; the pixels are measured, not read.

        Refused: `not-dicom`, `truncated`, `missing-attribute`, `invalid-uid`, `unsupported-class`, `pixel-bomb`,
        `meta-mismatch`, `wrong-character-set`. Nothing else is raised, whatever the bytes are.
        """
        return cls.of(read(source))

    @classmethod
    def of(cls, file: Part10) -> InstanceHeader:
        """Return the header of a file that was read; Refused as by `read`, Laborious after a quick look."""
        with understood():
            _check(file)
            return _header(file)

    @property
    def volume_modality(self) -> str:
        """The key in VOLUMES of what it is a slice of; empty for a localiser, which is a projection, and all else."""
        if "LOCALIZER" in self.image_type:
            return ""
        return next((name for name, classes in VOLUMES.items() if self.sop_class_uid in classes), "")

    @property
    def is_placed(self) -> bool:
        """Whether it says where its pixels lie in the patient."""
        return bool(self.position and self.orientation and self.pixel_spacing)

    def planes(self) -> Iterator[InstanceHeader]:
        """Yield the header of each frame of an enhanced image, as if it were a slice of its own; else this one."""
        if not self.frames:
            yield self
        for frame in self.frames:
            yield replace(
                self,
                position=frame.position,
                orientation=frame.orientation,
                pixel_spacing=frame.pixel_spacing,
                slice_thickness=frame.slice_thickness,
                instance_number=frame.number + 1,
                marks=frame.marks,
                frames=(),
                frame=frame,
            )

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
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not file.text(keyword):
            raise _missing(keyword)
        if not is_uid(file.text(keyword)):
            raise _refused("invalid-uid", f"{keyword} is not a UID as PS3.5, 9.1 defines it")
    for ours, theirs in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if file.text(theirs) not in {"", file.text(ours)}:
            raise _refused("meta-mismatch", f"{theirs} and {ours} differ", DOES_NOT_MATCH_CLASS)
    sop_class = UID(file.text("SOPClassUID"))
    if not sop_class.keyword.endswith("Storage") or sop_class == MediaStorageDirectoryStorage:
        raise _refused("unsupported-class", "the SOP class is not a known storage class", CLASS_NOT_SUPPORTED)
    if not file.text("Modality"):
        raise _missing("Modality")
    if sop_class.keyword.endswith("ImageStorage") or sop_class == SegmentationStorage:
        _check_pixels(file)


def _check_pixels(file: Part10) -> None:
    """Hold the pixel data's length against what the attributes say (PS3.5, 8.1.1)."""
    pixels, frames = file.pixels, file.integer("NumberOfFrames")
    bits = frames = 1 if frames is None else frames
    for keyword in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
        value = file.short(keyword)
        if value is None:
            raise _missing(keyword)
        bits *= value
    if pixels is None:
        raise _missing("PixelData")
    if bits < 1:
        raise _refused("missing-attribute", "the image has no rows, columns or frames", DOES_NOT_MATCH_CLASS)
    if bits // frames > 8 * LARGEST_FRAME or (file.transfer_syntax.is_compressed and bits > 8 * LARGEST_IMAGE):
        raise _refused("pixel-bomb", "Rows, Columns and NumberOfFrames promise more pixels than any known image has")
    if file.transfer_syntax.is_compressed:
        # The first item is the offset table; a frame has one or more items of its own (PS3.5, A.4).
        whole = pixels.fragments - 1 >= frames
    else:
        if file.text("PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        whole = pixels.length >= (bits + 7) // 8
    if not whole:
        raise _refused("truncated", "PixelData is shorter than Rows, Columns and NumberOfFrames say; send it again")


def _header(file: Part10) -> InstanceHeader:
    sop_class = file.text("SOPClassUID")
    drawn = sop_class in {RTStructureSetStorage, SegmentationStorage}
    return InstanceHeader(
        study_uid=file.text("StudyInstanceUID"),
        series_uid=file.text("SeriesInstanceUID"),
        sop_instance_uid=file.text("SOPInstanceUID"),
        sop_class_uid=sop_class,
        modality=file.text("Modality"),
        transfer_syntax_uid=str(file.transfer_syntax),
        patient=PatientIdentity(
            patient_id=file.text("PatientID"),
            issuer=file.text("IssuerOfPatientID"),
            birth_date=_date(file.text("PatientBirthDate")),
            sex=file.text("PatientSex"),
        ),
        rows=file.short("Rows") or 0,
        columns=file.short("Columns") or 0,
        position=_vector(file, "ImagePositionPatient", 3),
        orientation=_vector(file, "ImageOrientationPatient", 6),
        pixel_spacing=_vector(file, "PixelSpacing", 2),
        slice_thickness=next(iter(_vector(file, "SliceThickness", 1) or ()), None),
        frame_of_reference_uid=file.text("FrameOfReferenceUID"),
        instance_number=file.integer("InstanceNumber"),
        image_type=file.texts("ImageType"),
        referenced_series=tuple(dict.fromkeys(_referenced_series(file.dataset))) if drawn else (),
        own_result=is_own_result(file),
        marks=Marks.of(file),
        burned_in=file.text("BurnedInAnnotation") == "YES",
        frames=tuple(frames(file.dataset)) if sop_class in _ENHANCED else (),
    )


def _referenced_series(dataset: Dataset) -> Iterator[str]:
    for series in dataset.get("ReferencedSeriesSequence") or ():
        yield str(series.get("SeriesInstanceUID"))
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.get("SeriesInstanceUID"))


def _missing(keyword: str) -> Refused:
    return _refused("missing-attribute", f"{keyword} is missing or empty", DOES_NOT_MATCH_CLASS)


def _vector(file: Part10, keyword: str, length: int) -> Vector | None:
    """Return `length` finite numbers, or None where the attribute is absent; Refused where it is anything else."""
    try:
        values = file.numbers(keyword)
    except ValueError:
        values = (math.nan,)
    if not values:
        return None
    if len(values) != length or not all(map(math.isfinite, values)):
        raise _refused("missing-attribute", f"{keyword} does not hold {length} numbers", DOES_NOT_MATCH_CLASS)
    return values


def _date(text: str) -> date | None:
    """Read a DICOM DA; None where it is no date, as a birth date that is not known often is."""
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        return None

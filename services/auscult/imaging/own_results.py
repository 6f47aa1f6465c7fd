"""Tells what this product itself wrote: a PACS forwards it with the study, and it is no news about the patient."""

from __future__ import annotations

from pydicom.uid import UID, Comprehensive3DSRStorage, RTStructureSetStorage, SecondaryCaptureImageStorage

from auscult.imaging.part10 import Part10

MANUFACTURER = "Auscult"
"""Manufacturer and model name of what is written here."""

_SEGMENTATIONS = {UID("1.2.840.10008.5.1.4.1.1.66.4"), UID("1.2.840.10008.5.1.4.1.1.66.7")}
"""Segmentation and Label Map Segmentation Storage."""


def is_own_result(file: Part10) -> bool:
    """Whether a file is an automatic result of ours.

    What a person drew stays a person's, whoever wrote the file: one segment or structure that is not AUTOMATIC
    makes the whole object an input. Other systems name themselves as the manufacturer of what they change.
    """
    # Bytes, as other systems' names are in any character set.
    names = {file.raw(keyword).strip(b"\0 ") for keyword in ("Manufacturer", "ManufacturerModelName")}
    if names != {MANUFACTURER.encode()}:
        return False
    sop_class = UID(file.text("SOPClassUID"))
    if sop_class in _SEGMENTATIONS:
        drawn = file.dataset.get("SegmentSequence") or ()
        return all(item.get("SegmentAlgorithmType") == "AUTOMATIC" for item in drawn if item.get("SegmentNumber"))
    if sop_class == RTStructureSetStorage:
        drawn = file.dataset.get("StructureSetROISequence") or ()
        return all(item.get("ROIGenerationAlgorithm") == "AUTOMATIC" for item in drawn)
    return sop_class in {Comprehensive3DSRStorage, SecondaryCaptureImageStorage}

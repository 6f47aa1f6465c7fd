"""DICOM without identities: the Basic Application Level Confidentiality Profile (PS3.15, Annex E).

With the options Retain Longitudinal Temporal Information With Modified Dates and Retain Patient Characteristics.
The actions by attribute are those of Table E.1-1 (2026c), from the package dicom-anonymizer. Beyond the profile:
all private attributes, overlays and person names go, and what still repeats a known identifier is emptied.
Only kinds of objects that hold pixels of a scanner, or labels, are exported: text and screenshots are refused.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from auscult.platform.errors import Refused, RefuseToStart
from auscult.publish.deidentified.pseudonyms import Pseudonyms

TABLE = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
EXPORTED = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "RT Dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "RT Structure Set",
}
"""SOP classes (PS3.4, B.5)."""
CHARACTERISTICS = {"PatientSex", "PatientAge", "PatientSize", "PatientWeight", "SmokingStatus", "PregnancyStatus"}
LABELS = {"ROIName", "SegmentLabel", "StructureSetLabel"}
"""Kept on request, where they are plain words: without them nobody knows which outline is which."""
PLAIN = re.compile(r"[A-Za-z0-9 _.+()/-]{1,32}")
OLDEST = 89
"""Years. Above it an age identifies (45 CFR 164.514(b)(2)(i)(C))."""
DUMMIES: dict[str, Any] = {
    "AS": "000Y", "DA": "19000101", "DT": "19000101", "TM": "000000", "UR": "http://removed.invalid",
    "DS": "0", "IS": "0", "FD": 0.0, "FL": 0.0, "SS": 0, "US": 0, "SL": 0, "UL": 0, "OB": b"\0\0", "UN": b"\0\0",
}  # fmt: skip
METHODS = (
    Code("113100", "DCM", "Basic Application Confidentiality Profile"),
    Code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Code("113108", "DCM", "Retain Patient Characteristics Option"),
)
TEMPORAL = {"DA", "DT", "TM"}
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "PatientBirthDate", "PatientAddress")
SHORTEST = 3
"""Characters of an identifier that is looked for in what remains; shorter ones are found everywhere."""


@cache
def _actions() -> dict[BaseTag, str]:
    try:
        table = import_module(TABLE)
    except ModuleNotFoundError:
        raise RefuseToStart("export-missing", "install the extra: pip install 'auscult[export]'") from None
    kinds = {
        "X": table.X_TAGS,
        # Where the table leaves a choice, what keeps any object valid (Type 2, then Type 1) is taken.
        "Z": table.Z_TAGS + table.X_Z_TAGS,
        "D": table.D_TAGS + table.Z_D_TAGS + table.X_D_TAGS + table.X_Z_D_TAGS,
        "U": table.U_TAGS + table.X_Z_U_STAR_TAGS,
    }
    # Entries of four numbers are repeating groups, which `_repeating` covers.
    return {Tag(*tag): action for action, tags in kinds.items() for tag in tags if len(tag) == 2}


def deidentify(original: FileDataset, names: Pseudonyms, *, keep_labels: bool = False) -> FileDataset:
    """Return `original` without what identifies its patient; `original` itself is used up.

    Refused names the objects that are not exported: other kinds than EXPORTED, and burned-in annotation.
    """
    kind = EXPORTED.get(str(original.get("SOPClassUID", "")))
    if kind is None:
        raise Refused("kind-not-exported", "only images, SEG, RTSTRUCT and RTDOSE are exported", status=415)
    if str(original.get("BurnedInAnnotation", "NO")).upper() != "NO":
        raise Refused("burned-in-annotation", "text may be burned into these pixels; clean them first", status=415)
    known = _identifiers(original)
    _Cleaning(names, keep_labels=keep_labels).clean(original)
    _empty_what_repeats(original, known)
    original.PatientID = original.PatientName = names.patient
    original.PatientBirthDate = ""
    original.PatientIdentityRemoved = "YES"
    original.DeidentificationMethod = "PS3.15 Annex E, Table E.1-1 2026c"
    original.DeidentificationMethodCodeSequence = [_coded(code) for code in METHODS]
    original.LongitudinalTemporalInformationModified = "MODIFIED"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = original.SOPClassUID
    meta.MediaStorageSOPInstanceUID = original.SOPInstanceUID
    meta.TransferSyntaxUID = original.file_meta.TransferSyntaxUID
    original.file_meta = meta
    original.preamble = b"\0" * 128
    return original


class _Cleaning:
    def __init__(self, names: Pseudonyms, *, keep_labels: bool) -> None:
        self._names = names
        self._keep_labels = keep_labels

    def clean(self, dataset: Dataset) -> None:
        """Treat every element, at every depth."""
        dataset.remove_private_tags()
        for element in list(dataset):
            self._treat(dataset, element)

    def _treat(self, dataset: Dataset, element: DataElement) -> None:
        action = _actions().get(element.tag, "")
        if _repeating(element.tag):
            del dataset[element.tag]
        elif element.VR == "SQ":
            self._treat_sequence(dataset, element, action)
        elif element.VR == "UI":
            self._replace_uid(element, action)
        elif element.VR in TEMPORAL:
            self._move(element)
        elif element.keyword == "PatientAge":
            element.value = _young(str(element.value or ""))
        elif element.keyword not in CHARACTERISTICS and not self._is_kept_label(element):
            _act(dataset, element, action)

    def _treat_sequence(self, dataset: Dataset, element: DataElement, action: str) -> None:
        if action in {"X", "D"}:
            del dataset[element.tag]
        elif action == "Z":
            element.value = []
        else:
            for item in element.value:
                self.clean(item)

    def _replace_uid(self, element: DataElement, action: str) -> None:
        """Replace UIDs of instances, and any that the standard does not define: it may be somebody's."""
        values = element.value if element.VM > 1 else [element.value]
        replaced = [
            self._names.uid(str(value)) if value and (action or not _standard(str(value))) else str(value or "")
            for value in values
        ]
        element.value = replaced if len(replaced) > 1 else replaced[0]

    def _move(self, element: DataElement) -> None:
        if element.VR == "TM":
            return
        values = element.value if element.VM > 1 else [element.value]
        moved = [self._names.dicom_date(str(value or "")) for value in values]
        element.value = moved if len(moved) > 1 else moved[0]

    def _is_kept_label(self, element: DataElement) -> bool:
        return (
            self._keep_labels and element.keyword in LABELS and PLAIN.fullmatch(str(element.value or "")) is not None
        )


def _act(dataset: Dataset, element: DataElement, action: str) -> None:
    if element.VR == "PN" or action == "Z":
        element.value = None
    elif action == "X":
        del dataset[element.tag]
    elif action == "D":
        element.value = DUMMIES.get(element.VR, "REMOVED")


def _standard(uid: str) -> bool:
    return uid.startswith("1.2.840.10008.") and bool(UID(uid).name != uid)


def _repeating(tag: BaseTag) -> bool:
    """Whether it is a curve (50xx) or an overlay (60xx): drawn or written by people."""
    return tag.group & 0xFF00 in {0x5000, 0x6000}


def _young(age: str) -> str:
    if not re.fullmatch(r"\d{3}[DWMY]", age):
        return ""
    return f"{OLDEST + 1:03d}Y" if age[3] == "Y" and int(age[:3]) > OLDEST else age


def _identifiers(dataset: Dataset) -> set[str]:
    """Return what identifies the patient, in lower case: names by their parts, numbers, and the birth date."""
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "PN":
            for value in element.value if element.VM > 1 else [element.value]:
                found.update(re.split(r"[\^=\s]+", str(value or "")))
    for keyword in (
        "PatientID",
        "OtherPatientIDs",
        "AccessionNumber",
        "StudyID",
        "PatientBirthDate",
        "PatientAddress",
    ):
        value = dataset.get(keyword)
        found.update(str(each) for each in ([value] if isinstance(value, str) or value is None else value))
    return {each.strip().lower() for each in found if len(each.strip()) >= SHORTEST}


def _empty_what_repeats(dataset: Dataset, known: set[str]) -> None:
    """Empty texts that still hold a known identifier, such as a name in a comment that the profile lets pass."""
    for element in dataset.iterall():
        if isinstance(element.value, bytes) or element.VR in {"SQ", "UI"} | TEMPORAL:
            continue
        text = str(element.value).lower()
        if any(re.search(rf"(?<![a-z0-9]){re.escape(each)}(?![a-z0-9])", text) for each in known):
            element.value = None


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item

"""Our coded concepts as DICOM's (PS3.16, 8): coding scheme designators, and what TID 1500 calls what mCODE names."""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from auscult.domain import codes
from auscult.domain.codes import Code

PRIVATE = "99AUSCULT"
"""Designator of our own codes, which are used where no standard has one (PS3.16, 8.2)."""

_DESIGNATORS = {
    codes.SNOMED: "SCT",
    codes.DCM: "DCM",
    codes.LOINC: "LN",
    codes.IBSI: "IBSI",
    codes.UCUM: "UCUM",
    codes.AUSCULT: PRIVATE,
}
_IN_REPORTS = {
    codes.LONGEST_DIAMETER: codes.LONG_AXIS,
    codes.OTHER_DIAMETER: codes.PERPENDICULAR_AXIS,
}
"""FHIR has mCODE's LOINC codes; TID 1500's readers look for those of CID 7470."""
_WITHOUT_CODES = {0x52009229, 0x52009230, 0x30060039}
"""Sequences as long as the study, which hold no codes of ours: functional groups and contours."""
_UNITS = {"1": "no units", "%": "Percent"}


def coded(code: Code) -> CodedConcept:
    """Return `code` as DICOM writes it; one that no standard has becomes a private one, from its text."""
    code = _IN_REPORTS.get(code, code)
    if not code.code:
        value = "-".join("".join(c if c.isalnum() else " " for c in code.display.lower()).split())
        return CodedConcept(value, PRIVATE, code.display[:64])
    return CodedConcept(code.code, _DESIGNATORS[code.system], code.display[:64])


def unit(ucum: str) -> CodedConcept:
    """Return a UCUM unit."""
    return CodedConcept(ucum, "UCUM", _UNITS.get(ucum, ucum))


def schemes(dataset: Dataset) -> list[CodingSchemeIdentificationItem] | None:
    """Return who is responsible for the schemes that DICOM does not define (PS3.3, C.12.1), where one is used."""
    if not _is_private(dataset):
        return None
    return [CodingSchemeIdentificationItem(PRIVATE, name="Auscult private codes", responsible_organization="Auscult")]


def _is_private(dataset: Dataset) -> bool:
    """Whether a private code is somewhere in `dataset`."""
    if dataset.get("CodingSchemeDesignator") == PRIVATE:
        return True
    return any(
        _is_private(item)
        for element in dataset
        if element.VR == "SQ" and element.tag not in _WITHOUT_CODES
        for item in element.value
    )

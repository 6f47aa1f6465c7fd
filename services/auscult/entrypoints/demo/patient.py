"""The demo's record: a Patient that fits the series, so that identity resolution has something to resolve."""

from __future__ import annotations

from pathlib import Path

import httpx
import pydicom

from auscult.entrypoints.demo.study import DemoError
from auscult.platform.settings import Settings
from auscult.publish.fhir.patients import GENDERS

SYSTEM = "urn:auscult:demo:patient-id"
PATIENT = "Patient/demo"
_TAGS = ["PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"]


def _header(files: list[Path]) -> pydicom.Dataset:
    return pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=_TAGS)


def systems_of(files: list[Path]) -> dict[str, str]:
    """Return the identifier systems of the series' issuer, known or not."""
    return {"": SYSTEM, str(_header(files).get("IssuerOfPatientID", "") or ""): SYSTEM}


def register(files: list[Path], settings: Settings) -> str:
    """Put a Patient with the series' identifier into the sandbox; return its reference."""
    header = _header(files)
    identifier = str(header.get("PatientID", "") or "")
    if not identifier:
        return PATIENT  # the product quarantines such a study, and the demo shows that
    patient = {"resourceType": "Patient", "id": "demo", "identifier": [{"system": SYSTEM, "value": identifier}]}
    born = str(header.get("PatientBirthDate", "") or "")
    if len(born) == 8:
        patient["birthDate"] = f"{born[:4]}-{born[4:6]}-{born[6:]}"
    if gender := GENDERS.get(str(header.get("PatientSex", "") or "")):
        patient["gender"] = gender
    answer = httpx.put(f"{settings.fhir_base}/{PATIENT}", json=patient)
    if not answer.is_success:
        raise DemoError("sandbox", f"the sandbox did not take the demo's patient: status {answer.status_code}")
    return PATIENT

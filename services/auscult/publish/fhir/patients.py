"""Whose is it: DICOM PatientID and issuer to the one FHIR Patient, or Quarantine.

A result on the wrong patient is the worst that can happen here, so every doubt stops it. No message names
anything of the patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from auscult.domain.study import Patient, PatientIdentity
from auscult.platform.errors import Quarantine
from auscult.publish.fhir.answers import Resource
from auscult.publish.fhir.client import FhirClient, reference_id, token
from auscult.publish.fhir.risk_factors import risk_factors

__all__ = ["resolve", "risk_factors"]

GENDERS = {"M": "male", "F": "female", "O": "other"}
"""DICOM PatientSex to FHIR administrative gender."""


def resolve(client: FhirClient, identity: PatientIdentity, systems: Mapping[str, str]) -> Patient:
    """Return the one Patient with this identifier whose birth date and sex do not contradict the images.

    `systems`: IssuerOfPatientID to FHIR identifier system. Raises Quarantine with the reason `no-patient-id`,
    `unknown-issuer`, `unknown-patient`, `several-patients`, `inactive-patient`, `patient-merged` or
    `patient-mismatch`; Retry where the server cannot say.
    """
    value = identity.patient_id.strip()
    if not value:
        raise Quarantine(
            "no-patient-id", "the images bear no PatientID; correct them at the modality or PACS, resend"
        )
    system = systems.get(identity.issuer.strip())
    if system is None:
        raise Quarantine(
            "unknown-issuer",
            "the images' IssuerOfPatientID is not in AUSCULT_PATIENT_IDENTIFIER_SYSTEMS; add it there, replay",
        )
    found = client.search("Patient", {"identifier": token(system, value)})
    # A server that ignores a parameter answers with every patient: only an exact identifier counts.
    exact = {patient["id"]: patient for patient in found if _bears(patient, system, value) and "id" in patient}
    patient = _survivor(client, exact)
    _check(identity, patient)
    return Patient(f"Patient/{patient['id']}", _birth_date(patient), str(patient.get("gender", "")))


def _bears(patient: Resource, system: str, value: str) -> bool:
    return any(
        identifier.get("system") == system and identifier.get("value") == value
        for identifier in patient.get("identifier", [])
    )


def _survivor(client: FhirClient, found: dict[str, Resource]) -> Resource:
    """Return the one patient; of merged ones the one that replaces the others. One link is followed, no more."""
    if not found:
        raise Quarantine("unknown-patient", "the record has no patient with this identifier; register it, replay")
    replaced = {identity: successor for identity, patient in found.items() if (successor := _replaced_by(patient))}
    if len(found) == 1 and replaced:
        ((_, successor),) = replaced.items()
        patient = client.read("Patient", successor)
        if patient is None or _replaced_by(patient):
            raise Quarantine(
                "patient-merged",
                "the patient was merged into one that is not there or was itself merged; repair the link, replay",
            )
    else:
        current = [patient for identity, patient in found.items() if identity not in replaced]
        if len(current) != 1 or any(successor != current[0]["id"] for successor in replaced.values()):
            raise Quarantine(
                "several-patients", "the record has several patients with this identifier; merge or correct, replay"
            )
        patient = current[0]
    if patient.get("active") is False:
        raise Quarantine("inactive-patient", "the patient's record is not in active use; correct it, replay")
    return patient


def _replaced_by(patient: Resource) -> str | None:
    """Return the id of the patient that replaces this one (R4 `patient.html#link`)."""
    for link in patient.get("link", []):
        if link.get("type") == "replaced-by":
            try:
                return reference_id(str(link.get("other", {}).get("reference", "")), "Patient")
            except ValueError:
                raise Quarantine(
                    "patient-merged", "the patient was merged into one that is not on this FHIR server; replay there"
                ) from None
    return None


def _check(identity: PatientIdentity, patient: Resource) -> None:
    """Compare what both sides state; a FHIR birth date may be a year or a month."""
    wrong = []
    born = str(patient.get("birthDate", ""))
    if born and identity.birth_date and not identity.birth_date.isoformat().startswith(born):
        wrong.append("birth date")
    gender, sex = patient.get("gender", "unknown"), GENDERS.get(identity.sex.strip().upper())
    if gender != "unknown" and sex and sex != gender:
        wrong.append("sex")
    if wrong:
        raise Quarantine(
            "patient-mismatch",
            f"the images and the record differ in {' and '.join(wrong)}: find out whose images they are; "
            "correct one side, replay",
        )


def _birth_date(patient: Resource) -> date | None:
    try:
        return date.fromisoformat(str(patient.get("birthDate", "")))
    except ValueError:
        return None

"""Whose is it: DICOM PatientID and issuer to the one FHIR Patient, or Quarantine.

A result on the wrong patient is the worst that can happen here, so every doubt stops it. No message names
anything of the patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from auscult.domain.study import Patient, PatientIdentity
from auscult.platform.errors import Quarantine
from auscult.publish.fhir.answers import Resource, objects, within
from auscult.publish.fhir.client import FhirClient, reference_id, token
from auscult.publish.fhir.risk_factors import risk_factors

__all__ = ["resolve", "risk_factors"]

MOST_LINKS = 16
"""Merges one upon another; more is an error in the record."""
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
    exact = {
        patient["id"]: patient
        for patient in found
        if bears(patient, system, value) and isinstance(patient.get("id"), str)
    }
    patient = _survivor(client, exact)
    _check(identity, patient)
    return Patient(f"Patient/{patient['id']}", _birth_date(patient), str(patient.get("gender", "")))


def bears(patient: Resource, system: str, value: str) -> bool:
    """Whether a Patient has this very identifier: servers may ignore what was searched for."""
    return any(
        identifier.get("system") == system and identifier.get("value") == value
        for identifier in objects(patient.get("identifier", []))
    )


def _survivor(client: FhirClient, found: dict[str, Resource]) -> Resource:
    """Return the one patient; of merged ones the one that replaces the others, along their links."""
    if not found:
        raise Quarantine("unknown-patient", "the record has no patient with this identifier; register it, replay")
    ends = {last["id"]: last for last in (_followed(client, patient, found) for patient in found.values())}
    if len(ends) != 1:
        raise Quarantine(
            "several-patients", "the record has several patients with this identifier; merge or correct, replay"
        )
    (patient,) = ends.values()
    if patient.get("active") is False:
        raise Quarantine("inactive-patient", "the patient's record is not in active use; correct it, replay")
    return patient


def _followed(client: FhirClient, patient: Resource, known: Mapping[str, Resource]) -> Resource:
    """Return the patient at the end of `patient`'s links; Quarantine where they lead nowhere, or round and round."""
    passed = {patient["id"]}
    while successor := _replaced_by(patient):
        following = known.get(successor) or client.read("Patient", successor)
        if following is None or successor in passed or len(passed) > MOST_LINKS:
            raise Quarantine(
                "patient-merged",
                "the patient was merged into one that is not there, or in a circle; repair the links, replay",
            )
        passed.add(successor)
        patient = {**following, "id": successor}
    return patient


def survivor(client: FhirClient, reference: str) -> str:
    """Return the `Patient/<id>` that stands for this one after merges; itself where there were none.

    Quarantine (`patient-merged`) as `resolve`; Retry where the server cannot say.
    """
    identity = reference_id(reference, "Patient")
    patient = client.read("Patient", identity)
    return reference if patient is None else f"Patient/{_followed(client, {**patient, 'id': identity}, {})['id']}"


def _replaced_by(patient: Resource) -> str | None:
    """Return the id of the patient that replaces this one (R4 `patient.html#link`)."""
    for link in objects(patient.get("link", [])):
        if link.get("type") == "replaced-by":
            try:
                return reference_id(str(within(link, "other").get("reference", "")), "Patient")
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

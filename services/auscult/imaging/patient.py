"""Whose study it is: one patient, or quarantine."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from auscult.domain.study import PatientIdentity
from auscult.imaging.header import InstanceHeader
from auscult.platform.errors import Quarantine


def one_patient(headers: Collection[InstanceHeader]) -> PatientIdentity:
    """Return what all instances of a study together say about the patient.

    An issuer, birth date or sex that one object leaves out (as planning systems do) contradicts nothing; a
    different one does, and so does any other PatientID, an empty one too. Quarantine (`two-patients`).
    """
    given = {header.patient for header in headers}
    issuers: set[str] = {patient.issuer for patient in given if patient.issuer}
    births: set[date] = {patient.birth_date for patient in given if patient.birth_date}
    sexes: set[str] = {patient.sex for patient in given if patient.sex}
    ids = {patient.patient_id for patient in given}
    for what, values in (
        ("PatientID", ids),
        ("IssuerOfPatientID", issuers),
        ("PatientBirthDate", births),
        ("PatientSex", sexes),
    ):
        if len(values) > 1:
            raise Quarantine(
                "two-patients",
                f"the study's instances have {len(values)} different values of {what}; "
                "correct the study in the PACS, then send it again as a new study",
            )
    return PatientIdentity(
        patient_id=next(iter(ids), ""),
        issuer=next(iter(issuers), ""),
        birth_date=next(iter(births), None),
        sex=next(iter(sexes), ""),
    )

"""What the record says of a patient's risk factors, asked in one round trip.

What the record does not mention is unknown, never absent: a factor is False only where the record says so
(a refuted condition, "never smoked tobacco"). Conditions that are not confirmed leave it unknown.

Codes. SNOMED CT, LOINC and mCODE ones were checked against published value sets, of ICD-10 Z80.1, Z94.3-Z94.4, D84.82
and B20; the other ICD-10 ones are whole categories of the classification, which a site's coders should confirm:

- ICD-10 (WHO, CM and GM share these): J43 emphysema; C00-C97 malignant neoplasms; C34 lung; B20-B24 HIV disease;
  D80-D84 immunodeficiencies; Z94.0-Z94.4 transplanted kidney, heart, lung, liver; Z80.1 family history of
  malignant neoplasm of trachea, bronchus and lung.
- SNOMED CT: as named below. A site that codes cancers in SNOMED CT alone is covered for the parent concept, lung
  cancers and mCODE's cancer conditions, as finer codes need a terminology server.
- LOINC 72166-2 Tobacco smoking status, with US Core's SNOMED CT values or answer list LL2201-3.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from auscult.domain.codes import LOINC, SNOMED
from auscult.domain.study import RiskFactors
from auscult.publish.fhir.answers import Resource, listed, within
from auscult.publish.fhir.client import FhirClient, reference_id

ICD_10 = frozenset(
    {
        "http://hl7.org/fhir/sid/icd-10",
        "http://hl7.org/fhir/sid/icd-10-cm",
        "http://fhir.de/CodeSystem/bfarm/icd-10-gm",
    }
)
MCODE_CANCERS = frozenset(
    {
        "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-primary-cancer-condition",
        "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-secondary-cancer-condition",
    }
)
SMOKING_STATUS = "72166-2"
EVER_SMOKED = frozenset(
    {
        (SNOMED, "449868002"),  # Smokes tobacco daily
        (SNOMED, "428041000124106"),  # Occasional tobacco smoker
        (SNOMED, "428061000124105"),  # Light tobacco smoker
        (SNOMED, "428071000124103"),  # Heavy tobacco smoker
        (SNOMED, "77176002"),  # Smoker
        (SNOMED, "8517006"),  # Ex-smoker
        (LOINC, "LA18976-3"),  # Current every day smoker
        (LOINC, "LA18977-1"),  # Current some day smoker
        (LOINC, "LA15920-4"),  # Former smoker
        (LOINC, "LA18979-7"),  # Smoker, current status unknown
        (LOINC, "LA18981-3"),  # Heavy tobacco smoker
        (LOINC, "LA18982-1"),  # Light tobacco smoker
    }
)
NEVER_SMOKED = frozenset({(SNOMED, "266919005"), (LOINC, "LA18978-9")})

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Factor:
    """How a factor is recorded: codes that ICD-10 categories begin with, SNOMED CT concepts, profiles."""

    icd_10: re.Pattern[str]
    snomed: frozenset[str]
    profiles: frozenset[str] = field(default=frozenset())
    statuses: frozenset[str] | None = None
    """Clinical statuses in which it counts; None: in all."""

    def is_in(self, resource: Resource) -> bool:
        """Whether `resource.code`, or a profile that it claims, names this factor."""
        claimed = map(str, listed(within(resource, "meta").get("profile")))
        return bool(self.profiles.intersection(claimed)) or any(
            (system in ICD_10 and self.icd_10.match(code)) or (system == SNOMED and code in self.snomed)
            for system, code in _codings(resource.get("code"))
        )


_ACTIVE = frozenset({"active", "recurrence", "relapse"})
EMPHYSEMA = _Factor(re.compile(r"J43"), frozenset({"87433001"}))  # Pulmonary emphysema
LUNG_CANCER = _Factor(
    re.compile(r"C34"),
    frozenset(
        {
            "363358000",  # Malignant tumor of lung
            "93880001",  # Primary malignant neoplasm of lung
            "254637007",  # Non-small cell lung cancer
            "254632001",  # Small cell carcinoma of lung
        }
    ),
)
CANCER = _Factor(
    re.compile(r"C[0-9]"),
    LUNG_CANCER.snomed | {"363346000"},  # Malignant neoplastic disease
    MCODE_CANCERS,
    # In remission it may still have spread; resolved and inactive ones are history.
    _ACTIVE | {"remission"},
)
IMMUNOSUPPRESSION = _Factor(
    re.compile(r"B2[0-4]|D8[0-4]|Z94\.?[0-4]"),
    frozenset(
        {
            "370388006",  # Patient immunocompromised
            "370391006",  # Patient immunosuppressed
            "234532001",  # Immunodeficiency disorder
            "86406008",  # Human immunodeficiency virus infection
        }
    ),
    statuses=_ACTIVE,
)
FAMILY_HISTORY = _Factor(re.compile(r"Z80\.?1"), frozenset())


def risk_factors(client: FhirClient, patient: str) -> RiskFactors:
    """Return what the record says of `patient` (`Patient/<id>`); Retry where the server cannot say."""
    identity = reference_id(patient, "Patient")
    # Read whole and matched here: token search has no prefixes, which ICD-10's categories need.
    conditions, relatives, smoking = client.batch(
        [
            ("Condition", {"patient": identity, "_count": "200"}),
            ("FamilyMemberHistory", {"patient": identity, "_count": "200"}),
            ("Observation", {"patient": identity, "code": f"{LOINC}|{SMOKING_STATUS}", "_count": "200"}),
        ]
    )
    for kind, answer in (("Condition", conditions), ("FamilyMemberHistory", relatives), ("Observation", smoking)):
        if answer is None:
            LOG.warning("the FHIR server does not support searching %s by patient; what it holds stays unknown", kind)
    return stated(conditions, relatives, smoking)


def stated(
    conditions: Iterable[Resource] | None, relatives: Iterable[Resource] | None, smoking: Iterable[Resource] | None
) -> RiskFactors:
    """Return what Conditions, FamilyMemberHistories and Observations of smoking say; None: they are not known."""
    conditions = list(conditions or [])
    return RiskFactors(
        family_history_of_lung_cancer=_either(
            _condition(FAMILY_HISTORY, conditions), _family(relatives or []) or None
        ),
        emphysema=_condition(EMPHYSEMA, conditions),
        smoker=_smoker(smoking or []),
        known_cancer=_condition(CANCER, conditions),
        immunosuppressed=_condition(IMMUNOSUPPRESSION, conditions),
    )


def _either(*said: bool | None) -> bool | None:
    """Return True where one says so, else False where one says so, else None."""
    return True if True in said else False if False in said else None


def _condition(factor: _Factor, conditions: Iterable[Resource]) -> bool | None:
    return _either(*(_stated(factor, condition) for condition in conditions if factor.is_in(condition)))


def _stated(factor: _Factor, condition: Resource) -> bool | None:
    """Return what one Condition says; one without a status is taken as it stands."""
    verification = next((code for _, code in _codings(condition.get("verificationStatus"))), "confirmed")
    if verification != "confirmed":
        return False if verification == "refuted" else None
    clinical = next((code for _, code in _codings(condition.get("clinicalStatus"))), None)
    return True if clinical is None or factor.statuses is None or clinical in factor.statuses else None


def _family(relatives: Iterable[Resource]) -> bool:
    return any(
        LUNG_CANCER.is_in(condition)
        for relative in relatives
        if relative.get("status") != "entered-in-error"
        for condition in listed(relative.get("condition"))
        if isinstance(condition, dict)
    )


def _smoker(observations: Iterable[Resource]) -> bool | None:
    """Return whether the patient ever smoked: one record of smoking outweighs later ones of never."""
    said: list[bool | None] = []
    for observation in observations:
        if str(observation.get("status")) not in {"entered-in-error", "cancelled"}:
            values = set(_codings(observation.get("valueCodeableConcept")))
            said.append(True if values & EVER_SMOKED else False if values & NEVER_SMOKED else None)
    return _either(*said)


def _codings(concept: object) -> Iterator[tuple[str, str]]:
    """Yield (system, code) of a CodeableConcept that may be missing, or be anything."""
    for coding in listed(concept.get("coding")) if isinstance(concept, dict) else ():
        if isinstance(coding, dict):
            yield str(coding.get("system", "")), str(coding.get("code", ""))

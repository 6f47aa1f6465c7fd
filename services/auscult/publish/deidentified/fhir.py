"""FHIR R4 without identities: of each resource type the elements that are listed here remain, and nothing else.

Free text, identifiers, names, performers, locations and extensions are on no list. Ids, references and study UIDs
become pseudonyms, dates move with the patient; a birth date becomes its year, none above 89 years of age.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from auscult.publish.deidentified.dicom import OLDEST
from auscult.publish.deidentified.pseudonyms import Pseudonyms

Resource = dict[str, Any]

_CODED = {"coding": {"system": ..., "version": ..., "code": ..., "display": ...}}
_QUANTITY = {"value": ..., "comparator": ..., "unit": ..., "system": ..., "code": ...}
_RANGE = {"low": _QUANTITY, "high": _QUANTITY}
_PERIOD = {"start": "date", "end": "date"}
_REFERENCE = {"reference": "reference"}
_META = {"profile": ..., "security": {"system": ..., "code": ..., "display": ...}}
_VALUES = {
    "valueQuantity": _QUANTITY, "valueCodeableConcept": _CODED, "valueInteger": ..., "valueBoolean": ...,
    "valueRange": _RANGE, "valueRatio": {"numerator": _QUANTITY, "denominator": _QUANTITY},
    "dataAbsentReason": _CODED, "interpretation": _CODED,
}  # fmt: skip

ALLOWED: dict[str, dict[str, Any]] = {
    "Patient": {"gender": ..., "deceasedBoolean": ...},
    "Observation": {
        "status": ..., "category": _CODED, "code": _CODED, "subject": _REFERENCE, "focus": _REFERENCE,
        "effectiveDateTime": "date", "effectivePeriod": _PERIOD, "bodySite": _CODED, "method": _CODED,
        "device": _REFERENCE, "hasMember": _REFERENCE, "derivedFrom": _REFERENCE, **_VALUES,
        "component": {"code": _CODED, **_VALUES},
    },
    "RiskAssessment": {
        "status": ..., "method": _CODED, "code": _CODED, "subject": _REFERENCE, "occurrenceDateTime": "date",
        "basis": _REFERENCE,
        "prediction": {
            "outcome": _CODED, "probabilityDecimal": ..., "probabilityRange": _RANGE, "qualitativeRisk": _CODED,
            "relativeRisk": ..., "whenRange": _RANGE, "whenPeriod": _PERIOD,
        },
    },
    "Condition": {
        "clinicalStatus": _CODED, "verificationStatus": _CODED, "category": _CODED, "severity": _CODED,
        "code": _CODED, "bodySite": _CODED, "subject": _REFERENCE, "onsetDateTime": "date", "recordedDate": "date",
        "abatementDateTime": "date", "stage": {"summary": _CODED, "assessment": _REFERENCE, "type": _CODED},
    },
    "Procedure": {
        "status": ..., "category": _CODED, "code": _CODED, "subject": _REFERENCE, "performedDateTime": "date",
        "performedPeriod": _PERIOD, "bodySite": _CODED, "outcome": _CODED,
    },
    "ImagingStudy": {
        "identifier": {"system": ..., "value": "study"}, "status": ..., "modality": {"system": ..., "code": ...},
        "subject": _REFERENCE, "started": "date", "numberOfSeries": ..., "numberOfInstances": ...,
        "series": {
            "uid": "uid", "number": ..., "modality": {"system": ..., "code": ...}, "numberOfInstances": ...,
            "bodySite": {"system": ..., "code": ..., "display": ...}, "started": "date",
            "instance": {"uid": "uid", "sopClass": {"system": ..., "code": ...}, "number": ...},
        },
    },
    "DiagnosticReport": {
        "status": ..., "category": _CODED, "code": _CODED, "subject": _REFERENCE, "effectiveDateTime": "date",
        "result": _REFERENCE, "imagingStudy": _REFERENCE, "conclusionCode": _CODED,
    },
    "Device": {
        "status": ..., "manufacturer": ..., "deviceName": {"name": ..., "type": ...}, "modelNumber": ...,
        "version": {"value": ...}, "type": _CODED,
    },
}  # fmt: skip
"""What remains, by resource type. `...`: as it is; a word: replaced by that rule. `contained` never remains."""


def deidentify(resource: Resource, names: Pseudonyms) -> Resource | None:
    """Return what may leave of `resource`, or None where nothing of its type may."""
    kind = str(resource.get("resourceType", ""))
    if kind not in ALLOWED:
        return None
    left: Resource = {"resourceType": kind}
    if "id" in resource:
        left["id"] = names.fhir_id(kind, str(resource["id"]))
    left |= _kept(resource, {"meta": _META} | ALLOWED[kind], names) or {}
    if kind == "Patient" and (year := _birth_year(str(resource.get("birthDate", "")))):
        left["birthDate"] = year
    return left


def _kept(given: Any, rule: Any, names: Pseudonyms) -> Any:
    """Apply a rule; None where nothing remains."""
    if isinstance(given, list):
        return [left for each in given if (left := _kept(each, rule, names)) is not None] or None
    if isinstance(rule, dict):
        if not isinstance(given, dict):
            return None
        left = {name: _kept(given[name], part, names) for name, part in rule.items() if name in given}
        return {name: value for name, value in left.items() if value is not None} or None
    if isinstance(given, dict) or given is None:
        return None
    return given if rule is ... else _replaced(str(given), rule, names)


def _replaced(value: str, rule: str, names: Pseudonyms) -> str | None:
    if rule == "date":
        return names.fhir_date(value)
    if rule == "uid":
        return names.uid(value)
    if rule == "study":
        return f"urn:oid:{names.uid(value.removeprefix('urn:oid:'))}"
    kind, slash, found = value.partition("/")
    # Absolute and contained references, and those to people or places, point to what is not exported.
    return f"{kind}/{names.fhir_id(kind, found)}" if slash and kind in ALLOWED and "/" not in found else None


def _birth_year(birth_date: str) -> str | None:
    year = birth_date[:4]
    if not year.isdigit():
        return None
    return max(year, str(datetime.now(UTC).year - OLDEST))

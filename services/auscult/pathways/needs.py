"""Looks whether the record says what a pathway declared to need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from auscult.domain.study import Fact
from auscult.pathways.pathway import Need
from auscult.publish.fhir.answers import Resource
from auscult.publish.fhir.client import FhirClient, reference_id

SAID = frozenset({"final", "amended", "corrected"})
"""Statuses in which an Observation says something; a preliminary one may still be taken back."""
WRONG = frozenset({"entered-in-error", "cancelled", "refuted", "not-done", "rejected", "draft"})
_DATES = (
    "effectiveDateTime",
    "effectiveInstant",
    "performedDateTime",
    "recordedDate",
    "authoredOn",
    "occurrenceDateTime",
    "date",
    "issued",
)
"""Elements that say when, the most telling first."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What the record says, and which needs it leaves open."""

    facts: tuple[Fact, ...]
    missing: tuple[Need, ...]


def look(client: FhirClient, patient: str, needs: Sequence[Need], on: date | None) -> Looked:
    """Ask for all `needs` about `patient` (`Patient/<id>`) in one round trip; Retry where the server cannot say.

    `on`: the study's date, to which ages are reckoned; today where it is None. What the server cannot search for
    is missing.
    """
    if not needs:
        return Looked((), ())
    identity = reference_id(patient, "Patient")
    answers = client.batch([_search(need, identity) for need in needs])
    facts: list[Fact] = []
    missing: list[Need] = []
    for need, answer in zip(needs, answers, strict=True):
        said = [fact for resource in answer or () if (fact := _fact(need, resource, patient, on)) is not None]
        if said:
            facts.append(max(said, key=lambda fact: (fact.recorded, fact.reference)))
        else:
            missing.append(need)
    return Looked(tuple(facts), tuple(missing))


def _search(need: Need, patient: str) -> tuple[str, dict[str, str]]:
    if need.kind == "Patient":
        return "Patient", {"_id": patient}
    parameters = {"patient": patient, "_count": "200"}
    if need.codes:
        parameters["code"] = ",".join(f"{code.system}|{code.code}" for code in need.codes)
    return need.kind, parameters


def _fact(need: Need, resource: Resource, patient: str, on: date | None) -> Fact | None:
    """Return what a resource says of a need; None where it does not count. Servers may ignore what was asked."""
    reference = f"{resource.get('resourceType')}/{resource.get('id')}"
    if need.kind == "Patient":
        value = resource.get(need.element)
        told = isinstance(value, str | int | float | bool) and reference == patient
        return Fact(need.name, reference, str(value)) if told else None
    if not _about(resource, patient) or not _valid(resource):
        return None
    if need.codes and not {(code.system, code.code) for code in need.codes} & set(_codings(resource.get("code"))):
        return None
    recorded = next((str(resource[name]) for name in _DATES if isinstance(resource.get(name), str)), "")
    if need.not_older_than is not None:
        day = _day(recorded)
        if day is None or day < (on or date.today()) - timedelta(days=need.not_older_than):  # noqa: DTZ011 - a day
            return None
    value, unit = _value(resource)
    if value is None and need.kind == "Observation":
        return None
    return Fact(need.name, reference, value, unit, recorded)


def _about(resource: Resource, patient: str) -> bool:
    """Whether it is about the patient; servers may answer with absolute references."""
    return any(
        isinstance(said := resource.get(element), dict)
        and "/".join(str(said.get("reference", "")).split("/_history/")[0].split("/")[-2:]) == patient
        for element in ("patient", "subject")
    )


def _valid(resource: Resource) -> bool:
    status = str(resource.get("status", ""))
    if resource.get("resourceType") == "Observation":
        return status in SAID
    verification = {code for _, code in _codings(resource.get("verificationStatus"))}
    return status not in WRONG and not verification & WRONG


def _value(resource: Resource) -> tuple[float | str | None, str]:
    quantity = resource.get("valueQuantity")
    if isinstance(quantity, dict) and isinstance(quantity.get("value"), int | float) and "comparator" not in quantity:
        return float(quantity["value"]), str(quantity.get("code") or quantity.get("unit") or "")
    concept = resource.get("valueCodeableConcept")
    if isinstance(concept, dict):
        code = next((code for _, code in _codings(concept)), "") or str(concept.get("text", ""))
        return code or None, ""
    for name in ("valueString", "valueDateTime", "valueInteger", "valueBoolean"):
        if isinstance(resource.get(name), str | int | bool):
            return str(resource[name]), ""
    return None, ""


def _codings(concept: Any) -> Iterator[tuple[str, str]]:
    codings = concept.get("coding", []) if isinstance(concept, dict) else []
    for coding in codings if isinstance(codings, list) else []:
        if isinstance(coding, dict):
            yield str(coding.get("system", "")), str(coding.get("code", ""))


def _day(text: str) -> date | None:
    """Return a dateTime's day, the first one where only a month or a year is given."""
    parts = text[:10].split("-")
    try:
        return date.fromisoformat("-".join([*parts, "01", "01"][:3]))
    except ValueError:
        return None

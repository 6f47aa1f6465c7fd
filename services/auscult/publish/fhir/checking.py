"""Whether FHIR allows what is written: its classes look at each shape of resource once.

A class takes 0.3 ms to look at an Observation, and a result may have a hundred that differ in their numbers and
words alone. So each resource is reduced to its shape, in which a value that is certainly allowed where it stands is
replaced by its kind. A shape that was found good is not looked at again; any other value is part of the shape, and
makes the classes look.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

from auscult.platform.errors import DeadLetter
from auscult.publish.fhir.elements import Json

CLASSES = {
    name: get_fhir_model_class(name)
    for name in (
        "AuditEvent",
        "Device",
        "DiagnosticReport",
        "ImagingStudy",
        "Observation",
        "Provenance",
        "RiskAssessment",
        "ServiceRequest",
        "Task",
    )
}
"""Loaded here, as loading takes 50 ms that the first result has not."""
MOST_SHAPES = 10_000
TEXT = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f]*\S[^\x00-\x08\x0b\x0c\x0e-\x1f]*")
URI = re.compile(r"\S+")
CODE = re.compile(r"\S+(\s\S+)*")
ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
OID = re.compile(r"urn:oid:[0-2](\.(0|[1-9][0-9]*))+")
HARMLESS = {
    "id": ID,
    "code": CODE,
    "valueOid": OID,
    **dict.fromkeys(("system", "url", "reference"), URI),
    **dict.fromkeys(
        ("value", "text", "display", "unit", "valueString", "conclusion", "rationale", "mitigation"), TEXT
    ),
}
"""By element: what is allowed wherever we write it (R4 `datatypes.html#primitive`)."""
INSTANTS = frozenset({"issued", "recorded"})
TIMES = frozenset({"effectiveDateTime", "occurrenceDateTime", "started", "authoredOn"})

_good: set[int] = set()


def check(resources: Iterable[Json], pathway: str) -> None:
    """DeadLetter (`result-invalid`) where FHIR does not allow what a resource holds; it names places, not values."""
    wrong: set[str] = set()
    for resource in resources:
        shape = hash(_shape(resource, ""))
        if shape in _good:
            continue
        kind = resource["resourceType"]
        try:
            CLASSES[kind].model_validate(resource)
        except ValidationError as error:
            wrong |= {".".join(str(part) for part in (kind, *item["loc"])) for item in error.errors()}
            continue
        if len(_good) >= MOST_SHAPES:
            _good.clear()
        _good.add(shape)
    if wrong:
        raise DeadLetter(
            "result-invalid",
            f"the pathway {pathway} gave what FHIR cannot hold, at {', '.join(sorted(wrong))}; correct the pathway",
        )


def _shape(value: Any, element: str) -> Hashable:
    if isinstance(value, str):
        return _kind(value, element)
    if isinstance(value, dict):
        return frozenset([(key, _shape(item, key)) for key, item in value.items()])
    if isinstance(value, list):
        return "list", frozenset([_shape(item, element) for item in value])
    if isinstance(value, Decimal) and value.is_finite():
        return Decimal
    return type(value), repr(value)


def _kind(text: str, element: str) -> Hashable:
    """Return what stands for a text that is certainly allowed as `element`; itself, where that is not certain."""
    if pattern := HARMLESS.get(element):
        return pattern if pattern.fullmatch(text) else text
    if element in INSTANTS:
        return element if _is_time(text, "issued") else text
    if element in TIMES:
        return element if _is_time(text, "effectiveDateTime") else text
    return text


@lru_cache(256)
def _is_time(value: str, element: str) -> bool:
    """Whether FHIR's own class takes it; a result has two or three."""
    observed = {"resourceType": "Observation", "status": "final", "code": {"text": "any"}, element: value}
    try:
        CLASSES["Observation"].model_validate(observed)
    except ValidationError:
        return False
    return True

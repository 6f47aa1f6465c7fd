"""IHE BALP 1.1's profiles of AuditEvent, as checks by hand: the package itself is in no registry of ours.

Written from the profiles' own definitions (ITI BALP, IHE.BasicAudit.PatientCreate, .PatientUpdate, .AuthZconsent).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

DCM = "http://dicom.nema.org/resources/ontology/DCM"
TERMS = "http://terminology.hl7.org/CodeSystem"
REST = {"system": f"{TERMS}/audit-event-type", "code": "rest", "display": "Restful Operation"}
ROLES = {"3", "4", "20"}
"""Of the value set RestObjectRoles, which binds the data entity's role."""
LETTERS = {"create": "C", "update": "U"}


def written(event: dict[str, Any], action: str) -> Iterator[str]:
    """Say where an AuditEvent is not what PatientCreate (`create`) or PatientUpdate (`update`) demands."""
    interaction = {"system": "http://hl7.org/fhir/restful-interaction", "code": action, "display": action}
    yield from _unlike(event, type=REST, action=LETTERS[action], outcome="0")
    if event["subtype"].count(interaction) != 1:
        yield "subtype"
    for code, display in (("110153", "Source Role ID"), ("110152", "Destination Role ID")):
        yield from _agent(event, {"system": DCM, "code": code, "display": display}, networked=True)
    yield from _patient(event)
    (data,) = _entities(event, f"{TERMS}/audit-entity-type", "2")
    if data["role"]["system"] != f"{TERMS}/object-role" or data["role"]["code"] not in ROLES or "what" not in data:
        yield "entity:data"


def denied(event: dict[str, Any]) -> Iterator[str]:
    """Say where it is not what AuthZconsent demands, but for the user and the organization, who are not there."""
    yield from _unlike(event, action="E", outcome="8")
    if event["type"] != {"system": DCM, "code": "110113", "display": "Security Alert"}:
        yield "type"
    ours = {"system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType", "code": "AuthZ-Consent"}
    if not any(ours.items() <= subtype.items() for subtype in event["subtype"]):
        yield "subtype"
    if not event["outcomeDesc"]:
        yield "outcomeDesc"
    yield from _agent(event, {"system": DCM, "code": "110150"}, networked=True)
    yield from _agent(event, {"system": f"{TERMS}/extra-security-role-type", "code": "authserver"}, networked=False)
    yield from _patient(event)


def _unlike(event: dict[str, Any], **fixed: Any) -> Iterator[str]:
    for name, value in fixed.items():
        if event.get(name) != value:
            yield name
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", event["recorded"]):
        yield "recorded"
    if "observer" not in event["source"]:
        yield "source"


def _agent(event: dict[str, Any], coding: dict[str, str], *, networked: bool) -> Iterator[str]:
    found = [
        agent
        for agent in event["agent"]
        if any(coding.items() <= said.items() for said in agent["type"]["coding"])
    ]  # fmt: skip
    good = len(found) == 1 and found[0].get("who") and "media" not in found[0]
    if not good or (networked and not found[0].get("network", {}).get("address")):
        yield f"agent:{coding['code']}"


def _patient(event: dict[str, Any]) -> Iterator[str]:
    found = _entities(event, f"{TERMS}/audit-entity-type", "1")
    role = {"system": f"{TERMS}/object-role", "code": "1", "display": "Patient"}
    if len(found) != 1 or found[0]["role"] != role or not found[0]["what"]["reference"].startswith("Patient/"):
        yield "entity:patient"


def _entities(event: dict[str, Any], system: str, code: str) -> list[dict[str, Any]]:
    return [one for one in event["entity"] if (one["type"]["system"], one["type"]["code"]) == (system, code)]

"""The hooks, and what an EHR tells with each (CDS Hooks library; the versions that are named there)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from auscult.platform.errors import Refused

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hook:
    """What is in a hook's context. `texts`: required ids and references. `resources`: required FHIR content."""

    version: str
    texts: tuple[str, ...] = ("userId", "patientId")
    resources: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    """One of these is required: versions of the hook differ."""


HOOKS: Mapping[str, Hook] = {
    "patient-view": Hook("1.0"),
    "encounter-start": Hook("1.0", ("userId", "patientId", "encounterId")),
    "encounter-discharge": Hook("1.0", ("userId", "patientId", "encounterId")),
    "order-select": Hook("1.0", resources=("draftOrders", "selections")),
    "order-sign": Hook("1.1", resources=("draftOrders",)),
    "order-dispatch": Hook("1.1", ("patientId", "performer"), either=("order", "dispatchedOrders")),
    "appointment-book": Hook("1.0", resources=("appointments",)),
    "problem-list-item-create": Hook("0.1.0", resources=("conditions",)),
    "allergyintolerance-create": Hook("0.1.0", either=("allergyIntolerance", "allergyIntolerances")),
}


def check_context(hook: str, context: Mapping[str, Any]) -> None:
    """Hold a context against its hook; Refused (400) names the field that is missing or of another type."""
    wanted = HOOKS[hook]
    for name in wanted.texts:
        value = context.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= 1024:
            raise Refused("context-invalid", f"context.{name} must be a text for the hook {hook}", status=400)
    for name in wanted.resources:
        if not isinstance(context.get(name), dict | list):
            raise Refused("context-invalid", f"context.{name} is required for the hook {hook}", status=400)
    if wanted.either and not any(context.get(name) for name in wanted.either):
        raise Refused("context-invalid", f"context needs one of {', '.join(wanted.either)}", status=400)


def resources(content: Any) -> list[Resource]:
    """Return the FHIR resources in what EHRs send as a Bundle, a list, or one resource."""
    if isinstance(content, dict) and content.get("resourceType", "Bundle") == "Bundle":
        entries = content.get("entry") or []
        content = (
            [entry.get("resource") for entry in entries if isinstance(entry, dict)]
            if isinstance(entries, list)
            else []
        )
    found = content if isinstance(content, list) else [content]
    return [each for each in found if isinstance(each, dict) and isinstance(each.get("resourceType"), str)]

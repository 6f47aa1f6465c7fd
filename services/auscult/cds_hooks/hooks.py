"""The hooks, and what an EHR tells with each (CDS Hooks library of hooks; the versions that are named there)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from auscult.platform.errors import Refused

Resource = dict[str, Any]

LONGEST = 1024
"""Characters of an id or a reference in a context."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The fields of a hook's context. `texts`: ids, references. `resources`: a Bundle, which some send as a list."""

    version: str
    texts: tuple[str, ...] = ("userId", "patientId")
    optional: tuple[str, ...] = ("encounterId",)
    """Texts that need not be there."""
    lists: tuple[str, ...] = ()
    """Lists of references."""
    resources: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    """One of these is there: versions of the hook differ."""


HOOKS: Mapping[str, Hook] = {
    "patient-view": Hook("1.0"),
    "encounter-start": Hook("1.0", ("userId", "patientId", "encounterId"), ()),
    "encounter-discharge": Hook("1.0", ("userId", "patientId", "encounterId"), ()),
    "order-select": Hook("1.0", lists=("selections",), resources=("draftOrders",)),
    "order-sign": Hook("1.1", resources=("draftOrders",)),
    "order-dispatch": Hook(
        "1.1", ("patientId", "performer"), ("userId",), either=("dispatchedOrders", "dispatched-orders", "order")
    ),
    "appointment-book": Hook("1.0", resources=("appointments",)),
    "problem-list-item-create": Hook("0.1.0", resources=("conditions",)),
    "allergyintolerance-create": Hook("0.1.0", either=("allergyIntolerances", "allergyIntolerance")),
}


def check_context(hook: str, context: Mapping[str, Any]) -> None:
    """Hold a context against its hook; Refused (400) names the field that is missing or of another type."""
    wanted = HOOKS[hook]
    for name in wanted.texts:
        if not _is_text(context.get(name)):
            raise Refused("context-invalid", f"context.{name} must be a text for the hook {hook}", status=400)
    for name in wanted.optional:
        if context.get(name) is not None and not _is_text(context[name]):
            raise Refused("context-invalid", f"context.{name} must be a text where it is given", status=400)
    for name in wanted.lists:
        value = context.get(name)
        if not isinstance(value, list) or not all(_is_text(each) for each in value):
            raise Refused("context-invalid", f"context.{name} must be a list of references", status=400)
    for name in wanted.resources:
        if not isinstance(context.get(name), dict | list):
            raise Refused("context-invalid", f"context.{name} must be a Bundle for the hook {hook}", status=400)
    if wanted.either and not any(context.get(name) for name in wanted.either):
        raise Refused("context-invalid", f"context needs one of {', '.join(wanted.either)}", status=400)


def resources(content: Any) -> list[Resource]:
    """Return the FHIR resources in what EHRs send as a Bundle, a list, or one resource; no OperationOutcomes."""
    if isinstance(content, dict) and content.get("resourceType", "Bundle") == "Bundle":
        entries = content.get("entry")
        content = (
            [entry.get("resource") for entry in entries if isinstance(entry, dict)]
            if isinstance(entries, list)
            else []
        )
    found = content if isinstance(content, list) else [content]
    return [
        each
        for each in found
        if isinstance(each, dict)
        and isinstance(each.get("resourceType"), str)
        and each["resourceType"] != "OperationOutcome"
    ]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST

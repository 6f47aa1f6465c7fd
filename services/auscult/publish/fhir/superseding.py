"""One result holds at a time: what a newer one replaces is withdrawn, and stays.

A resource of an earlier version of the study or of a model has another id, so nothing of it is edited but its
status, which becomes `entered-in-error`: the server keeps the version before, and a Provenance says why. Both are
written in the transaction of the newer result, on the condition that nobody changed the resource since it was read.
A proposal that somebody has taken up is theirs, and is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from auscult.platform.errors import Retry
from auscult.publish.fhir.answers import Resource, within
from auscult.publish.fhir.elements import URI, Json, place

WITHDRAWN = "entered-in-error"
CURRENT = frozenset({"registered", "partial", "preliminary", "final", "amended", "corrected", "appended"})
UNTAKEN = {"ServiceRequest": frozenset({"draft"}), "Task": frozenset({"draft", "requested"})}
"""States in which a proposal is still ours: nobody has taken it up."""


def holds(resource: Resource) -> bool:
    """Whether a reader takes it for a valid statement of ours."""
    return str(resource.get("status")) in UNTAKEN.get(str(resource.get("resourceType")), CURRENT)


def own_id(resource: Resource) -> str:
    """Return the identity under which we wrote a resource, whatever id the server gave it."""
    for identifier in _objects(resource.get("identifier")):
        value = str(identifier.get("value", ""))
        if identifier.get("system") == URI and value.startswith("urn:uuid:"):
            return value.removeprefix("urn:uuid:")
    return str(resource.get("id", ""))


def targets(provenances: Iterable[Resource]) -> list[str]:
    """Return `Type/id` of each target, once; servers may answer with absolute or versioned references."""
    found = (
        "/".join(str(target.get("reference", "")).split("/_history/")[0].split("/")[-2:])
        for provenance in provenances
        for target in _objects(provenance.get("target"))
    )
    return list(dict.fromkeys(found))


def withdrawals(held: Iterable[Resource], written: Collection[str]) -> list[Json]:
    """Return the entries that withdraw what of `held` is valid and not in `written` (identities) again."""
    entries = []
    for resource in held:
        if not holds(resource) or own_id(resource) in written:
            continue
        read = within(resource, "meta")
        meta = {key: value for key, value in read.items() if key in {"security", "tag", "profile"}}
        version = read.get("versionId")
        entries.append(
            {
                "resource": {**resource, "meta": meta, "status": WITHDRAWN},
                "request": {
                    "method": "PUT",
                    "url": _place(resource),
                    **({"ifMatch": f'W/"{version}"'} if version else {}),
                },
            }
        )
    return entries


def _place(resource: Resource) -> str:
    """Return `Type/id`; Retry where the server gave a resource without them."""
    if not isinstance(resource.get("id"), str) or not isinstance(resource.get("resourceType"), str):
        raise Retry("fhir-malformed", "the FHIR server answered with a resource that has no id")
    return place(resource)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

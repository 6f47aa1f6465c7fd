"""The same transaction for a server that lets no client choose ids.

Each resource is created on the condition that none with its identity is there (R4 `http.html#ccreate`), or, where
it is to be written over, updated by its identity (`http.html#cond-update`). The identity is its identifier; what has
none in R4 (Provenance, AuditEvent) has it as a tag. The server gives the ids and puts them into the references.

A condition holds against what is there already, not against another transaction at the same moment: one writer a key.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from auscult.publish.fhir.answers import Resource, objects
from auscult.publish.fhir.client import token
from auscult.publish.fhir.elements import IDENTITY, Json


def by_identity(bundle: Json, *, over: bool) -> Json:
    """Return `bundle` without our ids. `over`: update what is there, instead of leaving it as it is.

    Entries without `fullUrl` go to resources by the ids that the server gave them, and stay.
    """
    ours = {
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}": entry["fullUrl"]
        for entry in bundle["entry"]
        if "fullUrl" in entry
    }
    entries = []
    for entry in bundle["entry"]:
        if "fullUrl" not in entry:
            entries.append({**entry, "resource": _referring(entry["resource"], ours)})
            continue
        resource = entry["resource"]
        name, value = identity(resource)
        condition = f"{name}={quote(value, safe='')}"
        sent = {key: value for key, value in resource.items() if key != "id"}
        if name == "_tag":
            meta = sent.get("meta", {})
            tag = {"system": IDENTITY, "code": resource["id"]}
            sent["meta"] = {**meta, "tag": [*meta.get("tag", ()), tag]}
        kind = resource["resourceType"]
        request = (
            {"method": "PUT", "url": f"{kind}?{condition}"}
            if over
            else {"method": "POST", "url": kind, "ifNoneExist": condition}
        )
        entries.append({"fullUrl": entry["fullUrl"], "resource": _referring(sent, ours), "request": request})
    return {**bundle, "entry": entries}


def identity(resource: Json) -> tuple[str, str]:
    """Return the search parameter and value that find a resource whatever id the server gave it.

    An ImagingStudy is found by its DICOM UID, whoever wrote it.
    """
    if "identifier" not in resource:
        return "_tag", token(IDENTITY, resource["id"])
    first = resource["identifier"][0]
    return "identifier", token(first["system"], first["value"])


def _referring(value: Any, ours: dict[str, str]) -> Any:
    """Return `value` with references to what the bundle writes as the bundle's own (R4 `http.html#trules`)."""
    if isinstance(value, dict):
        return {
            key: ours.get(item, item) if key == "reference" and isinstance(item, str) else _referring(item, ours)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_referring(item, ours) for item in value]
    return value


def insists_on_ids(statement: Resource) -> bool:
    """Whether a CapabilityStatement says that a PUT under a new id is refused (R4 `rest.resource.updateCreate`)."""
    return any(
        resource.get("type") == "Observation" and resource.get("updateCreate") is False
        for rest in objects(statement.get("rest", []))
        for resource in objects(rest.get("resource", []))
    )

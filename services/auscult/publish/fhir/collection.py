"""Radiomics of a region that belongs to no result of a pathway: a Bundle of its own, as files come and go."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from auscult.domain.finding import MeasurementGroup
from auscult.domain.identity import NAMESPACE
from auscult.publish.fhir.elements import AI_ASSERTED, URI, Json, device
from auscult.publish.fhir.observations import IMAGING
from auscult.publish.fhir.observations import measured as said

REGION = "urn:auscult:region"
"""System of the tag that a Bundle bears for the region it is about."""


def measured(
    key: str, region: str, groups: Iterable[MeasurementGroup], *, subject: str = "", study_uid: str = ""
) -> Json:
    """Return a Bundle with the algorithms' Devices and an Observation per group.

    `key`: the UUID of what was measured. `region`: what its user calls it. `subject`: such as `Patient/123`,
    `study_uid`: of the DICOM study, where they are known.
    """
    listed = list(groups)
    about: Json = {"subject": {"reference": subject}} if subject else {}
    if study_uid:
        about["derivedFrom"] = [
            {"type": "ImagingStudy", "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid}"}}
        ]
    devices = list({resource["id"]: resource for resource in (device(group.model) for group in listed)}.values())
    observations = []
    for group in listed:
        identity = str(uuid.uuid5(NAMESPACE, f"{key}|{group.name}"))
        observations.append(
            {
                "resourceType": "Observation",
                "id": identity,
                "meta": {"security": [AI_ASSERTED]},
                "identifier": [{"system": URI, "value": f"urn:uuid:{identity}"}],
                "status": "final",
                "category": [IMAGING],
                **about,
                **said(group),
            }
        )
    return _bundle(key, region, [*devices, *observations])


def failed(key: str, region: str, problem: str) -> Json:
    """Return a Bundle that says why there is nothing in it."""
    issue = {"severity": "error", "code": "processing", "diagnostics": problem}
    return _bundle(key, region, [{"resourceType": "OperationOutcome", "id": key, "issue": [issue]}])


def key(bundle: Mapping[str, Any]) -> str:
    """Return the `key` of a Bundle that was written here; empty for another."""
    return str(bundle.get("identifier", {}).get("value", "")).removeprefix("urn:uuid:")


def _bundle(identity: str, region: str, resources: list[Json]) -> Json:
    return {
        "resourceType": "Bundle",
        "meta": {"tag": [{"system": REGION, "display": region}]},
        "identifier": {"system": URI, "value": f"urn:uuid:{identity}"},
        "type": "collection",
        "entry": [{"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource} for resource in resources],
    }

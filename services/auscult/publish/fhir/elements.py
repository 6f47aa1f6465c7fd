"""The FHIR data types that every resource is built from, as JSON.

Systems of ours are URNs, since we own no domain: `urn:auscult:tenant` and `urn:auscult:pathway` (tags),
`urn:auscult:result-status` (`final`, `degraded`), `urn:auscult:sop-digest` (`identity.sop_digest` of a study),
`urn:auscult:result-line` (what all results of one pathway on one study have in common, whatever their version),
`urn:auscult:statements` (a UUID of which statements a Provenance speaks of, by our ids, whatever the server's are),
`urn:auscult:identity` (the tag by which a server that gives its own ids knows what has no identifier), and the
extension `urn:auscult:imaging-selection` (see `imaging_study.selection`).
"""

from __future__ import annotations

import math
import uuid
from decimal import Decimal
from typing import Any

from auscult.domain.codes import UCUM, Code
from auscult.domain.finding import Measurement, ModelReference, Result
from auscult.domain.identity import NAMESPACE

Json = dict[str, Any]

TENANT = "urn:auscult:tenant"
PATHWAY = "urn:auscult:pathway"
RESULT_STATUS = "urn:auscult:result-status"
SOP_DIGEST = "urn:auscult:sop-digest"
RESULT_LINE = "urn:auscult:result-line"
STATEMENTS = "urn:auscult:statements"
IDENTITY = "urn:auscult:identity"
SELECTION = "urn:auscult:imaging-selection"
URI = "urn:ietf:rfc:3986"
HL7 = "http://terminology.hl7.org/CodeSystem"
AI_ASSERTED = {
    "system": f"{HL7}/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
NOT_VALIDATED = "Reference model: not for clinical use until validated at this site."


def device_id(model: ModelReference) -> str:
    """Return the id of a model's Device, the same in every study: UUIDv5 of `device|name|version`."""
    if "|" in model.name + model.version:
        raise ValueError("a model's name and version may not contain '|'")
    return derived_id("device", model.name, model.version)


def named(model: ModelReference) -> str:
    """Return how a reader is told of a model."""
    return f"{model.name} {model.version}"


def reference(resource_type: str, resource_id: str) -> Json:
    """Return a literal reference on the same server."""
    return {"reference": f"{resource_type}/{resource_id}"}


def study(result: Result, place: str = "") -> Json:
    """Return a reference to the study: its place in the record where it has one, always its UID.

    Without a place it is a logical reference, as the study may be in the PACS only (R4 `references.html#logical`).
    """
    return {
        **({"reference": place} if place else {}),
        "type": "ImagingStudy",
        "identifier": study_identifier(result),
    }


def study_identifier(result: Result) -> Json:
    """Return the DICOM study's UID as FHIR writes it (R4 `imagingstudy.html#notes`)."""
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{result.study.study_uid}"}


def earlier_study(study_uid: str) -> Json:
    """Return a logical reference to a study that was compared with."""
    identifier = {"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid}"}
    return {"type": "ImagingStudy", "identifier": identifier, "display": "Earlier study"}


def place(resource: Json) -> str:
    """Return `Type/id`."""
    return f"{resource['resourceType']}/{resource['id']}"


def derived_id(*parts: str) -> str:
    """Return the id of what is no output of a model: UUIDv5 of its parts, the first of which says what it is."""
    return str(uuid.uuid5(NAMESPACE, "|".join(parts)))


def line(result: Result) -> str:
    """Return what all results of this pathway on this study have in common, as a UUID, which tells nothing."""
    return derived_id("result-line", result.study.tenant, result.study.study_uid, result.pathway)


def concept(code: Code, text: str = "") -> Json:
    """Return a CodeableConcept; of a concept for which no standard has a code, the text alone."""
    words = {"text": text or code.display}
    if not code.code:
        return words
    return {"coding": [{"system": code.system, "code": code.code, "display": code.display}], **words}


def notes(*texts: str) -> Json:
    """Return the element `note` where there is something to note."""
    said = [{"text": text} for text in texts if text]
    return {"note": said} if said else {}


def about(model: ModelReference) -> tuple[str, str]:
    """Return what a reader must know of a model: whether it was validated here, and on what it rests."""
    return (
        "" if model.clinical_use else NOT_VALIDATED,
        f"Evidence: {model.evidence}" if model.evidence else "",
    )


def device(model: ModelReference) -> Json:
    """Return the Device of a model."""
    identity = device_id(model)
    return {
        "resourceType": "Device",
        "id": identity,
        "identifier": [{"system": URI, "value": f"urn:uuid:{identity}"}],
        "status": "active",
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "type": {"text": "Clinical decision support algorithm"},
        "version": [{"value": model.version}],
        **notes(*about(model)),
    }


def decimal(value: float, digits: int) -> Decimal:
    """Return `value` to `digits` significant digits: what is beyond is not reproducible, let alone meaningful."""
    return Decimal(f"{value:.{digits}g}")


def quantity(measurement: Measurement) -> Json:
    """Return `value[x]`, or why there is none: JSON has no number for NaN and the infinities."""
    if not math.isfinite(measurement.value):
        if math.isnan(measurement.value):
            return {"dataAbsentReason": absent("not-a-number")}
        return {"dataAbsentReason": absent("positive-infinity" if measurement.value > 0 else "negative-infinity")}
    return {
        "valueQuantity": {
            "value": decimal(measurement.value, 6),
            "unit": measurement.unit,
            "system": UCUM,
            "code": measurement.unit,
        }
    }


def absent(code: str, text: str = "") -> Json:
    """Return a data-absent-reason."""
    return {"coding": [{"system": f"{HL7}/data-absent-reason", "code": code}], **({"text": text} if text else {})}


def started(result: Result, resource_type: str, resource_id: str) -> Json:
    """Return what every resource about a result begins with."""
    return {
        "resourceType": resource_type,
        "id": resource_id,
        "meta": {
            "security": [AI_ASSERTED],
            "tag": [
                {"system": TENANT, "code": result.study.tenant},
                {"system": PATHWAY, "code": result.pathway},
            ],
        },
    }


def named_resource(result: Result, resource_type: str, model: ModelReference, output: str) -> Json:
    """Return the beginning of a resource that bears a result's identity: id, identifier, status and subject."""
    identity = str(result.identity(model, output))
    return {
        **started(result, resource_type, identity),
        "identifier": [{"system": URI, "value": f"urn:uuid:{identity}"}],
        "status": "final" if result.status == "final" else "preliminary",
        "subject": {"reference": result.patient},
    }

"""What was done to the record, and what was not done: in the shape of IHE BALP 1.1's profiles.

A write follows PatientCreate or PatientUpdate, which want one data entity an event; it is the result's report (or
Provenance), from which all that was written can be reached. A denial follows AuthZconsent, which also wants the user
and the organization who asked: here a study asked, and nobody stands for them. The profiles are not claimed in
`meta.profile`: their package was not there to validate against.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from auscult.domain.codes import DCM
from auscult.domain.finding import ModelReference, Result
from auscult.domain.study import StudyRef
from auscult.publish.fhir.consents import ACT_REASON, Refusal
from auscult.publish.fhir.elements import HL7, PATHWAY, TENANT, Json, derived_id, device_id, reference

Action = Literal["create", "update"]
LETTERS: dict[Action, str] = {"create": "C", "update": "U"}
SERVICE = {
    "type": "Device",
    "identifier": {"system": "urn:auscult:service", "value": "pathways"},
    "display": "Auscult",
}
"""Who decides on consent: no model, so it has no Device in the record."""


@dataclass(frozen=True, slots=True)
class Denial:
    """A study that was not computed. `patient`: `Patient/<id>`.

    `decision`: tells this decision from the next on the same study, so that the same again has the same id.
    `at`: the instant of what was decided on, so that each try writes the same bytes.
    """

    study: StudyRef
    patient: str
    refusal: Refusal
    decision: str
    at: str


def denial_event(denial: Denial, purposes: Iterable[str]) -> Json:
    """Return the AuditEvent of a study that was not computed. `purposes`: codes of v3-ActReason, for which not."""
    basis, detail = denial.refusal.basis, f"Not computed: {denial.refusal.detail} ({denial.refusal.reason})"
    entities = [_entity({"reference": denial.patient}, ("1", "Person"), ("1", "Patient"))]
    if basis and basis != denial.patient:
        kind = basis.partition("/")[0]
        coded = {"system": "http://hl7.org/fhir/resource-types", "code": kind, "display": kind}
        entities.append({"what": {"reference": basis}, "type": coded})
    uid = {"system": "urn:dicom:uid", "value": f"urn:oid:{denial.study.study_uid}"}
    imaged = {"type": "ImagingStudy", "identifier": uid}
    return {
        "resourceType": "AuditEvent",
        "id": derived_id("audit", "denied", denial.study.tenant, denial.study.study_uid, denial.decision),
        "meta": {"tag": [{"system": TENANT, "code": denial.study.tenant}]},
        "type": {"system": DCM, "code": "110113", "display": "Security Alert"},
        "subtype": [
            {
                "system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType",
                "code": "AuthZ-Consent",
                "display": "Authorization Decision using Roles and Consent",
            }
        ],
        "action": "E",
        "recorded": denial.at,
        "outcome": "8",
        "outcomeDesc": detail,
        "purposeOfEvent": [{"coding": [{"system": ACT_REASON, "code": purpose}]} for purpose in purposes],
        "agent": [
            {
                "type": {"coding": [{"system": DCM, "code": "110150", "display": "Application"}]},
                "who": SERVICE,
                "requestor": True,
                "network": {"address": platform.node() or "unknown", "type": "1"},
            },
            {
                "type": {
                    "coding": [
                        {
                            "system": f"{HL7}/extra-security-role-type",
                            "code": "authserver",
                            "display": "authorization server",
                        }
                    ]
                },
                "who": SERVICE,
                "requestor": False,
            },
        ],
        "source": {
            "observer": SERVICE,
            "type": [{"system": f"{HL7}/security-source-type", "code": "4", "display": "Application Server"}],
        },
        "entity": [*entities, _entity(imaged, ("2", "System Object"), ("4", "Domain Resource"))],
    }


def audit_event(
    result: Result, pathway: ModelReference, *, action: Action, data: str, server: str, written: bytes, at: str
) -> Json:
    """Return the AuditEvent of one successful write.

    `data`: `Type/id` of what was written. `server`: the FHIR base. `written`: what makes this write another than
    the next; the same again has the same id. `at`: the instant.
    """
    client = reference("Device", device_id(pathway))
    return {
        "resourceType": "AuditEvent",
        "id": derived_id("audit", action, data, hashlib.sha256(written).hexdigest()),
        "meta": {
            "tag": [
                {"system": TENANT, "code": result.study.tenant},
                {"system": PATHWAY, "code": result.pathway},
            ]
        },
        "type": {"system": f"{HL7}/audit-event-type", "code": "rest", "display": "Restful Operation"},
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": action, "display": action}],
        "action": LETTERS[action],
        "recorded": at,
        "outcome": "0",
        "agent": [
            _agent("110153", "Source Role ID", client, platform.node() or "unknown", "1"),
            _agent("110152", "Destination Role ID", {"display": server}, server, "5"),
        ],
        "source": {
            "observer": client,
            "type": [{"system": f"{HL7}/security-source-type", "code": "4", "display": "Application Server"}],
        },
        "entity": [
            _entity({"reference": result.patient}, ("1", "Person"), ("1", "Patient")),
            _entity({"reference": data}, ("2", "System Object"), ("4", "Domain Resource")),
        ],
    }


def _agent(code: str, display: str, who: Json, address: str, kind: str) -> Json:
    """`kind`: of the address; 1 is a machine's name, 5 a URI (R4 `valueset-network-type.html`)."""
    return {
        "type": {"coding": [{"system": DCM, "code": code, "display": display}]},
        "who": who,
        "requestor": False,
        "network": {"address": address, "type": kind},
    }


def _entity(what: Json, kind: tuple[str, str], role: tuple[str, str]) -> Json:
    return {
        "what": what,
        "type": {"system": f"{HL7}/audit-entity-type", "code": kind[0], "display": kind[1]},
        "role": {"system": f"{HL7}/object-role", "code": role[0], "display": role[1]},
    }

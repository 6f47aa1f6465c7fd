"""What was done to the record, in the shape of IHE BALP's PatientCreate and PatientUpdate.

The profiles are followed and not claimed: their package is not there to validate against. They want one data entity
an event; it is the result's report (or Provenance), from which all that was written can be reached.
"""

from __future__ import annotations

import hashlib
import platform
from typing import Literal

from auscult.domain.codes import DCM
from auscult.domain.finding import ModelReference, Result
from auscult.publish.fhir.elements import HL7, PATHWAY, TENANT, Json, derived_id, device_id, reference

Action = Literal["create", "update"]
LETTERS: dict[Action, str] = {"create": "C", "update": "U"}


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
        "type": {"system": f"{HL7}/audit-event-type", "code": "rest", "display": "RESTful Operation"},
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

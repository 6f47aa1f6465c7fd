"""What a guideline advises, as a proposal to order and as a request to look at it: never an order by itself."""

from __future__ import annotations

from auscult.domain.finding import Finding, ModelReference, Recommendation, Result
from auscult.publish.fhir.elements import Json, concept, device_id, named, named_resource, notes, reference

APPROVE = {
    "system": "http://hl7.org/fhir/CodeSystem/task-code",
    "code": "approve",
    "display": "Activate/approve the focal resource",
}


def service_request(
    result: Result, pathway: ModelReference, finding: Finding, recommendation: Recommendation, of_finding: Json
) -> Json:
    """Return a ServiceRequest with the status `draft` and the intent `proposal` (R4 `request.html#statemachine`)."""
    guideline = recommendation.guideline
    return {
        **named_resource(result, "ServiceRequest", guideline, f"{finding.label}/draft/{recommendation.rule}"),
        "status": "draft",
        "intent": "proposal",
        "code": {"text": recommendation.text},
        "authoredOn": result.recorded,
        "requester": reference("Device", device_id(pathway)),
        "reasonReference": [reference("Observation", of_finding["id"])],
        "bodySite": [concept(finding.site, finding.location)],
        **notes(f"Proposed by {named(guideline)}, rule {recommendation.rule}; nobody has ordered it."),
    }


def follow_up_task(
    result: Result,
    pathway: ModelReference,
    finding: Finding,
    recommendation: Recommendation,
    *,
    advised: Json,
    focus: Json,
) -> Json:
    """Return a Task to decide on what is advised, `requested` as a `proposal` (R4 `task.html`).

    `advised`: the Observation that says it. `focus`: what is decided on, the ServiceRequest where there is one.
    """
    guideline = recommendation.guideline
    task = named_resource(result, "Task", guideline, f"{finding.label}/task/{recommendation.rule}")
    return {
        **{key: value for key, value in task.items() if key != "subject"},
        "status": "requested",
        "intent": "proposal",
        "code": {"coding": [APPROVE], "text": "Decide on follow-up"},
        "description": recommendation.text,
        "focus": reference(focus["resourceType"], focus["id"]),
        "for": task["subject"],
        "authoredOn": result.recorded,
        "requester": reference("Device", device_id(pathway)),
        "reasonReference": reference("Observation", advised["id"]),
        **notes(f"Proposed by {named(guideline)}, rule {recommendation.rule}; nobody has decided on it."),
    }

"""What a guideline advises, as a proposal that a clinician may order: never an order by itself."""

from __future__ import annotations

from auscult.domain.finding import Finding, ModelReference, Recommendation, Result
from auscult.publish.fhir.elements import Json, concept, device_id, named, named_resource, notes, reference


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

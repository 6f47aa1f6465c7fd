"""Findings as Observations.

One result is a tree: the assessment (`hasMember`) holds one Observation per finding, which holds one per
measurement group. What a guideline advises is an Observation derived from its finding, so that it is kept also
where there is no RiskAssessment to carry it. The size has mCODE's codes, but mCODE's profile is not claimed: it
is about a tumour that is in the record as a resource of its own, and a nodule is no diagnosed tumour.

`imaged`, where it is asked for: the reference to the ImagingStudy.
"""

from __future__ import annotations

from auscult.domain import codes
from auscult.domain.finding import Finding, Measurement, MeasurementGroup, ModelReference, Recommendation, Result
from auscult.publish.fhir.elements import (
    HL7,
    Json,
    about,
    absent,
    concept,
    device_id,
    earlier_study,
    named,
    named_resource,
    notes,
    quantity,
    reference,
)
from auscult.publish.fhir.imaging_study import selection

IMAGING = {"coding": [{"system": f"{HL7}/observation-category", "code": "imaging", "display": "Imaging"}]}
OUTLINED = {
    "model": "Outlined by the model {}.",
    "rtstruct": "Outlined by a person; structure {} of the structure set that came with the study.",
    "seg": "Outlined in the segmentation that came with the study; segment {}.",
}


def assessment(result: Result, pathway: ModelReference, findings: list[Json], imaged: Json) -> Json:
    """Return the Observation that says what the pathway concluded, also where it found or could say nothing."""
    unsaid = result.status != "final" and not result.findings
    return {
        **_imaged(result, pathway, "assessment", imaged),
        "code": {"text": f"Automated assessment: {result.pathway.replace('_', ' ')}"},
        "device": reference("Device", device_id(pathway)),
        **({"dataAbsentReason": absent("error", result.card.summary)} if unsaid else _text(result.card.summary)),
        **_members(findings),
        **notes(*(f"Incomplete: {reason}" for reason in result.reasons), *result.processing),
    }


def finding_observation(
    result: Result, pathway: ModelReference, finding: Finding, groups: list[Json], imaged: Json
) -> Json:
    """Return the Observation of one thing in one place, who outlined it, and on which part of which image."""
    outline = finding.outline
    slice_uid = f"Outline shown on SOP Instance UID {outline.sop_instance_uid}."
    return {
        **_imaged(result, pathway, finding.label, {**imaged, "extension": [selection(outline)]}),
        "code": concept(finding.kind, finding.label.replace("-", " ")),
        "bodySite": concept(finding.site, finding.location),
        "device": reference("Device", device_id(outline.model or pathway)),
        **_text(f"{finding.appearance}, {finding.location}"),
        **_members(groups),
        **notes(OUTLINED[outline.source_kind].format(outline.source_name), slice_uid, *finding.notes),
    }


def group_observation(result: Result, finding: Finding, group: MeasurementGroup, imaged: Json) -> Json:
    """Return one model's measurements of a finding; of a change also from which earlier study it is derived."""
    begun = _imaged(result, group.model, f"{finding.label}/{group.name}", imaged)
    if group.compared_with:
        begun["derivedFrom"] = [*begun["derivedFrom"], earlier_study(group.compared_with)]
    return {
        **begun,
        "bodySite": concept(finding.site, finding.location),
        **measured(group),
    }


def measured(group: MeasurementGroup) -> Json:
    """Return what is said of a group, wherever it was measured, and how, so that it can be computed again.

    One value where that is what the group is, else components.
    """
    alone = len(group.measurements) == 1 and group.measurements[0].code == group.code
    components = [{"code": concept(m.code), **quantity(m)} for m in group.measurements]
    components += [
        {"code": concept(code), "dataAbsentReason": absent("not-a-number")} for code in group.without_value
    ]
    if alone:
        value = quantity(group.measurements[0])
    elif components:
        value = {"component": components}
    else:
        value = {"dataAbsentReason": absent("error", "the model gave no number")}
    return {
        "code": concept(group.code),
        "method": _method(group),
        "device": reference("Device", device_id(group.model)),
        **value,
        **notes(*(_interval(m) for m in group.measurements), about(group.model)[0]),
    }


def recommendation_observation(
    result: Result, finding: Finding, recommendation: Recommendation, of_finding: Json, imaged: Json
) -> Json:
    """Return what the guideline advises for a finding."""
    guideline = recommendation.guideline
    resource = _imaged(result, guideline, f"{finding.label}/recommendation/{recommendation.rule}", imaged)
    return {
        **resource,
        "code": concept(codes.RECOMMENDATION, "Guideline recommendation"),
        "bodySite": concept(finding.site, finding.location),
        "method": {"text": f"{named(guideline)}, rule {recommendation.rule}"},
        "derivedFrom": [reference("Observation", of_finding["id"]), *resource["derivedFrom"]],
        **_text(recommendation.text),
        **notes(about(guideline)[1]),
    }


def _imaged(result: Result, model: ModelReference, output: str, imaged: Json) -> Json:
    return {
        **named_resource(result, "Observation", model, output),
        "category": [IMAGING],
        "derivedFrom": [imaged],
        **({"effectiveDateTime": result.acquired} if result.acquired else {}),
    }


def _method(group: MeasurementGroup) -> Json:
    told = [named(group.model)]
    told += [group.method.display] if group.method else []
    told += [f"settings {group.settings}"] if group.settings else []
    text = "; ".join(told)
    return concept(group.method, text) if group.method else {"text": text}


def _members(observations: list[Json]) -> Json:
    members = [reference("Observation", observation["id"]) for observation in observations]
    return {"hasMember": members} if members else {}


def _text(text: str) -> Json:
    return {"valueString": text}


def _interval(measurement: Measurement) -> str:
    if measurement.interval is None:
        return ""
    low, high = measurement.interval
    return f"{measurement.code.display}: between {low:.6g} and {high:.6g} {measurement.unit}."

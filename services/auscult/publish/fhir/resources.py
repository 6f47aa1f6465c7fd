"""A result as one FHIR transaction: the same result gives the same bytes.

Every resource is PUT under an id that derives from the result's identity, and no time is written that the result
does not bring. What shadow models said is not written: it is kept on the findings topic and shown to nobody.
Results of an older version of the study or of a model are not touched; they have other ids.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from fhir.resources.R4B import get_fhir_model_class
from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from auscult.domain.finding import Finding, ModelReference, Result, Risk
from auscult.platform.errors import DeadLetter
from auscult.publish.fhir import observations
from auscult.publish.fhir.elements import (
    HL7,
    RESULT_STATUS,
    SOP_DIGEST,
    Json,
    about,
    concept,
    decimal,
    device,
    device_id,
    named,
    named_resource,
    notes,
    reference,
    started,
    study,
)

WRITTEN = tuple(get_fhir_model_class(name) for name in ("Device", "Observation", "RiskAssessment", "Provenance"))
"""The classes that check what is written; loaded here, as loading takes 50 ms that the first result has not."""


def transaction(result: Result) -> Json:
    """Return the Bundle that writes `result`, its Provenance last, checked against FHIR's classes.

    DeadLetter where two of its outputs have one name, or FHIR does not allow what it holds.
    """
    shown = replace(result, findings=tuple(without_shadow(finding) for finding in result.findings))
    pathway = pathway_model(shown)
    stated = _statements(shown, pathway)
    devices = [device(model) for model in _models(shown, pathway)]
    resources = [*devices, *stated, _provenance(shown, pathway, stated, devices)]
    twice = [place for place, count in Counter(_place(resource) for resource in resources).items() if count > 1]
    if twice:
        raise DeadLetter(
            "result-ambiguous",
            f"the pathway {result.pathway} named {len(twice)} outputs twice; give each finding its own label",
        )
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": f"urn:uuid:{resource['id']}",
                "resource": resource,
                "request": {"method": "PUT", "url": _place(resource)},
            }
            for resource in resources
        ],
    }
    try:
        Bundle.model_validate(bundle)
    except ValidationError as error:
        wrong = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
        raise DeadLetter(
            "result-invalid",
            f"the pathway {result.pathway} gave what FHIR cannot hold, at {', '.join(wrong)}; correct the pathway",
        ) from None
    return bundle


def pathway_model(result: Result) -> ModelReference:
    """Return the pathway itself as the algorithm that put the result together."""
    return ModelReference(result.pathway, result.version, evidence="")


def provenance_id(result: Result) -> str:
    """Return the id of the result's Provenance: the same for each run of a pathway on a version of a study."""
    return str(result.identity(pathway_model(result), "provenance"))


def _place(resource: Json) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def without_shadow(finding: Finding) -> Finding:
    """Return what of a finding may be shown: not what models in their shadow stage said."""
    return replace(
        finding,
        groups=tuple(group for group in finding.groups if group.model.stage != "shadow"),
        risks=tuple(risk for risk in finding.risks if risk.model.stage != "shadow"),
    )


def _models(result: Result, pathway: ModelReference) -> list[ModelReference]:
    """Return each model once, the pathway first: those of the findings, and those that looked and found none."""
    guidelines = {advice.guideline for finding in result.findings for advice in finding.recommendations}
    said = [model for model in result.card.models if model not in guidelines and model.stage != "shadow"]
    for finding in result.findings:
        said += [finding.outline.model] if finding.outline.model else []
        said += [*(group.model for group in finding.groups), *(risk.model for risk in finding.risks)]
    return list({device_id(model): model for model in [pathway, *said]}.values())


def _statements(result: Result, pathway: ModelReference) -> list[Json]:
    """Return all that is said, what is referred to before what refers to it."""
    said: list[Json] = []
    findings = []
    for finding in result.findings:
        groups = [observations.group_observation(result, finding, group) for group in finding.groups]
        whole = observations.finding_observation(result, pathway, finding, groups)
        findings.append(whole)
        said += [*groups, whole, *(_risk(result, finding, risk, [*groups, whole]) for risk in finding.risks)]
        said += [
            observations.recommendation_observation(result, finding, recommendation, whole)
            for recommendation in finding.recommendations
        ]
    return [*said, observations.assessment(result, pathway, findings)]


def _risk(result: Result, finding: Finding, risk: Risk, basis: list[Json]) -> Json:
    advice = " ".join(recommendation.text for recommendation in finding.recommendations)
    return {
        **named_resource(result, "RiskAssessment", risk.model, f"{finding.label}/risk/{risk.name}"),
        "code": concept(risk.code),
        "method": {"text": named(risk.model)},
        "occurrenceDateTime": result.recorded,
        "performer": reference("Device", device_id(risk.model)),
        "basis": [reference("Observation", observation["id"]) for observation in basis],
        "prediction": [
            {
                "outcome": concept(risk.outcome),
                **({"probabilityDecimal": decimal(risk.probability, 3)} if math.isfinite(risk.probability) else {}),
                "rationale": _rationale(risk),
            }
        ],
        **({"mitigation": advice} if advice else {}),
        **notes(*about(risk.model)),
    }


def _rationale(risk: Risk) -> str:
    """Say on what the number rests. The percentage is spelt out, as readers of R4 disagree on its scale."""
    if not math.isfinite(risk.probability):
        return "The model gave no number."
    text = f"Probability {_percent(risk.probability)}."
    if risk.assumed:
        text += f" Not known, assumed absent: {', '.join(risk.assumed)}."
    if risk.interval:
        low, high = risk.interval
        text += f" Depending on what is not known it lies between {_percent(low)} and {_percent(high)}."
    if risk.contributions:
        shares = "; ".join(
            f"{share.input}{f' ({share.value})' if share.value else ''} {share.log_odds:+.3f}"
            for share in risk.contributions
        )
        text += f" Contributions in log-odds: {shares}."
    return text


def _percent(probability: float) -> str:
    return f"{decimal(100 * probability, 3):f} %"


def _provenance(result: Result, pathway: ModelReference, stated: list[Json], devices: list[Json]) -> Json:
    """Return who said all this, from what; written with it, so that where it is, everything is."""
    evidence = sorted(
        {m.evidence for m in _models(result, pathway) if m.evidence.startswith(("http://", "https://"))}
    )
    roles = ["assembler"] + ["performer"] * (len(devices) - 1)
    digest = {"identifier": {"system": SOP_DIGEST, "value": result.study.digest}}
    return {
        **started(result, "Provenance", provenance_id(result)),
        "target": [{"reference": _place(resource)} for resource in stated],
        "recorded": result.recorded,
        **({"policy": evidence} if evidence else {}),
        "activity": {
            "coding": [
                {"system": f"{HL7}/v3-DataOperation", "code": "CREATE", "display": "create"},
                {"system": RESULT_STATUS, "code": result.status},
            ]
        },
        "agent": [
            {
                "type": {"coding": [{"system": f"{HL7}/provenance-participant-type", "code": role}]},
                "who": reference("Device", device["id"]),
            }
            for role, device in zip(roles, devices, strict=True)
        ],
        "entity": [
            {"role": "source", "what": study(result)},
            {"role": "source", "what": {**digest, "display": "SHA-256 of the study's sorted SOP Instance UIDs"}},
        ],
    }

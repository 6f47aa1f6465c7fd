"""A risk as a RiskAssessment."""

from __future__ import annotations

import math

from auscult.domain.finding import Finding, Result, Risk
from auscult.publish.fhir.elements import (
    Json,
    about,
    concept,
    decimal,
    device_id,
    named,
    named_resource,
    notes,
    reference,
)


def risk_assessment(result: Result, finding: Finding, risk: Risk, basis: list[Json]) -> Json:
    """Return a model's risk of a finding, what it rests on (`basis`), and what the guideline advises against it."""
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
    text = f"Probability {percent(risk.probability)}."
    if risk.assumed:
        text += f" Not known, assumed absent: {', '.join(risk.assumed)}."
    if risk.interval:
        low, high = risk.interval
        text += f" Depending on what is not known it lies between {percent(low)} and {percent(high)}."
    if risk.contributions:
        shares = "; ".join(
            f"{share.input}{f' ({share.value})' if share.value else ''} {share.log_odds:+.3f}"
            for share in risk.contributions
        )
        text += f" Contributions in log-odds: {shares}."
    return text


def percent(probability: float) -> str:
    """Return a probability as a reader expects it."""
    return f"{decimal(100 * probability, 3):f} %"

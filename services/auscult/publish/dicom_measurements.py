"""What is said about a finding in a report: numbers (TID 300), evaluations, texts, and which algorithm said it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from highdicom import sr
from pydicom.sr.coding import Code as DicomCode

from auscult.domain import codes
from auscult.domain.finding import Finding, Measurement, ModelReference, Risk
from auscult.publish.dicom_codes import coded, unit

COMMENT = sr.CodedConcept("121106", "DCM", "Comment")
MEAN = DicomCode("373098007", "SCT", "Mean")
PERCENT = 100.0
DIGITS = 6
"""Significant digits of a number; more are not reproducible."""


def statements(finding: Finding) -> Iterator[sr.ContentItem]:
    """Yield the numbers, the evaluations and the texts about a finding."""
    for group in finding.groups:
        by = algorithm(group.model)
        for measurement in group.measurements:
            if math.isfinite(measurement.value):
                yield from _measurement(measurement, by, group.method)
    for risk in finding.risks:
        if math.isfinite(risk.probability):
            yield from _risk(risk)
    for evaluation in finding.evaluations:
        yield from sr.QualitativeEvaluation(coded(evaluation.name), coded(evaluation.value))
    notes = [
        f"{finding.appearance}, {finding.location}",
        *finding.notes,
        *_without_number(finding),
        *_settings(finding),
        *(f"Compared with the study {uid}." for uid in _compared(finding)),
    ]
    yield from texts(COMMENT, [*notes, *(_assumed(risk) for risk in finding.risks if risk.assumed)])
    yield from texts(coded(codes.RECOMMENDATION), [advice.text for advice in finding.recommendations])


def algorithm(model: ModelReference, family: DicomCode | None = None) -> sr.AlgorithmIdentification:
    """Return TID 4019."""
    return sr.AlgorithmIdentification(name=model.name, version=model.version, family=family)


def texts(name: sr.CodedConcept, said: Sequence[str]) -> list[sr.TextContentItem]:
    """Return each text that is not empty."""
    return [
        sr.TextContentItem(name=name, value=each, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        for each in said
        if each
    ]


def _measurement(
    measurement: Measurement, by: sr.AlgorithmIdentification, method: codes.Code | None
) -> sr.Measurement:
    return sr.Measurement(
        name=coded(measurement.code),
        value=_number(measurement.value),
        unit=unit(measurement.unit),
        algorithm_id=by,
        method=coded(method) if method else None,
        derivation=MEAN if measurement.name == "mean-diameter" else None,
        properties=_range(measurement.value, measurement.interval, measurement.unit),
    )


def _risk(risk: Risk) -> sr.Measurement:
    return sr.Measurement(
        name=coded(risk.code),
        value=_number(risk.probability * PERCENT),
        unit=unit("%"),
        algorithm_id=algorithm(risk.model),
        properties=_range(risk.probability, risk.interval, "%"),
    )


def _without_number(finding: Finding) -> list[str]:
    """Name what was measured and has no number. TID 300 has an empty NUM for it, which highdicom does not read."""
    absent = [m.code.display for group in finding.groups for m in group.measurements if not math.isfinite(m.value)]
    absent += [code.display for group in finding.groups for code in group.without_value]
    absent += [risk.code.display for risk in finding.risks if not math.isfinite(risk.probability)]
    return [f"No value: {', '.join(absent)}."] if absent else []


def _settings(finding: Finding) -> list[str]:
    """Say with what settings was measured, once for each model: a number's own parameters would repeat them."""
    told = {(g.model.name, g.model.version, g.settings): None for g in finding.groups if g.settings}
    return [f"Settings of {name} {version}: {settings}" for name, version, settings in told]


def _compared(finding: Finding) -> list[str]:
    """Return the studies that numbers about a change come from, too."""
    return list(dict.fromkeys(group.compared_with for group in finding.groups if group.compared_with))


def _range(value: float, interval: tuple[float, float] | None, ucum: str) -> sr.MeasurementProperties | None:
    """Return how far the value may lie above and below (TID 310), in its own unit; percentages from fractions."""
    if interval is None or not all(map(math.isfinite, (value, *interval))):
        return None
    low, high = interval
    scale = PERCENT if ucum == "%" else 1.0
    properties = sr.MeasurementProperties(
        upper_measurement_uncertainty=_number((high - value) * scale),
        lower_measurement_uncertainty=_number((value - low) * scale),
    )
    for item in properties:
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [unit(ucum)]
    return properties


def _assumed(risk: Risk) -> str:
    return f"{risk.model.name}: not known, assumed absent: {', '.join(risk.assumed)}."


def _number(value: float) -> float:
    """Return `value` so that it fits the 16 characters of a DS."""
    return float(f"{value:.{DIGITS}g}")

"""The card for lung nodules, as the clinician reads it."""

from __future__ import annotations

from auscult.domain import codes
from auscult.domain.codes import Code
from auscult.domain.finding import Card, Finding, Measurement, ModelReference, Risk
from auscult.domain.radiomics import GROUP
from auscult.pathways.lung_nodule import fleischner, growth
from auscult.pathways.pathway import Found

WARNING_RISK = 0.10
"""From this risk of malignancy the British Thoracic Society advises PET/CT (Callister, Thorax 2015;70:ii1)."""
MASS = 30.0
"""mm: above it a lesion is a mass."""
OVERRIDE_REASONS = tuple(
    Code("urn:auscult:cds-hooks:override-reason", code, text)
    for code, text in (
        ("arranged", "Follow-up is arranged already"),
        ("declined", "The patient declines follow-up"),
        ("nonodule", "Not a nodule, or measured wrongly"),
        ("otherwise", "Managed in another way"),
    )
)
SHOWN = 3
"""Nodules that the card describes; it counts the others."""


def _value(finding: Finding, group: str, name: str) -> Measurement:
    return next(m for g in finding.groups if g.name == group for m in g.measurements if m.name == name)


def _change(finding: Finding) -> dict[str, float]:
    """Return the numbers of the change since an earlier CT by name; none where it was not compared."""
    return {m.name: m.value for group in finding.groups if group.name == growth.GROUP for m in group.measurements}


def _grown(finding: Finding) -> bool:
    return _change(finding).get("volume-change", 0.0) >= 100 * growth.SIGNIFICANT


def _doubling(finding: Finding) -> str:
    time = _change(finding).get("volume-doubling-time")
    return f", doubling time {time:.0f} days" if time is not None and _grown(finding) else ""


def _growth_row(finding: Finding) -> list[str]:
    """Return the line about what changed."""
    if not (change := _change(finding)):
        return []
    verdict = next(each.value for each in finding.evaluations if each.name == codes.GROWTH)
    told = verdict.display.lower() + (", within what volumetry can tell" if verdict == codes.STABLE else "")
    volume = _value(finding, "volume", "volume").value
    line = (
        f"{told}: mean diameter {change['earlier-mean-diameter']:.1f} to {_mean(finding):.1f} mm, "
        f"volume {change['earlier-volume']:.0f} to {volume:.0f} mm3 ({change['volume-change']:+.0f} %)"
    )
    return [f"| In {change['interval']:.0f} days | {line}{_doubling(finding)} |"]


def _mean(finding: Finding) -> float:
    return _value(finding, "mean-diameter", "mean-diameter").value


def _kind(finding: Finding) -> str:
    return "mass" if _mean(finding) > MASS else "nodule"


def _size(finding: Finding) -> str:
    longest = _value(finding, "size", "longest-diameter").value
    across = _value(finding, "size", "perpendicular-diameter").value
    return f"{longest:.1f} x {across:.1f} mm"


def percent(probability: float) -> str:
    """Write a probability in [0, 1] as a percentage with two significant digits below 10 %."""
    return f"{100 * probability:.0f} %" if probability >= 0.0995 else f"{100 * probability:.2g} %"


def _range(risk: Risk) -> str:
    if risk.interval is None:
        return percent(risk.probability)
    low, high = risk.interval
    return f"{percent(risk.probability)} (between {percent(low)} and {percent(high)}, depending on what is not known)"


def _describe(finding: Finding) -> list[str]:
    size = next(group for group in finding.groups if group.name == "size")
    volume = _value(finding, "volume", "volume").value
    outlined = {
        "model": f"outlined by the model {finding.outline.source_name}",
        "rtstruct": f"outlined by a person in the structure set ({finding.outline.source_name})",
        "seg": f"outlined in the segmentation that came with the study ({finding.outline.source_name})",
    }[finding.outline.source_kind]
    name = f"{_kind(finding).capitalize()} {finding.label.rpartition('-')[2]}"
    lines = [
        f"**{name}**: {finding.appearance}, {finding.location}, {outlined}",
        "",
        "| | |",
        "| --- | --- |",
        f"| Longest x perpendicular diameter | {_size(finding)} |",
        f"| Mean diameter | {_mean(finding):.1f} mm |",
        f"| Volume | {volume:.0f} mm3 |",
        *_growth_row(finding),
    ]
    lines += [f"| Risk of malignancy (Brock) | {_range(risk)} |" for risk in finding.risks]
    lines.append("")
    for risk in finding.risks:
        shares = sorted(
            (share for share in risk.contributions if share.input != "baseline"), key=lambda s: -abs(s.log_odds)
        )
        lines.append("Why, in log-odds against the model's reference patient (62 years, 4 mm, 4 nodules):")
        lines += [f"- {s.input} ({s.value}): {s.log_odds:+.2f}" for s in shares if abs(s.log_odds) >= 0.005]
        if risk.assumed:
            lines.append(f"- not known, assumed absent: {', '.join(risk.assumed)}")
        lines.append("")
    for recommendation in finding.recommendations:
        on_growth = recommendation.guideline == growth.GUIDELINE
        society = "British Thoracic Society 2015" if on_growth else "Fleischner 2017"
        lines += [f"**{society}**: {recommendation.text}", ""]
    for note in finding.notes:
        lines += [f"Note: {note}.", ""]
    features = sum(len(group.measurements) for group in finding.groups if group.name.startswith(f"{GROUP}/"))
    in_record = f" {features} radiomics features are in the record." if features else ""
    lines.append(f"Measured in the plane of the slices by {size.model.name} {size.model.version}.{in_record}")
    return lines


def _models(found: Found) -> tuple[ModelReference, ...]:
    models = {(model.name, model.version): model for model in found.asked}
    for finding in found.findings:
        said = [*(risk.model for risk in finding.risks), finding.outline.model, *(g.model for g in finding.groups)]
        for model in said:
            if model is not None:
                models[model.name, model.version] = model
        for recommendation in finding.recommendations:
            models[recommendation.guideline.name, recommendation.guideline.version] = recommendation.guideline
    return tuple(models.values())


def _summary(found: Found) -> str:
    if not found.findings:
        return "Chest CT: no automatic lung nodule assessment" if found.missing else "Chest CT: no lung nodule found"
    worst = found.findings[0]
    text = f"Lung {_kind(worst)} {_mean(worst):.1f} mm, {worst.appearance}, {worst.location}"
    if worst.risks:
        text += f": malignancy risk {percent(worst.risks[0].probability)}"
    if _grown(worst):
        text += f", grown{_doubling(worst)}"
    if len(found.findings) > 1:
        text += f"; {len(found.findings) - 1} more"
    return text


def render(found: Found) -> Card:
    """Return the card for what was found, the largest nodule first."""
    detail: list[str] = []
    if found.missing:
        detail += ["**Incomplete answer.**", *(f"- {reason}" for reason in found.missing), ""]
    elif not found.findings:
        detail.append(
            "The segmentation model outlined no nodule of 3 mm or more. It can miss nodules: "
            "this does not replace reading."
        )
    if found.compared:
        detail += [found.compared, ""]
    for finding in found.findings[:SHOWN]:
        detail += [*_describe(finding), ""]
    if len(found.findings) > SHOWN:
        detail.append(f"{len(found.findings) - SHOWN} smaller nodules are described in the record.")
    alarming = any(
        _mean(finding) > MASS
        or _grown(finding)
        or any((risk.interval or (0, risk.probability))[1] >= WARNING_RISK for risk in finding.risks)
        for finding in found.findings
    )
    # The guideline follows the most suspicious nodule, which comes first. Its first CT is past where that was seen
    # before.
    advice = found.findings[0].recommendations if found.findings and not _change(found.findings[0]) else ()
    proposed = tuple(proposal for each in advice for proposal in fleischner.proposals(each))
    return Card(
        summary=_summary(found)[:140],
        indicator="warning" if alarming or found.missing else "info",
        detail="\n".join(detail).strip(),
        source_label="Auscult lung nodule pathway",
        models=_models(found),
        proposals=proposed,
        override_reasons=OVERRIDE_REASONS if proposed else (),
    )

"""A result as one FHIR transaction: the same result gives the same bytes.

Every resource is PUT under an id that derives from the result's identity, and no time is written that the result
does not bring. What shadow models said is not written: it is kept on the findings topic and shown to nobody.
Results of an older version of the study or of a model have other ids; `superseding` withdraws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from auscult.domain.finding import Finding, ModelReference, Result
from auscult.platform.errors import DeadLetter
from auscult.publish.fhir import observations, provenance
from auscult.publish.fhir.checking import check
from auscult.publish.fhir.drafts import follow_up_task, service_request
from auscult.publish.fhir.elements import Json, device, device_id, place, study
from auscult.publish.fhir.imaging_study import imaging_study
from auscult.publish.fhir.report import diagnostic_report
from auscult.publish.fhir.risk import risk_assessment


@dataclass(frozen=True)
class Surroundings:
    """What a result is written into."""

    imaging_study: str = ""
    """`ImagingStudy/id` of the study, where the record has it."""
    write_imaging_study: bool = False
    """Whether to write one where the record has none."""
    replaced: tuple[str, ...] = ()
    """`DiagnosticReport/id` of each earlier result of the pathway on the study."""
    drafts: bool = False
    """Whether advice is also written as a proposal that can be ordered."""
    tasks: bool = False
    """Whether advice is also written as a task to decide on it."""


NOTHING_AROUND = Surroundings()


def transaction(result: Result, around: Surroundings = NOTHING_AROUND) -> Json:
    """Return the Bundle that writes `result`, its Provenance last, checked against FHIR's classes.

    DeadLetter where two of its outputs have one name, or FHIR does not allow what it holds.
    """
    shown = shown_of(result)
    pathway = pathway_model(shown)
    models = _models(shown, pathway)
    study_resource = [imaging_study(shown)] if around.write_imaging_study and not around.imaging_study else []
    imaged = study(shown, around.imaging_study or next(map(place, study_resource), ""))
    stated = _statements(shown, pathway, imaged, around)
    said = provenance.of_result(
        shown, provenance_id(shown), stated=stated, models=models, imaged=imaged, replaced=around.replaced
    )
    resources = [*study_resource, *map(device, models), *stated, said]
    twice = [found for found, count in Counter(map(place, resources)).items() if count > 1]
    if twice:
        raise DeadLetter(
            "result-ambiguous",
            f"the pathway {result.pathway} named {len(twice)} outputs twice; give each finding its own label",
        )
    check(resources, result.pathway)
    return {"resourceType": "Bundle", "type": "transaction", "entry": [put(resource) for resource in resources]}


def put(resource: Json) -> Json:
    """Return the entry that writes `resource` under its own id."""
    return {
        "fullUrl": f"urn:uuid:{resource['id']}",
        "resource": resource,
        "request": {"method": "PUT", "url": place(resource)},
    }


def pathway_model(result: Result) -> ModelReference:
    """Return the pathway itself as the algorithm that put the result together."""
    return ModelReference(result.pathway, result.version, evidence="")


def provenance_id(result: Result) -> str:
    """Return the id of the result's Provenance: the same for each run of a pathway on a version of a study."""
    return str(result.identity(pathway_model(result), "provenance"))


def shown_of(result: Result) -> Result:
    """Return what of a result may be shown."""
    return replace(result, findings=tuple(without_shadow(finding) for finding in result.findings))


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


def _statements(result: Result, pathway: ModelReference, imaged: Json, around: Surroundings) -> list[Json]:
    """Return all that is said, what is referred to before what refers to it; the report last."""
    said: list[Json] = []
    findings = []
    for finding in result.findings:
        groups = [observations.group_observation(result, finding, group, imaged) for group in finding.groups]
        whole = observations.finding_observation(result, pathway, finding, groups, imaged)
        findings.append(whole)
        said += [
            *groups,
            whole,
            *(risk_assessment(result, finding, risk, [*groups, whole]) for risk in finding.risks),
        ]
        for advice in finding.recommendations:
            advised = focus = observations.recommendation_observation(result, finding, advice, whole, imaged)
            said.append(advised)
            if around.drafts:
                focus = service_request(result, pathway, finding, advice, whole)
                said.append(focus)
            if around.tasks:
                said.append(follow_up_task(result, pathway, finding, advice, advised=advised, focus=focus))
    said.append(observations.assessment(result, pathway, findings, imaged))
    return [*said, _report(result, pathway, said, imaged, around)]


def _report(
    result: Result, pathway: ModelReference, said: Sequence[Json], imaged: Json, around: Surroundings
) -> Json:
    observed = [resource for resource in reversed(said) if resource["resourceType"] == "Observation"]
    return diagnostic_report(result, pathway, observations=observed, imaged=imaged, amends=bool(around.replaced))

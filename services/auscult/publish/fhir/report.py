"""The DiagnosticReport: the one entry of a result that record viewers list, with its conclusion and a PDF."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from auscult.domain.codes import LOINC
from auscult.domain.finding import ModelReference, Result
from auscult.publish.fhir.elements import RESULT_LINE, Json, line, named_resource, place

RADIOLOGY = {"coding": [{"system": LOINC, "code": "LP29684-5", "display": "Radiology"}]}
IMAGING_STUDY = {"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}


def report_id(result: Result, pathway: ModelReference) -> str:
    """Return the id of a result's report."""
    return str(result.identity(pathway, "report"))


def diagnostic_report(
    result: Result,
    pathway: ModelReference,
    *,
    observations: Sequence[Json],
    imaged: Json,
    amends: bool = False,
) -> Json:
    """Return the report of a result.

    `amends`: whether it takes the place of an earlier report on the same study, which is then withdrawn; both
    bear the identifier of their line.
    """
    begun = named_resource(result, "DiagnosticReport", pathway, "report")
    status = "amended" if amends and begun["status"] == "final" else begun["status"]
    title = f"Automated assessment: {result.pathway.replace('_', ' ')}"
    return {
        **begun,
        "identifier": [*begun["identifier"], {"system": RESULT_LINE, "value": line(result)}],
        "status": status,
        "category": [RADIOLOGY],
        "code": {"coding": [IMAGING_STUDY], "text": title},
        **({"effectiveDateTime": result.acquired} if result.acquired else {}),
        "issued": result.recorded,
        "result": [{"reference": place(observation)} for observation in observations],
        **({"imagingStudy": [imaged]} if "reference" in imaged else {}),
        "conclusion": conclusion(result),
    }


def conclusion(result: Result) -> str:
    """Return what the reader needs first: the summary, the advice, and what is missing."""
    said = [result.card.summary]
    for finding in result.findings:
        said += [f"{finding.label}: {advice.text}" for advice in finding.recommendations]
    said += [f"Incomplete: {reason}" for reason in result.reasons]
    said += result.processing
    return "\n".join(said)


def attachment(pdf: bytes, report: Json) -> Json:
    """Return what `presentedForm` of `report` holds."""
    return {
        "contentType": "application/pdf",
        "language": "en",
        "data": base64.b64encode(pdf).decode(),
        "size": len(pdf),
        "title": report["code"]["text"],
        "creation": report["issued"],
    }

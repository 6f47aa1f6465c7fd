"""What the record holds of a study before a result is written there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.platform.errors import DeadLetter, Quarantine
from auscult.publish.fhir.answers import Resource, within
from auscult.publish.fhir.client import FhirClient, token
from auscult.publish.fhir.elements import RESULT_LINE, line, study_identifier
from auscult.publish.fhir.imaging_study import of_patient
from auscult.publish.fhir.patients import survivor
from auscult.publish.fhir.report import report_id
from auscult.publish.fhir.resources import pathway_model
from auscult.publish.fhir.superseding import holds, own_id


@dataclass(frozen=True)
class Known:
    """What the record holds before a result is written."""

    held: Resource | None
    """The result's own Provenance."""
    report: Resource | None
    """Its own report."""
    others: Sequence[Resource]
    """Reports of the same pathway on the same study in other versions, withdrawn ones included."""
    imaging_study: str | None
    """`ImagingStudy/id`; empty where the record has none, None where it cannot be asked."""

    @property
    def current(self) -> list[Resource]:
        """The others that a reader would take for valid."""
        return [report for report in self.others if holds(report)]

    @property
    def withdrawn(self) -> bool:
        """Whether this very result was written and then replaced, as when a model was rolled back since."""
        return self.report is not None and not holds(self.report)


def look(client: FhirClient, result: Result, held: Resource | None, deadline: Deadline) -> Known:
    """Return what the record holds beside `held`, the result's own Provenance.

    DeadLetter where the server does not search for it; Quarantine where the study is another patient's.
    """
    asked = [
        ("DiagnosticReport", {"identifier": token(RESULT_LINE, line(result))}),
        ("ImagingStudy", {"identifier": token(*study_identifier(result).values())}),
    ]
    reports, studies = client.batch(asked, deadline)
    if reports is None:
        raise DeadLetter(
            "fhir-not-supported",
            "the FHIR server does not search DiagnosticReport by identifier, so an older result of the same "
            "study could not be found and withdrawn; allow that search, then replay",
        )
    of_line = [report for report in reports if _bears(report, RESULT_LINE, line(result))]
    own = report_id(result, pathway_model(result))
    return Known(
        held=held,
        report=next((report for report in of_line if own_id(report) == own), None),
        others=[report for report in of_line if own_id(report) != own],
        imaging_study=_imaging_study(client, result, studies),
    )


def _imaging_study(client: FhirClient, result: Result, studies: Sequence[Resource] | None) -> str | None:
    if studies is None:
        return None
    identifier = study_identifier(result)
    exact = [study for study in studies if _bears(study, identifier["system"], identifier["value"])]
    named = {str(within(study, "subject").get("reference", "")) for study in exact} - {"", result.patient}
    merged = [patient for patient in named if _stands_for(client, result.patient, patient)]
    return of_patient(exact, result.patient, merged)


def _stands_for(client: FhirClient, patient: str, other: str) -> bool:
    """Whether the record says that `patient` replaces `other`."""
    try:
        return survivor(client, other) == patient
    except (ValueError, Quarantine):
        return False


def _bears(resource: Resource, system: str, value: str) -> bool:
    """Whether it has this identifier: a server that ignores a search parameter answers with everything."""
    found = resource.get("identifier")
    return isinstance(found, list) and any(
        isinstance(item, dict) and item.get("system") == system and item.get("value") == value for item in found
    )

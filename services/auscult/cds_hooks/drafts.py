"""Draft orders that a card suggests (CDS Hooks 2.0.1, Suggestion and Action; FHIR R4 ServiceRequest)."""

from __future__ import annotations

from calendar import monthrange
from datetime import date
from typing import Any

from auscult.cds_hooks.elements import Action, Suggestion
from auscult.cds_hooks.markdown import one_line, shorten
from auscult.domain.finding import Proposal, Result

Json = dict[str, Any]

ASSERTED_BY_AI = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
LABEL_LIMIT = 100


def suggestions(result: Result) -> tuple[Suggestion, ...]:
    """Return a suggestion for each of the card's proposals: to create the order as a draft."""
    return tuple(
        Suggestion(
            label=shorten(proposal.label, LABEL_LIMIT),
            uuid=str(result.identity(proposal.guideline, f"proposal-{number}")),
            is_recommended=proposal.recommended,
            actions=(Action("create", shorten(proposal.label, LABEL_LIMIT), draft(proposal, result)),),
        )
        for number, proposal in enumerate(result.card.proposals, start=1)
    )


def draft(proposal: Proposal, result: Result) -> Json:
    """Return the order. It is dated from the images, or from the result where their date is not known."""
    acquired = result.acquired or ""
    start = date.fromisoformat((acquired if len(acquired) >= len("2026-01-31") else result.recorded)[:10])
    code = proposal.order
    return {
        "resourceType": "ServiceRequest",
        "meta": {"security": [ASSERTED_BY_AI]},
        "status": "draft",
        "intent": "proposal",
        "code": {
            "coding": [{"system": code.system, "code": code.code, "display": code.display}],
            "text": code.display,
        },
        "subject": {"reference": result.patient},
        "occurrencePeriod": period(start, proposal.months),
        "reasonCode": [{"text": one_line(proposal.reason)}],
    }


def period(start: date, months: tuple[int, int]) -> Json:
    """Return the FHIR Period `months` (earliest, latest) after `start`; open where the guideline names one month."""
    earliest, latest = months
    found = {"start": _later(start, earliest).isoformat()}
    return found | ({"end": _later(start, latest).isoformat()} if latest > earliest else {})


def _later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, monthrange(year, month + 1)[1]))

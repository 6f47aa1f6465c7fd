"""Answers within the budget: what cannot be said in time, or at all, is a card that says so, never an error."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import msgspec

from auscult.cds_hooks.elements import CardJson, Source
from auscult.cds_hooks.markdown import shorten
from auscult.cds_hooks.prefetch import UnavailableError
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.domain.deadline import Deadline
from auscult.platform.errors import AuscultError, Refused, TellClinician

RESERVE = 0.02
"""Seconds of the budget that are kept for sending the answer."""
TELLING = 0.03
"""Seconds before that in which a service says what it waited for in vain; then it is no longer waited for."""
PRECONDITION_FAILED = 412
_log = logging.getLogger(__name__)


async def answer(service: Service, call: Call, *, in_card: bool = True) -> Answer:
    """Return the service's answer, or what is missing from it: in a card, else as Refused (412).

    Refused (412) also where data that the service requires cannot be had (CDS Hooks 2.0.1, HTTP Status Codes).
    """
    try:
        answered = service.answer(call)
        if isinstance(answered, Answer):
            return answered
        async with asyncio.timeout(call.deadline.remaining + TELLING):
            return await answered
    except Exception as problem:  # noqa: BLE001 - a clinician's screen gets an answer whatever a service does
        return _incomplete(service, problem, in_card=in_card)


def deadline(service: Service, started: float) -> Deadline:
    """Return until when a call that began at `started` (epoch seconds) may wait for others."""
    return Deadline(started + service.budget - RESERVE - TELLING)


def answer_at_once(service: Service, call: Call, *, in_card: bool = True) -> Answer:
    """Do as `answer` does, for a service that is immediate."""
    try:
        return cast("Answer", service.answer(call))
    except Exception as problem:  # noqa: BLE001 - as above
        return _incomplete(service, problem, in_card=in_card)


def _incomplete(service: Service, problem: Exception, *, in_card: bool) -> Answer:
    missing = _missing(service, problem)
    _log.warning("the service %s answers with what is missing", service.id)
    if not in_card:
        raise Refused(
            "answer-incomplete", f"{service.id} has no full answer: {missing}", status=PRECONDITION_FAILED
        ) from None
    return Answer((_degraded(service, missing),))


def _missing(service: Service, problem: Exception) -> str:
    """Say what is missing; raise where the caller has to do something first."""
    match problem:
        case UnavailableError(reason="server-silent"):
            return f"The record did not answer in time: {problem.key}."
        case UnavailableError() if problem.key in service.required:
            raise Refused(
                "prefetch-unavailable",
                f"the service needs `{problem.key}`: prefetch it, or send fhirServer and fhirAuthorization",
                status=PRECONDITION_FAILED,
            ) from None
        case UnavailableError():
            return f"Data could not be read from the record: {problem.key}."
        case TimeoutError():
            return "The answer took longer than the time that is allowed."
        case Refused():
            raise problem
        case TellClinician():
            return f"A part of the system did not answer ({problem})."
        case AuscultError():
            return f"A part of the system did not answer ({problem.reason})."
    # Without its text, which may quote the patient's data.
    _log.error("the service %s failed (%s)", service.id, type(problem).__name__)
    return "The service failed; the operator's log says more."


def _degraded(service: Service, missing: str) -> bytes:
    return msgspec.json.encode(
        CardJson(
            summary=shorten(f"{service.title}: no full answer at this moment"),
            indicator="warning",
            detail=f"{missing} Results that were computed before are in the patient's record. Try again in a moment.",
            source=Source("Auscult"),
        )
    )

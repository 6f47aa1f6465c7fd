"""An answer within the budget, whatever hangs; what is missing is said."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from auscult.cds_hooks.answering import RESERVE, TELLING, deadline
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust.gate import Caller
from auscult.platform.errors import TellClinician
from ehr import Ehr, request


@pytest.fixture
def hung() -> Iterator[str]:
    """Return the base of a FHIR server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/r4"


def service(answer: Callable[[Call], Any], **more: Any) -> Service:
    """Return a service on patient-view with `answer`."""
    prefetch = {"conditions": "Condition?patient={{context.patientId}}"}
    return Service("slow", ("patient-view",), "Slow", "Slow", answer, prefetch=prefetch, **more)


async def reading(call: Call) -> Answer:
    """Read the record."""
    await call.prefetch.resources("conditions", call.deadline)
    return Answer()


def test_every_call_is_answered_while_the_fhir_server_hangs(hung: str) -> None:
    """Forty at once: 200 with a card that says what is missing, each within 800 ms of its own process's time."""
    ehr = Ehr(
        CardStore("https://a"),
        service(reading, required=frozenset({"conditions"})),
        caller=Caller("north", "default", (hung,)),
    )
    started = time.thread_time(), time.monotonic()
    answers = ehr.ask("slow", *[request(fhirServer=hung)] * 40)
    wall = time.monotonic() - started[1]
    assert [answer.status_code for answer in answers] == [200] * 40
    assert all(len(answer.json()["cards"]) == 1 for answer in answers)
    # Waiting ends with the budget; the rest of the wall clock is this machine's.
    assert wall - (time.thread_time() - started[0]) < 5


async def too_slow(_: Call) -> Answer:
    """Wait for ever."""
    await asyncio.Event().wait()
    raise AssertionError


async def broken(_: Call) -> Answer:
    """Fail, with a name in the text."""
    raise ZeroDivisionError("Mrs Secret")


def test_there_is_time_left_to_say_what_was_waited_for() -> None:
    """A service may wait until 50 ms before its budget's end, and is not awaited beyond 20 ms before it."""
    until = deadline(service(reading, budget=0.5), started=100.0)
    assert until.at == pytest.approx(100.45)
    assert until.at + TELLING + RESERVE == pytest.approx(100.5)


def test_a_record_that_is_silent_is_named(hung: str) -> None:
    """Also where the service cannot do without: 200 and a card, as the call may be repeated."""
    ehr = Ehr(
        CardStore("https://a"),
        service(reading, required=frozenset({"conditions"}), budget=RESERVE + TELLING + 0.05),
        caller=Caller("north", "default", (hung,)),
    )
    [reply] = ehr.ask("slow", request(fhirServer=hung))
    assert reply.status_code == 200
    assert any(said in reply.text for said in ("did not answer in time: conditions", "took longer"))


async def refused(_: Call) -> Answer:
    """Give up in time."""
    raise TellClinician("deadline-exceeded", "model brock did not answer in time")


@pytest.mark.parametrize(
    ("answer", "said"), [(too_slow, "longer"), (broken, "failed"), (refused, "deadline-exceeded")]
)
def test_what_is_missing_is_said(answer: Callable[[Call], Any], said: str, caplog: pytest.LogCaptureFixture) -> None:
    """A service that is too slow, fails or cannot answer leaves one warning card, and no text of its failure."""
    [reply] = Ehr(CardStore("https://a"), service(answer, budget=0.05)).ask("slow", request())
    assert reply.status_code == 200
    [card] = reply.json()["cards"]
    assert card["indicator"] == "warning"
    assert said in card["detail"]
    assert "Secret" not in reply.text + caplog.text


def test_a_site_may_have_an_outcome_instead() -> None:
    """412 and an OperationOutcome, where so configured."""
    [reply] = Ehr(CardStore("https://a"), service(broken), hooks_incomplete="outcome").ask("slow", request())
    assert reply.status_code == 412
    assert reply.json()["resourceType"] == "OperationOutcome"

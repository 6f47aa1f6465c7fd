"""The breaker: a server that fails is left alone for a while."""

from __future__ import annotations

import httpx
import pytest

from auscult.platform.errors import Retry
from auscult.publish.fhir.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker
from auscult.publish.fhir.client import FhirClient


class Clock:
    """Time that passes when it is told to."""

    now = 50.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now


def opened(clock: Clock) -> Breaker:
    """Return a breaker that has just opened."""
    breaker = Breaker("it", clock)
    for _ in range(FAILURES):
        breaker.enter()
        breaker.failed()
    return breaker


def test_failures_in_a_row_open_it_and_success_closes_it() -> None:
    """Only failures in a row count; while it is open nothing passes, and who asks is told for how long."""
    clock = Clock()
    breaker = Breaker("it", clock)
    for _ in range(3 * FAILURES):
        breaker.enter()
        breaker.failed()
        breaker.enter()
        breaker.succeeded()
    with pytest.raises(Retry, match="fhir-suspended") as caught:
        opened(clock).enter()
    assert caught.value.after == FIRST_PAUSE


def test_one_probe_passes_after_the_pause() -> None:
    """The others wait for what it says; where it fails the pause doubles, to a bound."""
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(8):
        with pytest.raises(Retry) as caught:
            breaker.enter()
        pauses.append(caught.value.after or 0)
        clock.now += caught.value.after or 0
        breaker.enter()
        with pytest.raises(Retry):
            breaker.enter()
        breaker.failed()
    assert pauses == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(8)]
    clock.now += LONGEST_PAUSE
    breaker.enter()
    breaker.succeeded()
    breaker.enter()
    breaker.enter()


def test_server_that_asks_for_time_gets_it() -> None:
    """Retry-After holds for all requests, not for the one that heard it."""
    clock = Clock()
    breaker = Breaker("it", clock)
    breaker.enter()
    breaker.failed(30)
    with pytest.raises(Retry) as caught:
        breaker.enter()
    assert caught.value.after == 30
    clock.now += 30
    breaker.enter()


def test_server_that_fails_is_not_asked_and_another_is() -> None:
    """Each server has a breaker of its own; refusals are answers, and open none."""
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response({"down": 500, "strict": 409}.get(request.url.host, 404))

    down, strict, good = (
        FhirClient(f"http://{host}/fhir", 5, transport=httpx.MockTransport(handler))
        for host in ("down", "strict", "good")
    )
    for _ in range(2 * FAILURES):
        for client in (down, strict):
            with pytest.raises(Retry):
                client.read("Patient", "1")
        assert good.read("Patient", "1") is None
    assert {host: asked.count(host) for host in asked} == {
        "down": FAILURES,
        "strict": 2 * FAILURES,
        "good": 2 * FAILURES,
    }
    for client in (down, strict, good):
        client.close()

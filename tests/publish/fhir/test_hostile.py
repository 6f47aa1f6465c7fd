"""Whatever a FHIR server answers, each reader gives a result or an error with a name, and asks nobody else."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile_fhir
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.events import FETCH_WANTED, FetchWanted
from auscult.domain.codes import LOINC, Code
from auscult.domain.deadline import Deadline
from auscult.listen.fhir_poll import Poller
from auscult.listen.notifications import Own
from auscult.listen.record import Watch
from auscult.pathways.needs import look
from auscult.pathways.pathway import Need
from auscult.platform.errors import AuscultError, DeadLetter, Retry
from auscult.platform.settings import Settings
from auscult.publish.fhir import connection
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.consents import Rules, refusal
from auscult.publish.fhir.patients import resolve, survivor
from auscult.publish.fhir.risk_factors import risk_factors
from auscult.publish.fhir.sink import FhirSink
from fhir_samples import IDENTITY, SYSTEMS, finding, result

RULES = Rules(
    permitted_by_default=True,
    purposes=frozenset({"TREAT"}),
    labels=frozenset({("urn:x", "R")}),
    flags=frozenset({("urn:x", "no")}),
    group="Group/p1",
    file=None,
)
NEEDS = (
    Need("age", "Patient", element="birthDate"),
    Need("creatinine", "Observation", (Code(LOINC, "2160-0", "Creatinine"),), not_older_than=30),
)
READERS: tuple[Callable[[FhirClient], object], ...] = (
    lambda client: resolve(client, IDENTITY, SYSTEMS),
    lambda client: risk_factors(client, "Patient/p1"),
    lambda client: survivor(client, "Patient/p1"),
    lambda client: refusal(client, "Patient/p1", RULES),
    lambda client: look(client, "Patient/p1", NEEDS, date(2026, 11, 25)),
    lambda client: FhirSink(client, ("imaging-study", "audit")).write(
        result(finding("nodule-1"), modality="CT"), Deadline.after(60)
    ),
    lambda client: _poll(client, history=False),
    lambda client: _poll(client, history=True),
    lambda client: FhirSink(client, (), "server").write(result(finding("nodule-1")), Deadline.after(60)),
)


def _poll(client: FhirClient, *, history: bool) -> None:
    """Ask for what changed, and for what a subscription missed."""
    nowhere: Any = SimpleNamespace(publish=lambda *_, **__: None, get=lambda _: None, set=lambda *_: None)
    watch = Watch("Observation" if history else "Observation?code=2160-0")
    poller = Poller(Settings(fhir_poll_history=history), nowhere, client, nowhere, Own([hostile_fhir.BASE]))
    poller.begin(watch)
    for subscription in ("", "s1"):
        wanted = FetchWanted("default", watch.criteria, subscription=subscription, first=3)
        event = CloudEvent.of(FETCH_WANTED, "/test", wanted)
        poller.handle(Delivery("fetches", 0, 0, "key", event))


LINKS = (
    f"{hostile_fhir.ELSEWHERE}/Patient?page=2",
    "//evil.example/Patient",
    "\\\\evil.example",
    f"{hostile_fhir.BASE}@evil.example/",
    "http://[::1",
    "http://fhir.example:99999/r4",
    "http://fhir.example:abc/r4",
    "file:///etc/passwd",
    "Patient?page=2",
)


class Hostile:
    """A server of which `chance` decides what is wrong with an answer."""

    def __init__(self) -> None:
        self.chance = random.Random(0)  # noqa: S311 - repeatable, not secret

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer as a server does that is broken in one place or a few."""
        assert request.url.host == "fhir.example"
        chance, value = self.chance, _good(request)
        if chance.random() < 0.6:
            value = hostile_fhir.broken(value, chance)
        if isinstance(value, dict) and chance.random() < 0.1:
            value["link"] = [{"relation": "next", "url": chance.choice(LINKS)}]
        status = chance.choice((200, 200, 200, 200, 200, 200, 302, 404, 410, 500, 429))
        headers = {"location": hostile_fhir.ELSEWHERE} if status == 302 else {}
        return httpx.Response(status, content=hostile_fhir.body(value, chance), headers=headers)


def _good(request: httpx.Request) -> dict[str, Any]:
    place = request.url.path.removeprefix("/r4").strip("/")
    kind = place.partition("/")[0]
    if not place:
        sent = json.loads(request.content)
        if sent["type"] == "transaction":
            confirmed = [{"response": {"status": "201 Created"}} for _ in sent["entry"]]
            return {"resourceType": "Bundle", "type": "transaction-response", "entry": confirmed}
        entries = [_asked(entry["request"]["url"]) for entry in sent["entry"]]
        return {"resourceType": "Bundle", "type": "batch-response", "entry": entries}
    if kind == "metadata":
        able = [{"type": "Observation", "updateCreate": True}]
        return {"resourceType": "CapabilityStatement", "rest": [{"resource": able}]}
    return hostile_fhir.resources(kind)[0] if "/" in place else hostile_fhir.searchset(kind)


def _asked(url: str) -> dict[str, Any]:
    kind, _, query = url.partition("?")
    found = hostile_fhir.searchset(kind) if query else hostile_fhir.resources(kind.partition("/")[0])[0]
    return {"resource": found, "response": {"status": "200 OK"}}


@pytest.fixture(scope="module")
def hostile() -> Hostile:
    """Return the server."""
    return Hostile()


@pytest.fixture(scope="module")
def client(hostile: Hostile) -> Iterator[FhirClient]:
    """Return a client of the server whose breaker never opens."""
    with FhirClient(hostile_fhir.BASE, 60, transport=httpx.MockTransport(hostile)) as client:
        client._connection._breaker = type(
            "Closed", (), {name: lambda *_: None for name in ("enter", "failed", "succeeded")}
        )()
        yield client


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(READERS))
def test_whatever_a_server_answers_is_read_or_refused_by_name(
    hostile: Hostile, client: FhirClient, seed: int, read: Callable[[FhirClient], object]
) -> None:
    """No other exception leaves a reader, and no request leaves for another host."""
    hostile.chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    with suppress(AuscultError):
        read(client)


@pytest.mark.parametrize("text", ['{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":1}'.encode("utf-16"), "[]"])
def test_what_is_no_json_of_the_standard_is_malformed(text: str | bytes) -> None:
    """Python's own reader takes all of these."""
    with (
        FhirClient(
            hostile_fhir.BASE, 5, transport=httpx.MockTransport(lambda _: httpx.Response(200, content=text))
        ) as client,
        pytest.raises(Retry, match="fhir-malformed"),
    ):
        client.read("Patient", "p1")


@pytest.mark.parametrize(
    ("coding", "text", "reason"),
    [
        ("gzip", gzip.compress(b" " * 3_000_000), "fhir-too-large"),
        ("gzip, gzip", gzip.compress(gzip.compress(b" " * 3_000_000)), "fhir-encoding"),
        ("gzip", b"no gzip at all", "fhir-cut-off"),
    ],
)
def test_compressed_answers_are_bounded(
    monkeypatch: pytest.MonkeyPatch, coding: str, text: bytes, reason: str
) -> None:
    """By what they are when they are whole; what is compressed twice is not unpacked at all."""
    monkeypatch.setattr(connection, "MOST_BYTES", 1_000_000)

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(text), headers={"content-encoding": coding})

    with (
        FhirClient(hostile_fhir.BASE, 5, transport=httpx.MockTransport(handler)) as client,
        pytest.raises((Retry, DeadLetter), match=reason),
    ):
        client.read("Patient", "p1")

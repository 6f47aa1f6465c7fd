"""Polling: nothing is missed and nothing is told twice, whatever order and time the server shows things in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import pytest

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import FETCHES, RECORD
from auscult.listen.fhir_poll import Poller, want
from auscult.listen.fhir_subscription import Secrets
from auscult.listen.marks import Marks
from auscult.listen.notifications import Own
from auscult.listen.record import Watch
from auscult.listen.registration import Registrar
from auscult.platform.errors import DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings
from fhir_notifications import BASE, event, told

WATCH = Watch("Observation?code=2160-0")


@dataclass
class Server:
    """A record in memory, which answers searches, histories and `$events` in pages of two."""

    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    missed: list[list[dict[str, Any]]] | None = None
    deleted: list[dict[str, Any]] = field(default_factory=list)
    saved: list[dict[str, Any]] = field(default_factory=list)
    failing: int = -1
    """Pages after which it fails."""

    def put(self, identity: str, updated: str, version: str = "1", **elements: Any) -> None:
        """Hold an Observation."""
        meta = {"versionId": version, "lastUpdated": updated}
        self.held[identity] = {"resourceType": "Observation", "id": identity, "meta": meta, **elements}

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return an Observation."""
        assert resource_type == "Observation"
        return self.held.get(resource_id)

    def search(self, resource_type: str, parameters: Mapping[str, str]) -> Sequence[dict[str, Any]]:
        """Return the subscriptions."""
        assert resource_type == "Subscription"
        return [one for one in self.saved if one["channel"]["endpoint"] == parameters["url"]]

    def save(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a subscription."""
        held = dict(resource)
        held.setdefault("id", f"s{len(self.saved) + 1}")
        self.saved = [*(one for one in self.saved if one["id"] != held["id"]), held]
        return held

    def entries(self, place: str) -> Iterator[list[dict[str, Any]]]:
        """Answer as HAPI does."""
        self.asked.append(place)
        path, _, query = place.partition("?")
        if "$events" in path:
            if self.missed is None:
                raise DeadLetter("fhir-refused", "404")
            yield from self.missed
            return
        given = {name: values[0] for name, values in parse_qs(query).items()}
        since = given.get("_lastUpdated", "ge")[2:] or given.get("_since", "")
        found = sorted(
            (one for one in self.held.values() if one["meta"]["lastUpdated"] >= since),
            key=lambda one: str(one["meta"]["lastUpdated"]),
            reverse=given.get("_sort") == "-_lastUpdated" or "_history" in path,
        )
        entries = [{"resource": one} for one in found] + (self.deleted if "_history" in path else [])
        for number, page in enumerate(
            itertools.batched(entries, 2) if hasattr(itertools, "batched") else _pairs(entries)
        ):
            if number == self.failing:
                raise Retry("fhir-unavailable", "down")
            yield list(page)


def _pairs(entries: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(entries), 2):
        yield entries[start : start + 2]


@pytest.fixture
def server() -> Server:
    """Return an empty record."""
    return Server()


@pytest.fixture
def poller(settings: Settings, bus: SqliteBus, server: Server) -> Iterator[Poller]:
    """Return a poller with an overlap of a minute."""
    with Marks(bus, "site") as marks:
        yield Poller(settings, bus, server, marks, Own([BASE]))


def fetch(poller: Poller, **wanted: Any) -> None:
    """Let the poller handle one fetch that is wanted now."""
    made = events.FetchWanted("site", WATCH.criteria, **wanted)
    poller.handle(Delivery(FETCHES.name, 0, 0, "k", CloudEvent.of(events.FETCH_WANTED, "/test", made)))


def references(bus: SqliteBus) -> list[str]:
    """Return what was told, with versions."""
    changes = [delivery.event.payload(events.RecordChanged) for delivery in bus.read(RECORD)]
    return [f"{change.reference}/{change.version}{'-' if change.deleted else ''}" for change in changes]


def test_what_was_there_before_is_an_operators_to_fetch(poller: Poller, server: Server, bus: SqliteBus) -> None:
    """The first mark is set at the newest resource, by the server's clock."""
    server.put("old", "2001-01-01T00:00:00Z")
    server.put("newest", "2001-06-01T00:00:00Z")
    poller.begin(WATCH)
    server.put("new", "2001-06-02T00:00:00Z")
    fetch(poller)
    assert [one for one in references(bus) if "newest" not in one] == ["Observation/new/1"]
    fetch(poller, since="2000-01-01T00:00:00+00:00")
    assert "Observation/old/1" in references(bus)


def test_each_version_is_told_once(poller: Poller, server: Server, bus: SqliteBus) -> None:
    """Also of several with one instant, over pages, and of one that is shown late."""
    poller.begin(WATCH)
    for number in range(5):
        server.put(f"tie-{number}", "2001-01-01T00:00:00.000Z")
    fetch(poller)
    server.put("late", "2000-12-31T23:59:30.000Z")
    server.put("tie-0", "2001-01-01T00:00:10.000Z", "2")
    fetch(poller)
    fetch(poller)
    assert references(bus) == [
        *(f"Observation/tie-{number}/1" for number in range(5)),
        "Observation/late/1",
        "Observation/tie-0/2",
    ]


def test_a_failure_on_the_way_loses_nothing(poller: Poller, server: Server, bus: SqliteBus) -> None:
    """The mark is moved at the end; what was told is told again with the same ids."""
    poller.begin(WATCH)
    for number in range(4):
        server.put(f"o{number}", f"2001-01-01T00:00:0{number}Z")
    server.failing = 1
    with pytest.raises(Retry):
        fetch(poller)
    server.failing = -1
    fetch(poller)
    assert references(bus)[2:] == [f"Observation/o{number}/1" for number in range(4)]
    assert len({delivery.event.id for delivery in bus.read(RECORD)}) == 4


def test_the_mark_outlives_the_process(settings: Settings, poller: Poller, server: Server, bus: SqliteBus) -> None:
    """A successor asks from there."""
    poller.begin(WATCH)
    server.put("one", "2001-01-01T00:00:00Z")
    fetch(poller)
    with Marks(bus, "site") as marks:
        successor = Poller(settings, bus, server, marks, Own([BASE]))
        successor.begin(WATCH)
        server.put("two", "2001-01-02T00:00:00Z")
        fetch(successor)
    assert references(bus) == ["Observation/one/1", "Observation/two/1"]
    assert "_lastUpdated=ge2000-12-31T23:59:00.000Z" in server.asked[-1]


def test_fetches_that_wait_together_are_one_search(poller: Poller, server: Server) -> None:
    """A burst of empty notifications does not become a burst of searches."""
    waiting = CloudEvent.of(events.FETCH_WANTED, "/test", events.FetchWanted("site", WATCH.criteria))
    fetch(poller)
    searches = len(server.asked)
    for _ in range(5):
        poller.handle(Delivery(FETCHES.name, 0, 0, "k", waiting))
    assert len(server.asked) == searches


def test_missed_events_are_asked_for_by_their_number(poller: Poller, server: Server, bus: SqliteBus) -> None:
    """What the server kept of them is told; no search is needed."""
    server.missed = [told("query-event", events=[event(4), event(5, "Observation/2")])["entry"]]
    fetch(poller, subscription="s1", first=4)
    assert references(bus) == ["Observation/crea-1/", "Observation/2/"]
    assert server.asked == ["Subscription/s1/$events?eventsSinceNumber=4&content=id-only"]


def test_missed_events_that_the_server_forgot_are_searched_for(
    poller: Poller, server: Server, bus: SqliteBus
) -> None:
    """Or where it never heard of `$events`."""
    server.put("one", "2001-01-01T00:00:00Z")
    fetch(poller, subscription="s1", first=4)
    assert references(bus) == ["Observation/one/1"]


def test_a_history_tells_of_deletions_too(settings: Settings, server: Server, bus: SqliteBus) -> None:
    """Each resource's newest version, and what is gone."""
    server.put("one", "2001-01-01T00:00:00Z")
    server.deleted = [
        {
            "request": {"method": "DELETE", "url": "Observation/gone"},
            "response": {"lastModified": "2001-01-02T00:00:00Z"},
        },
        {"request": {"method": "DELETE", "url": "http://evil.example/Observation/1"}},
    ]
    watch = Watch("Observation")
    with Marks(bus, "site") as marks:
        poller = Poller(settings.model_copy(update={"fhir_poll_history": True}), bus, server, marks, Own([BASE]))
        for _ in range(2):
            want(bus, "site", watch)
            *_, wanted = bus.read(FETCHES)
            poller.handle(wanted)
    assert references(bus) == ["Observation/one/1", "Observation/gone/-"]
    assert server.asked[0].startswith("Observation/_history?")


def test_a_resource_that_is_none_stops_nothing(poller: Poller, server: Server, bus: SqliteBus) -> None:
    """A server with bad data in one place has good data in others."""
    server.put("..", "2001-01-01T00:00:00Z")
    server.put("good", "2001-01-01T00:00:01Z")
    fetch(poller)
    assert references(bus) == ["Observation/good/1"]


@pytest.mark.parametrize("text", ["", "observation", "Observation?a=b extra more", "http://topic", "Obs|x"])
def test_a_search_that_is_none_stops_the_start(text: str) -> None:
    """The setting is named."""
    with pytest.raises((RefuseToStart, ValueError)):
        Watch.parse(text, "AUSCULT_FHIR_POLL")


@pytest.fixture
def registrar(settings: Settings, server: Server, tmp_path: Any) -> Registrar:
    """Return a registrar with a secret."""
    file = tmp_path / "secret"
    file.write_text("a-secret-of-the-record\n")
    given = settings.model_copy(update={"fhir_notify_url": "https://auscult.example/"})
    return Registrar(given, server, Secrets(file))


def test_a_subscription_is_created_once_and_repaired(registrar: Registrar, server: Server) -> None:
    """Where the server switched it off, or its secret is an old one."""
    assert [registrar.ensure(WATCH) for _ in range(2)] == ["created", "unchanged"]
    (held,) = server.saved
    assert held["channel"]["endpoint"] == f"https://auscult.example/fhir-notifications/{WATCH.name}"
    assert held["channel"]["header"] == ["Authorization: Bearer a-secret-of-the-record"]
    server.saved = [{**held, "status": "error"}]
    assert registrar.ensure(WATCH) == "repaired"
    server.saved = [{**held, "channel": {**held["channel"], "header": ["Authorization: Bearer old"]}}]
    assert registrar.ensure(WATCH) == "repaired"
    server.saved = [{**held, "status": "active", "end": "2001-01-01T00:00:00Z"}]
    assert registrar.ensure(WATCH) == "renewed"
    (held,) = server.saved
    assert held["end"] > "2026"
    assert [one["status"] for one in server.saved] == ["requested"]


def test_a_topic_is_subscribed_to_as_the_backport_says(registrar: Registrar) -> None:
    """Its canonical is the criteria, the filter, payload and heartbeat are extensions."""
    resource = registrar.resource(Watch.parse("https://fhir.example/topic Observation?code=2160-0", "X"))
    assert resource["criteria"] == "https://fhir.example/topic"
    assert resource["_criteria"]["extension"][0]["valueString"] == "Observation?code=2160-0"
    assert resource["channel"]["_payload"]["extension"][0]["valueCode"] == "id-only"

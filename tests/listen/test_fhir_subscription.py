"""The endpoint over HTTP: who may notify, what is kept of it, and what is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from auscult.bus import events
from auscult.bus.contract import Delivery
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import FETCHES, RECORD
from auscult.listen.fhir_subscription import LARGEST, PATH, Desk, Secrets, create_app
from auscult.listen.marks import Marks
from auscult.listen.notifications import Own
from auscult.listen.record import Watch
from auscult.platform.errors import RefuseToStart, Retry
from fhir_notifications import BASE, OBSERVATION, event, told

SHOWN = "a-secret-of-the-record"
WATCH = Watch("Observation?code=2160-0")
AUTH = {"authorization": f"Bearer {SHOWN}"}


@pytest.fixture
def desk(bus: SqliteBus, tmp_path: Path) -> Iterator[Desk]:
    """Return the endpoint's state on an empty bus."""
    file = tmp_path / "secrets"
    file.write_text(f"{SHOWN}\nthe-secret-of-before\n")
    with Marks(bus, "site") as marks:
        yield Desk("site", bus, marks, Own([BASE]), {WATCH.name: WATCH}, Secrets(file))


Send = Callable[..., httpx.Response]


@pytest.fixture
def send(desk: Desk) -> Send:
    """Return a function that sends one request to the endpoint."""
    app = create_app(desk)

    def send(method: str, place: str = "", body: Any = None, headers: dict[str, str] = AUTH) -> httpx.Response:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, f"{PATH}/{WATCH.name}{place}", content=content, headers=headers)

        return asyncio.run(sent())

    return send


def changes(bus: SqliteBus) -> list[events.RecordChanged]:
    """Return what is told of the record."""
    return [delivery.event.payload(events.RecordChanged) for delivery in bus.read(RECORD)]


def fetches(bus: SqliteBus) -> list[events.FetchWanted]:
    """Return what is to be fetched."""
    return [delivery.event.payload(events.FetchWanted) for delivery in bus.read(FETCHES)]


def test_a_rest_hook_with_a_resource_is_told_by_reference(bus: SqliteBus, send: Send) -> None:
    """HAPI's way: a PUT to the endpoint with type and id. No value travels on."""
    secret = {**OBSERVATION, "valueQuantity": {"value": 1.7, "unit": "SECRETVALUE"}}
    assert send("PUT", "/Observation/crea-1", secret).status_code == 200
    assert changes(bus) == [events.RecordChanged("site", "Observation/crea-1", "3", "Patient/7")]
    assert b"SECRETVALUE" not in b"".join(delivery.event.data for delivery in bus.read(RECORD))


def test_the_same_notification_twice_has_one_id(bus: SqliteBus, send: Send) -> None:
    """Whoever handles the events knows them again; another version is another event."""
    for version in ("3", "3", "4"):
        send("PUT", "/Observation/crea-1", {**OBSERVATION, "meta": {"versionId": version}})
    ids = [delivery.event.id for delivery in bus.read(RECORD)]
    assert ids[0] == ids[1] != ids[2]


def test_a_deletion_is_told(bus: SqliteBus, send: Send) -> None:
    """HAPI sends a DELETE where it was asked to."""
    assert send("DELETE", "/Observation/crea-1").status_code == 200
    assert changes(bus) == [events.RecordChanged("site", "Observation/crea-1", deleted=True)]


def test_an_empty_notification_asks_for_the_search(bus: SqliteBus, send: Send) -> None:
    """Without a payload the server says that something changed, not what."""
    assert send("POST").status_code == 200
    assert fetches(bus) == [events.FetchWanted("site", WATCH.criteria)]
    assert changes(bus) == []


def test_a_topic_notification_is_told_and_its_gap_fetched(bus: SqliteBus, send: Send) -> None:
    """Numbers 2 and 3 never came: `$events` from 2 on is asked for, once."""
    assert send("POST", body=told("handshake", so_far=0)).status_code == 200
    for number in (1, 4, 4):
        assert send("POST", body=told(events=[event(number)], so_far=number)).status_code == 200
    assert [change.reference for change in changes(bus)] == ["Observation/crea-1"] * 3
    assert fetches(bus) == [events.FetchWanted("site", WATCH.criteria, subscription="s1", first=2)]


def test_a_heartbeat_that_counts_more_than_came_is_a_gap(bus: SqliteBus, send: Send) -> None:
    """A lost last notification is seen, too."""
    send("POST", body=told(events=[event(1)], so_far=1))
    send("POST", body=told("heartbeat", so_far=2))
    assert [wanted.first for wanted in fetches(bus)] == [2]


def test_the_numbers_outlive_the_process(bus: SqliteBus, desk: Desk, send: Send) -> None:
    """A successor sees the gap that its predecessor's end made."""
    send("POST", body=told(events=[event(1)], so_far=1))
    desk.keep()
    with Marks(bus, "site") as marks:
        successor = Desk("site", bus, marks, desk.own, desk.watches, desk.secrets)
        from auscult.listen.notifications import notification

        successor.note(WATCH, notification(told(events=[event(3)], so_far=3), desk.own))
    assert [wanted.first for wanted in fetches(bus)] == [2]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (AUTH, 200),
        ({"authorization": "Bearer the-secret-of-before"}, 200),
        ({}, 401),
        ({"authorization": SHOWN}, 401),
        ({"authorization": f"Bearer {SHOWN}x"}, 401),
    ],
)
def test_only_who_shows_a_secret_is_heard(bus: SqliteBus, send: Send, headers: dict[str, str], status: int) -> None:
    """Two secrets are good while one is replaced by the other."""
    assert send("PUT", "/Observation/crea-1", OBSERVATION, headers).status_code == status
    assert bool(changes(bus)) == (status == 200)


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (("PUT", "/Observation/other", OBSERVATION), 400, "fhir-malformed"),
        (("PUT", "/Observation/%2e%2e", OBSERVATION), 400, "fhir-malformed"),
        (("POST", "", told(events=[event(1, "http://evil.example/Observation/1")])), 422, "foreign-reference"),
        (("POST", "", b"[" * 100_000), 400, "fhir-malformed"),
        (("POST", "", b"x" * (LARGEST + 1)), 413, "body-too-long"),
        (("POST", "", {"resourceType": "Observation", "id": "..", "meta": 7}), 400, "fhir-malformed"),
    ],
)
def test_hostile_notifications_are_refused_by_name(
    bus: SqliteBus, send: Send, sent: tuple[str, str, Any], status: int, reason: str
) -> None:
    """Nothing of them is kept."""
    answer = send(*sent)
    assert answer.status_code == status
    assert reason in answer.text
    assert changes(bus) == []


def test_while_the_bus_is_away_the_sender_is_told_to_send_again(
    desk: Desk, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not durable is not acknowledged."""

    def away(*_: object, **__: object) -> None:
        raise Retry("bus-unavailable", "the disk is full")

    monkeypatch.setattr(desk.bus, "publish", away)
    answer = send("PUT", "/Observation/crea-1", OBSERVATION)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_another_name_is_not_found(desk: Desk, send: Send) -> None:
    """Only what is configured here can be told about."""
    desk.watches.clear()
    assert send("POST").status_code == 404


@pytest.mark.parametrize("content", ["", "short\n", "ümlaut-in-the-secret\n"])
def test_a_secret_that_protects_nothing_stops_the_start(tmp_path: Path, content: str) -> None:
    """Too short, not ASCII, or none."""
    file = tmp_path / "secrets"
    file.write_text(content)
    with pytest.raises(RefuseToStart, match="notify-secret-invalid"):
        Secrets(file)


def test_what_waits_may_be_read_by_any_consumer(bus: SqliteBus, send: Send) -> None:
    """Events of one patient keep their order: they have one key."""
    send("PUT", "/Observation/crea-1", OBSERVATION)
    keys: list[Delivery] = list(bus.read(RECORD))
    assert [delivery.key for delivery in keys] == ["site|Patient/7"]

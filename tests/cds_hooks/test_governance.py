"""Who answers for the models can switch one off, see what is coming, and learn what clinicians did with cards."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner, Result

from auscult.bus import events, topics
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.events import ModelSwitched, Progress
from auscult.bus.sqlite import SqliteBus
from auscult.bus.switches import EVERY, Switches, switch
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.feedback import FeedbackDesk
from auscult.cds_hooks.store import CardStore
from auscult.domain.finding import ModelReference
from auscult.entrypoints.cli import main
from auscult.platform.errors import Retry
from auscult.platform.settings import Settings

if TYPE_CHECKING:
    from conftest import Topic

Make = Callable[..., Any]
OTHER = ModelReference("other", "2", "doi:10.1/x")
PUBLIC = "https://auscult.example.org/"
SOON = 20.0


def summaries(store: CardStore, patient: str = "Patient/42") -> list[str]:
    """Return the summaries of a patient's cards."""
    return [json.loads(card)["summary"] for card in store.cards("default", patient)]


def throw(topic: Topic, model: str, number: int, *, enabled: bool = False) -> None:
    """Publish a switch."""
    told = ModelSwitched(model, enabled, number, "wrong <b>risks</b>", "Dr A")
    topic.publish(told, kind=events.MODEL_SWITCHED, on=topics.SWITCHES, partition=number % 3, offset=number)
    topic.wait()


def test_a_model_that_is_switched_off_is_on_no_card(topic: Topic, store: CardStore, make_result: Make) -> None:
    """Cards that rest on it become one notice with the reason; others stay; on again, they are back."""
    topic.publish(make_result(study="1.1", summary="of brock"))
    topic.publish(make_result(study="1.2", summary="of brock, too"))
    topic.publish(make_result(study="1.3", summary="of another", models=(OTHER,)))
    throw(topic, "brock", 1)
    notice = "Results are withheld: the model brock is switched off at this site"
    assert summaries(store) == [notice, "of another"]
    [detail] = [json.loads(card)["detail"] for card in store.cards("default", "Patient/42")][:1]
    assert "wrong &lt;b>risks" in detail
    throw(topic, "brock", 2, enabled=True)
    assert sorted(summaries(store)) == ["of another", "of brock", "of brock, too"]


def test_all_models_can_be_switched_off_at_once(topic: Topic, store: CardStore, make_result: Make) -> None:
    """Then every chart says so, and no card is shown, not even one that rests on no model."""
    topic.publish(make_result())
    topic.publish(make_result(study="1.9", models=(), status="degraded"))
    throw(topic, EVERY, 1)
    for patient in ("Patient/42", "Patient/unknown"):
        assert summaries(store, patient) == ["Results are withheld: all models are switched off at this site"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_switches_count_by_number_in_whatever_order_they_come(order: tuple[int, ...]) -> None:
    """The highest number counts, and off where two have one."""
    told = [ModelSwitched("a", enabled, number, "", "") for enabled, number in ((False, 1), (True, 2), (False, 2))]
    state = Switches()
    for each in order:
        state.take(told[each])
    assert state.now_off == ("a",)


def test_before_the_switches_are_known_no_card_is_shown(topic: Topic, make_result: Make) -> None:
    """A replica that starts shows nothing of a model that was switched off long ago, however it got the cards."""
    topic.publish(make_result())
    throw_at = ModelSwitched("brock", enabled=False, number=1, reason="", by="")
    topic.publish(throw_at, kind=events.MODEL_SWITCHED, on=topics.SWITCHES)
    store, seen = CardStore(PUBLIC), []
    put = store._put

    def watched(*given: Any) -> None:
        put(*given)
        seen.extend(summaries(store))

    store._put = watched  # type: ignore[method-assign]
    assert summaries(store) == []
    with following(topic, store):
        topic.wait()
    assert seen == ["Results are withheld: the model brock is switched off at this site"]


def progress(state: str, *, ago: float = 0.0, **changes: Any) -> Progress:
    """Return what a worker says of study 1.2.3."""
    given = {
        "tenant": "default",
        "study_uid": "1.2.3",
        "pathway": "lung_nodule",
        "patient": "Patient/42",
        "state": state,
        "at": time.time() - ago,
        "modality": "CT",
        "acquired": "2026-01-30T09:12:00+01:00",
        "budget": 120.0,
    }
    return Progress(**(given | changes))


@pytest.fixture
def tell(topic: Topic) -> Callable[..., None]:
    """Return a function that publishes progress."""

    def told(*given: Any, **changes: Any) -> None:
        topic.publish(progress(*given, **changes), kind=events.PROGRESS, on=topics.PROGRESS)
        topic.wait()

    return told


def test_a_study_that_is_being_computed_is_announced(
    topic: Topic, store: CardStore, make_result: Make, tell: Callable[..., None]
) -> None:
    """Its card says since which images and how long by what the last took; the result takes its place."""
    tell("started")
    assert summaries(store) == ["CT of 2026-01-30 09:12 being analysed, about 120 s"]
    tell("ended", study_uid="1.2.9", took=21.5)
    tell("started", ago=1.0)
    assert summaries(store) == ["CT of 2026-01-30 09:12 being analysed, about 20 s"]
    tell("started", ago=30.0)
    assert summaries(store) == ["CT of 2026-01-30 09:12 being analysed, longer than usual"]
    assert summaries(store, "Patient/1") == []
    topic.publish(make_result())
    topic.wait()
    assert summaries(store) == ["Lung nodule 8.4 mm"]


@pytest.mark.parametrize(("state", "ago"), [("failed", 5.0), ("started", 4000.0)])
def test_a_study_whose_computation_failed_is_said_to_have(
    store: CardStore, tell: Callable[..., None], state: str, ago: float
) -> None:
    """Whether it is told or the worker is silent for too long; until one ends with a result, or for two days."""
    tell("started", ago=ago + 1)
    tell(state, ago=ago, acquired="2026-01-30")
    [card] = [json.loads(card) for card in store.cards("default", "Patient/42")]
    assert (card["summary"], card["indicator"]) == ("CT of 2026-01-30: the analysis did not finish", "warning")
    tell("ended")
    assert summaries(store) == []
    tell("failed", ago=3 * 86400.0)
    assert summaries(store) == []


@contextmanager
def following(topic: Topic | SqliteBus, store: CardStore) -> Iterator[None]:
    """Let `store` follow while the block runs, and have taken all that is there when it begins."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=store.follow, args=(topic, stop)),
        threading.Thread(target=store.keep_saved, args=(stop,)),
    ]
    if not isinstance(topic, SqliteBus):
        topic.settled.clear()
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + SOON
        while not store.ready:
            assert time.monotonic() < end
            time.sleep(0.001)
        yield
    finally:
        stop.set()
        if not isinstance(topic, SqliteBus):
            with topic.changed:
                topic.changed.notify_all()
        # Without a limit: the last snapshot is on the disk when the block has ended, however slow that is.
        for thread in threads:
            thread.join()


def test_an_old_card_says_so(topic: Topic, make_result: Make) -> None:
    """What was seen longer ago than the site calls current alarms nobody, and names its date first."""
    store = CardStore(PUBLIC, current_days=30)
    topic.publish(make_result(indicator="critical", acquired="2020-05-06", recorded="2999-01-01T00:00:00Z"))
    topic.publish(make_result(study="1.9", summary="new", recorded="2999-01-01T00:00:00Z"))
    with following(topic, store):
        topic.wait()
    old, new = (json.loads(card) for card in store.cards("default", "Patient/42"))
    assert old["summary"] == "Not current, of 2020-05-06: Lung nodule 8.4 mm"
    assert old["indicator"] == "info"
    assert old["detail"].startswith("**Of 2020-05-06, more than 30 days ago.**")
    assert new["summary"] == "new"


@pytest.fixture
def saved(topic: Topic, make_result: Make, tmp_path: Path) -> Path:
    """Return a snapshot of two cards."""
    topic.publish(make_result(study="1.1", summary="one", sex="female"))
    topic.publish(make_result(study="1.2", summary="two", recorded="2025-01-31T12:00:00Z"))
    path = tmp_path / "cards.snapshot"
    with following(topic, CardStore(PUBLIC, path=path)):
        topic.wait()
    return path


def test_a_start_from_a_snapshot_reads_only_what_came_since(topic: Topic, make_result: Make, saved: Path) -> None:
    """All cards are there; of the topic the last event known is read, and what is behind it."""
    assert saved.stat().st_mode & 0o777 == 0o600
    topic.publish(make_result(study="1.3", summary="three", recorded="2024-01-31T12:00:00Z"))
    store, taken = CardStore(PUBLIC, path=saved), []
    put = store._put
    store._put = lambda result, delivery: (taken.append(delivery.offset), put(result, delivery))  # type: ignore[assignment,func-returns-value]
    store.resume()
    assert summaries(store) == []
    with following(topic, store):
        topic.wait()
        assert summaries(store) == ["one", "two", "three"]
        assert store.model("brock") is not None
    assert taken == [1, 2]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other URL", "gone"])
def test_a_snapshot_that_is_not_sound_is_not_used(topic: Topic, saved: Path, damage: str) -> None:
    """The topic is read from its beginning instead, and the cards are the same."""
    content = saved.read_bytes()
    if damage == "gone":
        saved.unlink()
    else:
        changed = content[:200] + bytes([content[200] ^ 1]) + content[201:]
        saved.write_bytes({"cut": content[:-5], "changed": changed, "empty": b""}.get(damage, content))
    store = CardStore("https://b.org" if damage == "other URL" else PUBLIC, path=saved)
    store.resume()
    assert store._shelf.records == {}
    with following(topic, store):
        topic.wait()
        assert summaries(store) == ["one", "two"]


def test_a_disk_that_is_full_costs_no_card(topic: Topic, saved: Path, make_result: Make) -> None:
    """The snapshot before stays, and the store goes on."""
    before = saved.read_bytes()
    topic.publish(make_result(study="1.3", summary="three"))
    store = CardStore(PUBLIC, path=saved / "not a folder")
    with following(topic, store):
        topic.wait()
    assert len(summaries(store)) == 3
    assert saved.read_bytes() == before


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteBus]:
    """Return the bus of a site."""
    monkeypatch.setenv("AUSCULT_HOME", str(tmp_path))
    with closing(SqliteBus(tmp_path / "bus.db")) as opened:
        yield opened


def run(*arguments: str) -> Result:
    """Run `auscult` with `arguments`."""
    return CliRunner().invoke(main, arguments)


def test_an_operator_s_command_is_on_the_bus_with_its_reason(bus: SqliteBus) -> None:
    """It says what is off now; the audit has all that was done, by whom and why."""
    assert "off now: brock" in run("models", "disable", "brock", "--reason", "drift", "--by", "Dr A").output
    assert "off now: all, brock" in run("models", "disable", "--all", "--reason", "recall", "--by", "Dr B").output
    assert "off now: brock" in run("models", "enable", "--all", "--reason", "checked", "--by", "Dr B").output
    rows = json.loads(run("models", "switches", "--format", "json").output)
    assert [(row["model"], row["switched"], row["by"], row["reason"]) for row in rows] == [
        ("brock", "off", "Dr A", "drift"),
        ("all", "off", "Dr B", "recall"),
        ("all", "on", "Dr B", "checked"),
    ]
    assert run("models", "disable", "--reason", "x").exit_code == 2
    assert run("models", "disable", "brock").exit_code == 2
    assert len(list(bus.read(topics.SWITCHES))) == 3


@pytest.mark.usefixtures("bus")
def test_a_switch_that_the_bus_does_not_take_is_not_said_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fails loudly."""

    def lost(*_: object, **__: object) -> None:
        raise Retry("bus-unavailable", "start the broker")

    monkeypatch.setattr(SqliteBus, "publish", lost)
    done = run("models", "disable", "brock", "--reason", "drift")
    assert done.exit_code == 1
    assert "NOT switched" in done.output


def test_switches_reach_those_who_follow(bus: SqliteBus) -> None:
    """A worker that starts knows what is off before its first study, and learns what comes."""
    switch(bus, "a", enabled=False, reason="x", by="y")
    state, stop = Switches(), threading.Event()
    follower = threading.Thread(target=state.follow, args=(bus, stop))
    follower.start()
    try:
        assert state.ready.wait(SOON)
        assert state.off(["b", "a"]) is not None
        assert state.off(["b"]) is None
        switch(bus, "b", enabled=False, reason="x", by="y")
        end = time.monotonic() + SOON
        while state.off(["b"]) is None:
            assert time.monotonic() < end
    finally:
        stop.set()
        follower.join()


def outcome(card: str, kind: str, **more: Any) -> dict[str, Any]:
    """Return one item of feedback."""
    return {"card": card, "outcome": kind, "outcomeTimestamp": "2026-01-31T12:00:00Z", **more}


@pytest.fixture
def send(bus: SqliteBus, make_result: Make) -> Iterator[Callable[..., int]]:
    """Return a function that sends feedback on the card of a site, and returns the status."""
    store = CardStore(PUBLIC)
    bus.publish(
        topics.FINDINGS, CloudEvent.of(events.RESULT, "/t", make_result(sex="female", age_band="60-69")), key="k"
    )
    with following(bus, store):
        desk = FeedbackDesk(bus, store)
        desk.start()
        app = create_app(store, Settings(), Path(), feedback=desk)
        uuid = json.loads(store.cards("default", "Patient/42")[0])["uuid"]

        def sent(*items: dict[str, Any]) -> int:
            async def post() -> int:
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hooks") as client:
                    path = "/cds-services/auscult-patient-view/feedback"
                    body = {"feedback": [{**item, "card": item["card"] or uuid} for item in items]}
                    return (await client.post(path, json=body)).status_code

            return asyncio.run(post())

        yield sent
        desk.close()


def test_feedback_is_counted_by_model_reason_and_subgroup(bus: SqliteBus, send: Callable[..., int]) -> None:
    """Each outcome once, however often it is sent; free text and sentences stay out."""
    reason = {"reason": {"code": "not-applicable", "system": "urn:x"}, "userComment": "Mrs Secret is 80"}
    one = outcome("", "overridden", overrideReason=reason)
    two = outcome("", "accepted", acceptedSuggestions=[{"id": "follow-up"}])
    sentence = outcome("", "overridden", overrideReason={"reason": {"code": "Mrs Secret objects"}})
    unknown = outcome("e1187895-ad57-4ff7-a1f1-ccf954b2fe46", "overridden")
    assert send(one, two) == send(one) == send(one, sentence, unknown) == 200
    everything = b"".join(delivery.event.data for delivery in bus.read(topics.FEEDBACK))
    assert b"Secret" not in everything
    assert b"Patient" not in everything
    rows = json.loads(run("feedback", "--format", "json").output)
    assert [(row["model"], row["reason"], row["accepted"], row["overridden"]) for row in rows] == [
        ("brock 1", "", "1", "0"),
        ("brock 1", "not-applicable", "0", "1"),
        ("brock 1", "other", "0", "1"),
        ("not known", "none", "0", "1"),
    ]
    by = run("feedback", "--model", "brock", "--by", "sex", "--by", "age-band", "--format", "csv").output
    assert by.splitlines() == ["sex,age-band,accepted,overridden,overridden %", "female,60-69,1,2,67"]
    assert "not-applicable" in run("feedback", "--reason", "not-applicable").output
    assert json.loads(run("feedback", "--since", "2026-02-01", "--format", "json").output) == []


def test_feedback_is_taken_while_the_bus_is_away(
    bus: SqliteBus, send: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The EHR does not wait for the bus, and the outcome is there when the bus is back."""
    publish, away = SqliteBus.publish, threading.Event()
    monkeypatch.setattr("auscult.cds_hooks.feedback.PAUSE", 0.001)
    monkeypatch.setattr("auscult.cds_hooks.feedback.PATIENCE", 0.01)
    away.set()

    def flaky(self: SqliteBus, *given: Any, **more: Any) -> None:
        if away.is_set():
            raise Retry("bus-unavailable", "start the broker")
        publish(self, *given, **more)

    monkeypatch.setattr(SqliteBus, "publish", flaky)
    assert send(outcome("", "overridden")) == 200
    away.clear()
    end = time.monotonic() + SOON
    while not list(bus.read(topics.FEEDBACK)):
        assert time.monotonic() < end

"""The card store shows each patient's newest released results, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery, Tail
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks.store import CardStore
from auscult.domain.codes import LUNG, NODULE
from auscult.domain.finding import Finding, ModelReference, Outline, Result
from auscult.platform.errors import Retry

if TYPE_CHECKING:
    from conftest import Topic

Make = Callable[..., Result]
ACTIVE = ModelReference("brock", "1", "doi:10.1056/NEJMoa1214726")
SHADOW = ModelReference("new", "2", "unpublished", stage="shadow")
RETIRED = ModelReference("old", "1", "unpublished", stage="retired")
LOST = Retry("bus-unavailable", "start the broker", after=0.001)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def summaries(store: CardStore, patient: str = "Patient/42", tenant: str = "default") -> list[str]:
    """Return the summaries of a patient's cards, in order."""
    return [json.loads(card)["summary"] for card in store.cards(tenant, patient)]


def test_a_card_has_what_an_ehr_shows(topic: Topic, store: CardStore, make_result: Make) -> None:
    """All of CDS Hooks' attributes are there, absolute links included, and nothing is null or empty."""
    validated = ModelReference("size", "3", "https://a.org", clinical_use=True)
    topic.publish(make_result(models=(ACTIVE, validated), acquired="2026-01-30"))
    topic.wait()
    [card] = [json.loads(card) for card in store.cards("default", "Patient/42")]
    page = "https://auscult.example.org/models/brock?version=1"
    assert card == {
        "uuid": str(make_result().identity(ModelReference("lung_nodule", "1", ""), "card")),
        "summary": "Lung nodule 8.4 mm",
        "indicator": "info",
        "detail": (
            "**Nodule 1**: solid\n\nComputed 2026-01-31 12:00 UTC from images of 2026-01-30 by lung_nodule 1.\n\n"
            "- brock 1: doi:10.1056/NEJMoa1214726. **Reference model: not for clinical use until validated at "
            "this site.**\n- size 3: https://a.org"
        ),
        "source": {
            "label": "Lung nodule pathway",
            "url": page,
            "topic": {
                "system": "urn:auscult:cds-hooks:topic",
                "code": "lung_nodule",
                "display": "Lung nodule pathway",
            },
        },
        "links": [
            {"label": "Evidence: brock 1", "url": page, "type": "absolute"},
            {
                "label": "Evidence: size 3",
                "url": "https://auscult.example.org/models/size?version=3",
                "type": "absolute",
            },
        ],
    }


def test_a_degraded_card_without_models_is_shown(topic: Topic, store: CardStore, make_result: Make) -> None:
    """A card that says why there is no answer rests on no model, and has neither links nor a source address."""
    topic.publish(make_result(models=(), status="degraded", summary="No assessment"))
    topic.wait()
    [card] = [json.loads(card) for card in store.cards("default", "Patient/42")]
    assert "links" not in card
    assert "url" not in card["source"]


def test_patients_and_tenants_do_not_mix(topic: Topic, store: CardStore, make_result: Make) -> None:
    """A card is found under its own patient and tenant only."""
    topic.publish(make_result("Patient/1", "1.1", summary="one"))
    topic.publish(make_result("Patient/2", "1.2", summary="two"))
    topic.publish(make_result("Patient/1", "1.1", "north", summary="north"))
    topic.wait()
    assert summaries(store, "Patient/1") == ["one"]
    assert summaries(store, "Patient/2") == ["two"]
    assert summaries(store, "Patient/1", "north") == ["north"]
    assert summaries(store, "Patient/3") == []


def test_every_replica_says_the_same(make_result: Callable[..., Result]) -> None:
    """To the byte, uuid included, whatever came before and in whatever order."""
    results = [make_result(study=f"1.{number}", summary=f"Nodule {number}") for number in range(4)]
    said = []
    for order in (results, results[::-1], [*results[2:], *results[:2]]):
        replica = CardStore("https://auscult.example.org/")
        replica._governed = True
        for each in order:
            event = CloudEvent.of(events.RESULT, "/test", each)
            replica._put(each, Delivery(FINDINGS.name, 0, results.index(each), "k", event))
        said.append({*replica.cards("default", "Patient/42")})
    assert said[0] == said[1] == said[2]
    assert len({json.loads(card)["uuid"] for card in said[0]}) == 4


def test_a_newer_result_of_a_study_replaces_the_older(topic: Topic, store: CardStore, make_result: Make) -> None:
    """One study and pathway has one card; other studies' cards stay."""
    topic.publish(make_result(summary="first"))
    topic.publish(make_result(study="1.9", summary="other", recorded="2025-01-01T00:00:00Z"))
    topic.publish(make_result(summary="second", recorded="2026-02-01T00:00:00Z"))
    topic.wait()
    assert summaries(store) == ["second", "other"]


def test_a_result_that_moves_to_another_patient_leaves_the_first(
    topic: Topic, store: CardStore, make_result: Make
) -> None:
    """After a correction of whose study it is, the card is gone from the wrong patient."""
    topic.publish(make_result("Patient/1"))
    topic.publish(make_result("Patient/2", summary="corrected"))
    topic.wait()
    assert summaries(store, "Patient/1") == []
    assert summaries(store, "Patient/2") == ["corrected"]


def test_cards_are_ordered_by_urgency_then_time(topic: Topic, store: CardStore, make_result: Make) -> None:
    """The most urgent card comes first, and the newest of those alike."""
    for study, indicator, day in (
        ("1.1", "info", 5),
        ("1.2", "critical", 1),
        ("1.3", "warning", 2),
        ("1.4", "info", 6),
    ):
        topic.publish(
            make_result(study=study, indicator=indicator, summary=study, recorded=f"2026-01-0{day}T00:00:00Z")
        )
    topic.wait()
    assert summaries(store) == ["1.2", "1.3", "1.4", "1.1"]


@pytest.mark.parametrize("models", [(SHADOW,), (RETIRED,), (ACTIVE, SHADOW), (SHADOW, ACTIVE)])
def test_a_card_that_rests_on_a_model_in_shadow_is_never_shown(
    topic: Topic, store: CardStore, make_result: Make, models: tuple[ModelReference, ...]
) -> None:
    """It is withheld whole, and takes the place of the older card of the same study."""
    topic.publish(make_result(summary="older"))
    topic.publish(make_result(summary="withheld", models=models))
    topic.wait()
    assert summaries(store) == []
    topic.publish(make_result(summary="released"))
    topic.wait()
    assert summaries(store) == ["released"]


@pytest.mark.parametrize(
    "changes",
    [
        {"indicator": "hard-stop"},
        {"summary": " "},
        {"source_label": ""},
        {"recorded": "yesterday"},
        {"recorded": "2026-01-31T12:00:00"},
        {"patient": "Person/secret"},
        {"pathway": "a|b"},
    ],
)
def test_an_event_that_cannot_be_shown_is_left_out_visibly(
    topic: Topic, store: CardStore, make_result: Make, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    """It is counted and logged with its position, without a word of what it says; the next event is read."""
    topic.publish(make_result(**({"patient": "Patient/secret", "study": "1.2.999"} | changes)))
    topic.publish(make_result(summary="next"))
    topic.wait()
    assert store.skipped == 1
    assert summaries(store) == ["next"]
    assert "offset 0" in caplog.text
    assert "secret" not in caplog.text
    assert "1.2.999" not in caplog.text


@pytest.mark.parametrize(
    "event",
    [
        (b"{", events.RESULT),
        (b"", events.RESULT),
        (b'{"patient":"Patient/secret"}', events.RESULT),
        (b'{"patient":"Patient/secret\xff"}', events.RESULT),
        (b"{}", "org.other.v1"),
    ],
)
def test_a_malformed_event_stops_nothing(
    topic: Topic, store: CardStore, make_result: Make, caplog: pytest.LogCaptureFixture, event: tuple[bytes, str]
) -> None:
    """Bytes that are no result are left out like that, and the follower lives."""
    topic.publish(event[0], kind=event[1])
    topic.publish(make_result())
    topic.wait()
    assert (store.skipped, len(store.cards("default", "Patient/42"))) == (1, 1)
    assert "secret" not in caplog.text


def test_a_card_with_findings_names_its_models(topic: Topic, store: CardStore, make_result: Make) -> None:
    """Without a model nothing says whether the findings may be seen, so the event is left out."""
    finding = Finding("nodule-1", NODULE, LUNG, "right lung", "solid", Outline("1.2", "1.3", 0, (), "model", "x"), ())
    topic.publish(make_result(models=(), findings=(finding,)))
    topic.wait()
    assert (store.skipped, summaries(store)) == (1, [])


def test_the_store_is_ready_only_when_it_has_caught_up(topic: Topic, store: CardStore, make_result: Make) -> None:
    """While the tail says that more is to come, so does the store."""
    assert store.ready
    topic.withheld.set()
    topic.publish(make_result())
    topic.wait()
    assert not store.ready
    topic.withheld.clear()
    topic.publish(make_result())
    topic.wait()
    assert store.ready


@pytest.mark.parametrize("problem", [LOST, RuntimeError("Patient/secret")])
def test_a_lost_bus_is_opened_again(
    topic: Topic, store: CardStore, make_result: Make, caplog: pytest.LogCaptureFixture, problem: Exception
) -> None:
    """The follower reads from the beginning again; events it knew change nothing, those it missed arrive."""
    topic.publish(make_result(summary="first"))
    topic.publish(make_result(summary="second", recorded="2026-02-01T00:00:00Z"))
    topic.wait()
    topic.fail(problem)
    topic.wait()
    topic.publish(make_result(study="1.9", summary="third"))
    topic.wait()
    assert topic.opened == 2
    assert summaries(store) == ["second", "third"]
    assert store.ready
    assert "read again" in caplog.text
    assert "secret" not in caplog.text


def test_a_store_that_lost_the_bus_is_not_ready(
    topic: Topic, store: CardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the failure until it has caught up again, newer results may be missing."""
    ready: list[bool] = []
    opened = topic.tail

    def watched(*topics: object, **start: Any) -> AbstractContextManager[Tail]:
        ready.append(store.ready)
        return opened(*topics, **start)

    monkeypatch.setattr(topic, "tail", watched)
    assert store.ready
    topic.fail(LOST)
    topic.wait()
    assert ready == [False]
    assert store.ready


def test_an_older_event_that_is_read_again_changes_nothing(
    topic: Topic, store: CardStore, make_result: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss, the last event is read again to see that the log is the same, and the card stays."""
    topic.publish(make_result(summary="first"))
    topic.publish(make_result(summary="second"))
    topic.wait()
    seen: list[list[str]] = []
    put = store._put

    def watched(result: Result, delivery: Delivery) -> None:
        put(result, delivery)
        seen.append(summaries(store))

    monkeypatch.setattr(store, "_put", watched)
    topic.fail(LOST)
    topic.wait()
    assert seen == [["second"]]


def test_a_topic_that_was_made_anew_is_read_anew(topic: Topic, store: CardStore, make_result: Make) -> None:
    """Cards of a log that is no more are gone, however far the new one's offsets reach."""
    topic.publish(make_result(study="1.1", summary="of before"))
    topic.publish(make_result(study="1.2", summary="of before"))
    topic.wait()
    topic.deliveries.clear()
    for number in range(2):
        topic.publish(make_result(study=f"1.{number + 7}", summary=f"anew {number}"))
    topic.fail(LOST)
    topic.wait()
    assert sorted(summaries(store)) == ["anew 0", "anew 1"]


def test_a_key_that_moved_to_another_partition_is_followed(topic: Topic, store: CardStore, make_result: Make) -> None:
    """Offsets are compared within one partition only."""
    topic.publish(make_result(summary="before"), partition=0, offset=7)
    topic.publish(make_result(summary="after"), partition=1, offset=0)
    topic.wait()
    assert summaries(store) == ["after"]


@pytest.mark.usefixtures("store")
def test_an_update_is_a_span_of_the_study_s_trace(
    topic: Topic, make_result: Make, spans: InMemorySpanExporter
) -> None:
    """It continues the event's trace, and names neither patient nor study."""
    topic.publish(make_result("Patient/secret"), traceparent=TRACEPARENT)
    topic.wait()
    [span] = spans.get_finished_spans()
    assert span.name == "card store update"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert "secret" not in span.to_json()
    assert '"1.2.3"' not in span.to_json()


def test_what_happened_before_the_start_makes_no_span(
    topic: Topic, make_result: Make, spans: InMemorySpanExporter
) -> None:
    """A replay of old events fills the store, and no old trace."""
    topic.publish(make_result(), traceparent=TRACEPARENT)
    cards, stop = CardStore("https://a.org"), threading.Event()
    follower = threading.Thread(target=cards.follow, args=(topic, stop))
    follower.start()
    topic.wait()
    stop.set()
    follower.join()
    assert summaries(cards) == ["Lung nodule 8.4 mm"]
    assert spans.get_finished_spans() == ()

"""The consumer loop where the contract suite does not reach: pauses, stopping, outages, traces, logs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from auscult.bus import consume as module
from auscult.bus.consume import consume
from auscult.bus.contract import Delivery
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import DEAD_LETTERS, Topic
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter, Retry
from contracts.bus_contract import EVENT, KEY, consuming, event, take, wait

TOPIC = Topic("test")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SqliteBus]:
    """Open a bus with one partition."""
    with closing(SqliteBus(tmp_path / "bus.db", partitions=1)) as bus:
        yield bus


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record the spans of this test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    return exporter


def test_stopping_does_not_wait_for_a_pause(bus: SqliteBus) -> None:
    """A server asked for an hour; the process ends at once all the same, and nothing is committed."""
    bus.publish(TOPIC, EVENT, key=KEY)
    tried = threading.Event()

    def handler(_: Delivery) -> None:
        tried.set()
        raise Retry("fhir-busy", "the FHIR server asked for time", after=3600)

    with consuming(bus, TOPIC, handler, max_tries=5):
        wait(tried)
    with bus.subscribe(TOPIC, group="workers") as subscription:
        assert take(subscription, 1)[0].event == EVENT


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1e9))
def test_pauses_grow_within_bounds(failures: int, after: float | None) -> None:
    """At least what the server asks for, up to five minutes; else between half and all of the back-off."""
    pause = module._pause(failures, after)
    assert pause >= min(after or 0, module.LONGEST_WAIT)
    assert module.FIRST_PAUSE / 2 <= pause <= module.LONGEST_WAIT
    if after is None:
        assert pause <= module.LONGEST_PAUSE


def test_tries_are_counted_by_event(bus: SqliteBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two events that each fail once are both handled where two tries are allowed."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    for number in range(2):
        bus.publish(TOPIC, event(number), key=KEY)
    seen: list[int] = []
    done = threading.Event()

    def handler(delivery: Delivery) -> None:
        seen.append(delivery.event.payload(int))
        if seen.count(seen[-1]) == 1:
            raise Retry("conflict", "another writer was faster")
        if len(seen) == 4:
            done.set()

    with consuming(bus, TOPIC, handler, max_tries=2):
        wait(done)
    assert seen == [0, 0, 1, 1]
    assert list(bus.read(DEAD_LETTERS)) == []


def test_an_outage_of_the_bus_is_waited_out(bus: SqliteBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is joined again when the bus is back."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    bus.publish(TOPIC, EVENT, key=KEY)
    done = threading.Event()
    failures = [Retry("bus-unavailable", "the broker is away")] * 3

    class Recovering:
        """The bus, which cannot be joined at first."""

        publish = bus.publish

        def subscribe(self, *topics: Topic, group: str) -> object:
            if failures:
                raise failures.pop()
            return bus.subscribe(*topics, group=group)

    with consuming(Recovering(), TOPIC, lambda _: done.set()):
        wait(done)
    assert not failures


def test_what_follows_a_dead_letter_may_fail(bus: SqliteBus, caplog: pytest.LogCaptureFixture) -> None:
    """The event is parked once and the next one is handled; logs have neither the text nor the study."""
    bus.publish(TOPIC, EVENT, key=KEY)
    bus.publish(TOPIC, event("next"), key=KEY)
    done = threading.Event()

    def handler(delivery: Delivery) -> None:
        if delivery.event.id == EVENT.id:
            raise DeadLetter("hopeless", "it cannot be read")
        done.set()

    def fail(*_: object) -> None:
        raise ValueError("DOE^JANE")

    with consuming(bus, TOPIC, handler, on_dead_letter=fail):
        wait(done)
    assert len(list(bus.read(DEAD_LETTERS))) == 1
    assert "ValueError" in caplog.text
    assert "DOE" not in caplog.text
    assert KEY.split("|")[1] not in caplog.text


def test_an_interrupt_in_a_handler_ends_the_loop_and_commits_nothing(bus: SqliteBus) -> None:
    """Ctrl-C is no failure of the event."""
    bus.publish(TOPIC, EVENT, key=KEY)

    def handler(_: Delivery) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume(bus, TOPIC, group="workers", handler=handler, source="/test", max_tries=1, stop=threading.Event())
    with bus.subscribe(TOPIC, group="workers") as subscription:
        assert take(subscription, 1)[0].event == EVENT


def test_one_trace_runs_from_the_publisher_through_the_bus_to_the_handler(
    bus: SqliteBus, spans: InMemorySpanExporter
) -> None:
    """Publish is a child of what the publisher did, consume a child of publish, the handler's work of consume."""
    with telemetry.span("store"):
        bus.publish(TOPIC, event(), key=KEY)
    done = threading.Event()

    def handler(_: Delivery) -> None:
        with telemetry.span("work"):
            done.set()

    with consuming(bus, TOPIC, handler):
        wait(done)
    by_name = {span.name: span for span in spans.get_finished_spans()}
    chain = ["store", "publish test", "consume test", "work"]
    for parent, child in pairwise(chain):
        assert by_name[child].parent.span_id == by_name[parent].context.span_id
    assert len({span.context.trace_id for span in by_name.values()}) == 1
    assert by_name["publish test"].kind is SpanKind.PRODUCER
    assert by_name["consume test"].kind is SpanKind.CONSUMER
    assert not any("1.2.840" in str(span.attributes) for span in by_name.values())


def test_an_event_keeps_the_traceparent_that_it_has(bus: SqliteBus, spans: InMemorySpanExporter) -> None:
    """The publish span joins the event's trace."""
    bus.publish(TOPIC, EVENT, key=KEY)
    (delivery,) = bus.read(TOPIC)
    assert delivery.event.traceparent == EVENT.traceparent
    (span,) = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" in EVENT.traceparent

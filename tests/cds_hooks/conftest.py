"""A result as a pathway makes it, a findings topic in memory, and the application called without a network."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from auscult.bus import events, topics
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.store import CardStore
from auscult.domain.finding import Card, ModelReference, Result
from auscult.domain.model_card import NOT_AVAILABLE, SOURCE_ATTRIBUTES
from auscult.domain.study import StudyRef
from auscult.platform.settings import Settings
from cds_hooks_schema import checked

BROCK = ModelReference("brock", "1", "doi:10.1056/NEJMoa1214726")


@pytest.fixture(scope="session")
def make_result() -> Callable[..., Result]:
    """Return a function that makes a result; its keywords replace the card's, then the result's fields."""

    def make(patient: str = "Patient/42", study: str = "1.2.3", tenant: str = "default", **changes: Any) -> Result:
        card = Card("Lung nodule 8.4 mm", "info", "**Nodule 1**: solid", "Lung nodule pathway", (BROCK,))
        of_card = {name: changes.pop(name) for name in list(changes) if name in Card.__dataclass_fields__}
        result = Result(
            study=StudyRef(tenant, study, "d1"),
            pathway="lung_nodule",
            version="1",
            patient=patient,
            status="final",
            findings=(),
            card=replace(card, **of_card),
            recorded="2026-01-31T12:00:00Z",
        )
        return replace(result, **changes)

    return make


class Topic:
    """The findings topic as far as a tail needs it, kept in memory.

    `settled` is set while a tail waits with all events taken: a follower polls again only when it is done with
    what it got before.
    """

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.changed = threading.Condition()
        self.settled = threading.Event()
        self.withheld = threading.Event()
        self.failures: list[Exception] = []
        self.opened = 0

    def publish(
        self,
        result: object,
        *,
        traceparent: str = "",
        kind: str = events.RESULT,
        partition: int = 0,
        offset: int | None = None,
        on: topics.Topic = topics.FINDINGS,
    ) -> None:
        """Append `result`; as it is where it is bytes."""
        event = CloudEvent.of(kind, "/test", result, traceparent=traceparent)
        if isinstance(result, bytes):
            event = replace(event, data=result)
        with self.changed:
            self.settled.clear()
            at = len(self.deliveries) if offset is None else offset
            self.deliveries.append(Delivery(on.name, partition, at, "key", event))
            self.changed.notify_all()

    def fail(self, problem: Exception) -> None:
        """Let the next poll raise `problem`."""
        with self.changed:
            self.settled.clear()
            self.failures.append(problem)
            self.changed.notify_all()

    def wait(self) -> None:
        """Return when the follower has taken everything."""
        assert self.settled.wait(10)

    def read(self, topic: topics.Topic) -> Iterator[Delivery]:
        """Yield what is on `topic`."""
        return iter([each for each in self.deliveries if each.topic == topic.name])

    @contextmanager
    def tail(self, *_: object, start: Mapping[tuple[str, int], int] = {}) -> Iterator[_Tail]:
        """Read from the beginning, or from `start`, where the log is as long as that."""
        self.opened += 1
        yield _Tail(self, start)


class _Tail:
    def __init__(self, topic: Topic, start: Mapping[tuple[str, int], int]) -> None:
        self.topic = topic
        self.at = 0
        self.end = len(topic.deliveries)
        there = {(each.topic, each.partition): each.offset for each in topic.deliveries}
        self.start = {place: offset for place, offset in start.items() if there.get(place, -1) >= offset}

    def passed_over(self) -> bool:
        """Whether the next delivery is before the start."""
        following = self.topic.deliveries[self.at]
        return following.offset < self.start.get((following.topic, following.partition), 0)

    @property
    def caught_up(self) -> bool:
        return self.at >= self.end and not self.topic.withheld.is_set()

    def poll(self, timeout: float) -> Delivery | None:
        topic = self.topic
        with topic.changed:
            if self.at >= len(topic.deliveries) and not topic.failures:
                topic.settled.set()
                topic.changed.wait(timeout)
            if topic.failures:
                raise topic.failures.pop(0)
            while self.at < len(topic.deliveries) and self.passed_over():
                self.at += 1
            if self.at >= len(topic.deliveries):
                return None
            self.at += 1
            return topic.deliveries[self.at - 1]


@pytest.fixture
def topic() -> Topic:
    """Return an empty findings topic."""
    return Topic()


@pytest.fixture(scope="module")
def topic_of_one(make_result: Callable[..., Result]) -> Topic:
    """Return a findings topic with the result of patient 42."""
    topic = Topic()
    topic.publish(make_result())
    return topic


@pytest.fixture
def store(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> Iterator[CardStore]:
    """Return a store that follows `topic`, and does not wait before it opens it again."""
    monkeypatch.setattr("auscult.cds_hooks.store.PAUSE", 0.001)
    cards = CardStore("https://auscult.example.org/")
    stop = threading.Event()
    follower = threading.Thread(target=cards.follow, args=(topic, stop))
    follower.start()
    topic.wait()
    yield cards
    stop.set()
    with topic.changed:
        topic.changed.notify_all()
    follower.join(10)
    assert not follower.is_alive()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a model repository that holds the card of `brock`, version 1."""
    (tmp_path / "brock").mkdir()
    attributes = {key: NOT_AVAILABLE for group in SOURCE_ATTRIBUTES.values() for key in group}
    content = {
        "name": "brock",
        "version": 1,
        "title": "Brock <b>model</b>",
        "summary": "Chance that a nodule is malignant.",
        "intended_use": "Research.",
        "stage": "active",
        "clinical_use": False,
        "evidence": "McWilliams et al., doi 10.1056/NEJMoa1214726.",
        "license": "CC0-1.0",
        "training_data": "PanCan & <script>alert(1)</script>",
        "performance": [
            {"metric": "AUC", "value": 0.94, "interval": [0.91, 0.97], "dataset": "BCCA"},
            {"metric": "AUC", "value": 0.9, "dataset": "NLST"},
        ],
        "limitations": ["Screening populations only."],
        "source_attributes": attributes | {"funding_source": "<img src=x onerror=alert(1)>"},
    }
    (tmp_path / "brock" / "card.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


Call = Callable[..., httpx.Response]


@pytest.fixture
def call(store: CardStore, models: Path) -> Call:
    """Return a function that sends one request to the application."""
    app = create_app(store, Settings(hooks_origins=("https://ehr.example.org",)), models)

    async def send(method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://hooks") as client:
            return checked(await client.request(method, path, **more))

    return lambda method, path, **more: asyncio.run(send(method, path, **more))


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return what collects the spans of this test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter

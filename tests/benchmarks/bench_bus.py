"""The bus: what durability costs, and how soon another process has an event."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from auscult.bus.contract import Bus, Tail
from auscult.bus.factory import open_bus
from benchmarks.processes import BACK, THERE, bus_echo, elsewhere, event, pipe_echo
from benchmarks.table import OURS

PUBLISH = "bus, SQLite: publish an event, on disk on return"
ROUND_TRIP = "bus, SQLite: an event to another process and one back"
KAFKA_PUBLISH = "bus, Kafka: publish an event, acks=all"
KAFKA_ROUND_TRIP = "bus, Kafka: an event to another process and one back"


def size() -> int:
    """Return the bytes of an event as it travels."""
    made = event()
    return len(made.data) + sum(len(name) + len(value) for name, value in made.to_headers())


def there_and_back(bus: Bus, tail: Tail) -> None:
    """Publish one event and wait for the other process's."""
    bus.publish(THERE, event(), key="study")
    while tail.poll(10) is None:
        pass


@pytest.fixture
def broker() -> str:
    """Return the broker's address."""
    address = os.environ.get("AUSCULT_TEST_KAFKA")
    if not address:
        pytest.skip("set AUSCULT_TEST_KAFKA=host:port to measure Apache Kafka, too")
    return address


def test_publish(measure: Callable[..., Any], folder: Path) -> None:
    """An event is on disk on return."""
    with closing(open_bus(f"sqlite:{folder / 'bus.db'}")) as bus:
        measure(PUBLISH, OURS, lambda: bus.publish(THERE, event(), key="study"), rounds=300)


def test_publish_raw(measure: Callable[..., Any], folder: Path) -> None:
    """The raw limit: as many bytes appended to a file of the same file system."""
    content = bytes(size())
    with (folder / "file").open("ab", buffering=0) as file:

        def append() -> None:
            file.write(content)
            os.fsync(file.fileno())

        measure(PUBLISH, "append and fsync of as many bytes", append, rounds=300)


def test_round_trip(measure: Callable[..., Any], folder: Path) -> None:
    """Both events are durable, and the other process commits each."""
    url = f"sqlite:{folder / 'bus.db'}"
    with closing(open_bus(url)) as bus, elsewhere(bus_echo, url) as line, bus.tail(BACK) as tail:
        line.recv()
        measure(ROUND_TRIP, OURS, lambda: there_and_back(bus, tail), rounds=200)


def test_round_trip_raw(measure: Callable[..., Any]) -> None:
    """The raw limit: a pipe, on which nothing is kept."""
    content = bytes(size())
    with elsewhere(pipe_echo) as line:
        line.recv()

        def echo() -> None:
            line.send_bytes(content)
            line.recv_bytes()

        measure(ROUND_TRIP, "a pipe, nothing kept", echo, rounds=200)


def test_kafka_publish(measure: Callable[..., Any], broker: str) -> None:
    """All in-sync replicas have the event on return."""
    with closing(open_bus(f"kafka://{broker}")) as bus:
        measure(KAFKA_PUBLISH, OURS, lambda: bus.publish(THERE, event(), key="study"), rounds=300)


def test_kafka_publish_bare(measure: Callable[..., Any], broker: str) -> None:
    """The peer: kafka-python's own producer."""
    made = event()
    with closing(KafkaProducer(bootstrap_servers=broker, acks="all", enable_idempotence=True)) as producer:

        def send() -> None:
            producer.send(THERE.name, value=made.data, key=b"study", headers=made.to_headers()).get(timeout=10)

        measure(KAFKA_PUBLISH, "kafka-python alone, idempotent", send, rounds=300)


def test_kafka_round_trip(measure: Callable[..., Any], broker: str) -> None:
    """Both events are durable, and the other process commits each."""
    url = f"kafka://{broker}"
    with closing(open_bus(url)) as bus, elsewhere(bus_echo, url) as line, bus.tail(BACK) as tail:
        line.recv()
        while not tail.caught_up:
            tail.poll(1)
        measure(KAFKA_ROUND_TRIP, OURS, lambda: there_and_back(bus, tail), rounds=100)


def test_kafka_round_trip_raw(measure: Callable[..., Any], broker: str) -> None:
    """The raw limit: two of kafka-python's own sends, with nobody reading."""
    made = event()
    with closing(KafkaProducer(bootstrap_servers=broker, acks="all", enable_idempotence=True)) as producer:

        def send_twice() -> None:
            for topic in (THERE, BACK):
                producer.send(topic.name, value=made.data, key=b"study", headers=made.to_headers()).get(timeout=10)

        measure(KAFKA_ROUND_TRIP, "two sends by kafka-python alone", send_twice, rounds=100)

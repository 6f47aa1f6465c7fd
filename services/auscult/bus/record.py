"""What both adapters do alike where an event enters a log and where it leaves one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from opentelemetry.trace import SpanKind

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Delivery
from auscult.bus.events import MALFORMED
from auscult.bus.topics import Topic
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter

LONGEST_HANDLING = 1800.0
"""Seconds between two polls after which a consumer counts as hung and its partitions go to another.

A contouring model on a CPU takes minutes; a process that died is found much sooner, by its heartbeat.
"""

_log = logging.getLogger(__name__)


@contextmanager
def publishing(topic: Topic, event: CloudEvent) -> Iterator[CloudEvent]:
    """Run the publishing as a span and yield the event to store: it carries that span where it carried none."""
    with telemetry.span(
        f"publish {topic.name}", parent=event.traceparent or None, kind=SpanKind.PRODUCER, type=event.type
    ):
        yield event if event.traceparent else replace(event, traceparent=telemetry.traceparent())


def received(
    topic: str, partition: int, offset: int, *, key: bytes, headers: Iterable[tuple[str, bytes]] | None, data: bytes
) -> Delivery:
    """Return a stored message as a delivery. `headers`: None where they cannot be read at all.

    A message that is no CloudEvent must not stop those behind it, so it is delivered as an event of type
    `events.MALFORMED` with its bytes as data; the consumer loop parks it.
    """
    try:
        return Delivery(topic, partition, offset, key.decode(), CloudEvent.from_headers(headers or (), data))
    except (DeadLetter, UnicodeDecodeError) as error:
        detail = str(error.args[0]) if isinstance(error, DeadLetter) else "the key is not UTF-8"
        stand_in = CloudEvent(
            type=MALFORMED, source=_place(topic, partition, offset), data=data, extensions=(("detail", detail),)
        )
        return Delivery(topic, partition, offset, key.decode(errors="replace"), stand_in)


def malformed(delivery: Delivery) -> bool:
    """Whether the event stands for a message, in this very place, that is no CloudEvent; parked it is one."""
    event = delivery.event
    return event.type == MALFORMED and event.source == _place(delivery.topic, delivery.partition, delivery.offset)


def readable(delivery: Delivery) -> bool:
    """Whether a reader without a group may see `delivery`; where not, the log says what was passed over."""
    if not malformed(delivery):
        return True
    _log.warning(
        "a message that is no CloudEvent was passed over: topic %s, partition %d, offset %d; see who writes there",
        delivery.topic,
        delivery.partition,
        delivery.offset,
    )
    return False


def _place(topic: str, partition: int, offset: int) -> str:
    return f"/{topic}/{partition}/{offset}"

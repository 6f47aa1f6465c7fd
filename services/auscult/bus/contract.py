"""What every bus does. Adapters pass `tests/contracts/bus_contract.py`.

At-least-once: an event that was published is delivered to each group until it is committed. Events with
one key are delivered in order, and by one consumer of a group at a time. A consumer that dies is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.topics import Topic


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event as it was read: where it stands in its topic."""

    topic: str
    partition: int
    offset: int
    key: str
    event: CloudEvent


class Subscription(Protocol):
    """One consumer of a group, reading one or more topics; used by one thread. Services use it through `consume`.

    A message that is no CloudEvent comes as an event of type `events.MALFORMED`; tails and `read` pass it over.
    """

    def poll(self, timeout: float) -> Delivery | None:
        """Return the next delivery, or None after `timeout` seconds without one."""

    def commit(self, delivery: Delivery) -> None:
        """Mark `delivery` and all before it in its partition as handled by the group, durably.

        Lost (not an error) where the partition now belongs to another consumer: it will be
        delivered again.
        """

    def rewind(self, delivery: Delivery) -> None:
        """Read its partition again from `delivery` on, at the next `poll`."""


class Tail(Protocol):
    """A reader without a group that sees a whole topic from its beginning, for state held in memory."""

    def poll(self, timeout: float) -> Delivery | None:
        """Return the next delivery, or None after `timeout` seconds without one."""

    @property
    def caught_up(self) -> bool:
        """Whether all that was in the topic when the tail was opened has been returned."""


class Bus(Protocol):
    """A durable log of CloudEvents."""

    def publish(self, topic: Topic, event: CloudEvent, *, key: str) -> None:
        """Append `event`; durable on return. Raises Retry (`bus-unavailable`) where it is not."""

    def subscribe(self, *topics: Topic, group: str) -> AbstractContextManager[Subscription]:
        """Join `group` as one more consumer; a new group starts at the beginning."""

    def tail(self, *topics: Topic, start: Mapping[tuple[str, int], int] = ...) -> AbstractContextManager[Tail]:
        """Read from the beginning, without a group.

        `start`: offsets to begin at, by topic's name and partition. A log that ends before was made anew, and is
        read from its beginning.
        """

    def read(self, topic: Topic) -> Iterator[Delivery]:
        """Yield all that is in the topic now, then end; for operators."""

    def close(self) -> None:
        """Flush and release."""

"""Up to where subscriptions and searches were read: durable, and shared by all replicas."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Tail
from auscult.bus.events import MarkSet
from auscult.bus.topics import MARKS
from auscult.platform.errors import DeadLetter


def instant(text: str) -> datetime:
    """Read a FHIR instant; the beginning of time where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC) + timedelta(days=1)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Marks:
    """The marks topic, as it is now. Threads may share it. Each method raises Retry where the bus fails."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._lock = threading.Lock()
        self._known: dict[str, MarkSet] = {}
        self._opened = ExitStack()
        self._tail: Tail | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with self._lock:
            self._opened.__exit__(kind, error, at)
            self._tail = None

    def get(self, name: str) -> MarkSet | None:
        """Return the newest mark of `name`, whoever set it."""
        with self._lock:
            # Opened when it is first needed: a listener starts while the bus is away.
            tail = self._tail = self._tail or self._opened.enter_context(self._bus.tail(MARKS))
            while (delivery := tail.poll(0 if tail.caught_up else 0.1)) is not None or not tail.caught_up:
                if delivery is None:
                    continue
                with suppress(DeadLetter):  # Without a mark more is read than need be, which harms nobody.
                    self._note(delivery.key, delivery.event.payload(MarkSet))
            return self._known.get(self._key(name))

    def set(self, name: str, mark: MarkSet) -> None:
        """Set the mark of `name`; durable on return."""
        event = CloudEvent.of(events.MARK_SET, f"/{self._tenant}/listen/marks", mark)
        self._bus.publish(MARKS, event, key=self._key(name))
        with self._lock:
            self._note(self._key(name), mark)

    def _note(self, key: str, mark: MarkSet) -> None:
        """Move a mark, forward only: what another replica set late, or the tail brings late, moves none back."""
        known = self._known.get(key, MarkSet())
        self._known[key] = max(known, mark, key=lambda one: (instant(one.high), one.number, one.asked))

    def _key(self, name: str) -> str:
        return f"{self._tenant}|{name}"

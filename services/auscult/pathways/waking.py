"""Makes runs look again that wait: when the record changes, now and then, and when their time is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.events import RecordChanged, RunWaits
from auscult.bus.topics import STUDIES, WAITING
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter, Retry

POLL = 0.5
"""Seconds until a quiet follower sees that it should stop, or that somebody's time is over."""
PAUSE = 2.0
"""Seconds before the topic is followed again after the bus failed."""

_log = logging.getLogger(__name__)


class Waker:
    """Knows what waits. `recheck`: seconds after which the record is asked again, whatever was told."""

    def __init__(self, bus: Bus, tenant: str, recheck: float, clock: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._tenant = tenant
        self._recheck = recheck
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[str, RunWaits] = {}
        self._asked: dict[str, float] = {}

    def follow(self, stop: threading.Event) -> None:
        """Keep up with what waits, and with the clock, until `stop` is set."""
        while not stop.is_set():
            try:
                with self._bus.tail(WAITING) as tail:
                    while not stop.is_set():
                        delivery = tail.poll(POLL)
                        if delivery is not None:
                            self.note(delivery.key, delivery.event)
                        elif tail.caught_up:
                            self.tick()
            except Retry as problem:
                _log.warning("what runs wait for is read again: %s", problem)
                stop.wait(PAUSE)

    def note(self, key: str, event: CloudEvent) -> None:
        """Take note of one event of the topic."""
        try:
            waits = event.payload(RunWaits)
        except DeadLetter as problem:
            _log.error("an event about a waiting run is passed over: %s", problem)
            return
        with self._lock:
            if waits.state == "waiting" and waits.tenant == self._tenant:
                self._waiting[key] = waits
                # One whose time passed while nobody looked is due at once.
                self._asked.setdefault(key, min(self._clock(), waits.until - 1))
            else:
                self._waiting.pop(key, None)
                self._asked.pop(key, None)

    def tick(self) -> None:
        """Wake whose time is over, and who was not looked at for a while. Raises Retry."""
        now = self._clock()
        with self._lock:
            due = [
                waits
                for key, waits in self._waiting.items()
                if now - self._asked[key] >= self._recheck or self._asked[key] < waits.until <= now
            ]
        self._wake(due)

    def wake(self, change: RecordChanged, patient_of: Callable[[str], str]) -> int:
        """Wake who may wait for this change; return how many. `patient_of`: reads whom a resource is about.

        Raises Retry.
        """
        kind = change.reference.partition("/")[0]
        with self._lock:
            waiting = list(self._waiting.values())
        concerned = [waits for waits in waiting if kind in waits.kinds or kind == "Patient"]
        if not concerned:
            return 0
        patient = change.patient or (change.reference if kind == "Patient" else patient_of(change.reference))
        return self._wake([waits for waits in concerned if not patient or waits.patient == patient])

    def wake_patients(self, patients: Collection[str]) -> int:
        """Wake all that waits for something about one of `patients`. Raises Retry."""
        with self._lock:
            concerned = [waits for waits in self._waiting.values() if waits.patient in patients]
        return self._wake(concerned)

    def _wake(self, due: list[RunWaits]) -> int:
        for waits in due:
            event = CloudEvent.of(
                events.STUDY_AWAITED, f"/{waits.tenant}/pathways/waker", waits, traceparent=telemetry.traceparent()
            )
            self._bus.publish(STUDIES, event, key=f"{waits.tenant}|{waits.study_uid}")
            with self._lock:
                if waits.key in self._asked:
                    self._asked[waits.key] = self._clock()
        return len(due)

"""The one loop in which every service handles events.

Write, then commit: no event is lost, and none that cannot be handled holds up those behind it.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry.trace import SpanKind

from auscult.bus.contract import Bus, Delivery, Subscription
from auscult.bus.dead_letters import park
from auscult.bus.record import malformed
from auscult.bus.topics import Topic
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, Retry

POLL = 0.25
"""Seconds until a quiet consumer sees that it should stop."""

FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.2, 5.0, 60.0
"""Back-off in seconds: a conflict is over in a moment, and five tries outlast the restart of a FHIR server."""

LONGEST_WAIT = 300.0
"""The most that a server may make us wait by Retry.after. With the longest handler it stays below the bus's
limit between two polls, so the consumer stays in its group."""

_log = logging.getLogger(__name__)


def consume(
    bus: Bus,
    *topics: Topic,
    group: str,
    handler: Callable[[Delivery], None],
    source: str,
    max_tries: int,
    stop: threading.Event,
    on_dead_letter: Callable[[Delivery, DeadLetter], None] | None = None,
) -> None:
    """Handle the events of `topics` as one member of `group` until `stop` is set.

    An offset is committed only after `handler` returned, or after the event was parked. By what it raises:

    - Retry, and any other exception (a bug): the event is tried again after a pause, and parked as
      `retries-exhausted` after `max_tries`. Of a bug only the type's name is recorded; its text may quote PHI.
      Tries are counted in this process; a successor begins anew.
    - DeadLetter, Quarantine: the event is parked at once, in the topic of that name.

    `source` names the service in parked events and outcomes. `on_dead_letter` is called after an event was parked.
    While the bus itself fails, nothing is committed, and the group is joined again with the same back-off.
    """
    loop = _Loop(bus, group, handler, source, max_tries, stop, on_dead_letter)
    failures = 0
    while not stop.is_set():
        try:
            with bus.subscribe(*topics, group=group) as subscription:
                while not stop.is_set():
                    delivery = subscription.poll(POLL)
                    failures = 0
                    if delivery is not None:
                        loop.handle(subscription, delivery)
        except Retry as error:
            failures += 1
            _log.warning("group %s cannot use the bus, it tries again: %s", group, error)
            stop.wait(_pause(failures, error.after))


@dataclass
class _Loop:
    """What one call of `consume` knows."""

    bus: Bus
    group: str
    handler: Callable[[Delivery], None]
    source: str
    max_tries: int
    stop: threading.Event
    on_dead_letter: Callable[[Delivery, DeadLetter], None] | None
    tries: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """By topic and partition: the offset that failed last, and how often."""

    def handle(self, subscription: Subscription, delivery: Delivery) -> None:
        """Handle one event to its end: committed, parked and committed, or rewound for another try."""
        place = (delivery.topic, delivery.partition)
        offset, failed = self.tries.get(place, (delivery.offset, 0))
        tries = failed + 1 if offset == delivery.offset else 1
        try:
            self._run(delivery)
        except DeadLetter as problem:
            self._park(delivery, problem, tries)
        except Exception as error:  # noqa: BLE001 - a bug in a handler must not stop the events behind
            # A bug's text may quote a patient; our own errors' texts never do.
            cause = str(error) if isinstance(error, AuscultError) else f"unexpected {type(error).__name__}"
            if tries < self.max_tries:
                self.tries[place] = delivery.offset, tries
                pause = _pause(tries, getattr(error, "after", None))
                _log.warning("%s: try %d of %d failed: %s", _where(delivery), tries, self.max_tries, cause)
                self.stop.wait(pause)
                # Through the bus, not in a loop here: each poll tells the group that this member lives.
                subscription.rewind(delivery)
                return
            self._park(delivery, DeadLetter("retries-exhausted", f"{cause}; tried {tries} times"), tries)
        subscription.commit(delivery)
        self.tries.pop(place, None)

    def _run(self, delivery: Delivery) -> None:
        event = delivery.event
        if malformed(delivery):
            raise DeadLetter("malformed-event", f"no CloudEvent ({dict(event.extensions).get('detail')})")
        with telemetry.span(
            f"consume {delivery.topic}",
            parent=event.traceparent or None,
            kind=SpanKind.CONSUMER,
            type=event.type,
            group=self.group,
            partition=delivery.partition,
            offset=delivery.offset,
        ):
            self.handler(delivery)

    def _park(self, delivery: Delivery, problem: DeadLetter, tries: int) -> None:
        _log.error("%s: parked after %d tries: %s", _where(delivery), tries, problem)
        park(self.bus, delivery, problem, tries=tries, service=self.source)
        if self.on_dead_letter is not None:
            try:
                self.on_dead_letter(delivery, problem)
            except Exception as error:  # noqa: BLE001 - the event is parked; that must not be repeated for ever
                _log.error("%s: what follows a dead letter failed: %s", _where(delivery), type(error).__name__)


def _where(delivery: Delivery) -> str:
    return f"topic {delivery.topic}, partition {delivery.partition}, offset {delivery.offset}"


def _pause(failures: int, after: float | None) -> float:
    """Return the seconds to wait: exponential, half of it by chance, so that consumers do not come back in step."""
    # The exponent is bounded, since a bus may fail for days and floats end.
    pause = min(FIRST_PAUSE * GROWTH ** min(failures - 1, 10), LONGEST_PAUSE)
    pause *= random.uniform(0.5, 1)  # noqa: S311 - not a secret
    return max(pause, min(after or 0.0, LONGEST_WAIT))

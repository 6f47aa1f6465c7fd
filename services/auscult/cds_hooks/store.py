"""The card store: every replica's own copy in memory of what the findings topic says, ready to be sent."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from auscult.bus import events
from auscult.bus.contract import Bus, Delivery, Tail
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks.card import URGENCY, recorded_at, released, render
from auscult.domain.finding import ModelReference, Result
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, Retry

POLL = 0.2
"""Seconds within which a follower notices that it has to stop."""
PAUSE = 1.0
"""Seconds before the bus is tried again, where it does not say how long to wait."""
_log = logging.getLogger(__name__)

Whose = tuple[str, str]
"""Tenant and `Patient/<id>`."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of one key: tenant, study and pathway."""

    whose: Whose
    partition: int
    offset: int
    order: tuple[int, float]
    """Most urgent first, then newest first."""
    card: bytes | None
    """None where it is withheld."""


class CardStore:
    """Cards by patient. One thread follows the topic; any number read, without a lock.

    Readers see a patient's cards change from one immutable tuple to the next; a single dict look-up is atomic.
    A topic that was deleted and made anew counts its offsets from zero again: restart its followers.
    """

    def __init__(self, public_url: str) -> None:
        self._public_url = public_url
        self._cards: dict[Whose, tuple[bytes, ...]] = {}
        self._held: dict[str, _Held] = {}
        self._keys: dict[Whose, frozenset[str]] = {}
        self._models: dict[str, ModelReference] = {}
        self._ready = False
        self._skipped = 0

    @property
    def ready(self) -> bool:
        """Whether the store has read all that was in the topic, and has not lost the bus since."""
        return self._ready

    @property
    def skipped(self) -> int:
        """Events that could not be read since the start; each one was logged."""
        return self._skipped

    def cards(self, tenant: str, patient: str) -> tuple[bytes, ...]:
        """Return the cards, each as JSON, of `patient` (`Patient/<id>`): the most urgent first, then the newest."""
        return self._cards.get((tenant, patient), ())

    def model(self, name: str) -> ModelReference | None:
        """Return what results said last about a model or algorithm, None where none rests on it."""
        return self._models.get(name)

    def follow(self, bus: Bus, stop: threading.Event) -> None:
        """Keep the store up to date until `stop` is set; reconnect where the bus fails. Runs in its own thread."""
        while not stop.is_set():
            pause = 0.0
            try:
                with bus.tail(FINDINGS) as tail:
                    self._read(tail, stop)
            except Retry as problem:
                pause = problem.after or PAUSE
                _log.warning("the findings are read again in %.1f s (%s)", pause, problem.reason)
            except Exception as problem:  # noqa: BLE001 - whatever a client library raises, cards may not go stale unseen
                # Without its text and traceback, which may quote an event.
                pause = PAUSE
                _log.error("the findings are read again in %.1f s (%s)", pause, type(problem).__name__)
            self._ready = False
            stop.wait(pause)

    def _read(self, tail: Tail, stop: threading.Event) -> None:
        while not stop.is_set():
            self._ready = tail.caught_up
            try:
                delivery = tail.poll(POLL)
            except DeadLetter as problem:
                self._skip(problem, None)
                continue
            if delivery is None:
                continue
            try:
                self._take(delivery)
            except (DeadLetter, ValueError) as problem:
                self._skip(problem, delivery)

    def _skip(self, problem: Exception, delivery: Delivery | None) -> None:
        """Leave an event out, visibly. What it says is not logged: it may identify a patient."""
        self._skipped += 1
        reason = problem.reason if isinstance(problem, AuscultError) else type(problem).__name__
        where = f"partition {delivery.partition}, offset {delivery.offset}" if delivery else "position unknown"
        _log.error("an event on %s is left out: %s (%s); no card shows it", FINDINGS.name, reason, where)

    def _take(self, delivery: Delivery) -> None:
        event = delivery.event
        if event.type != events.RESULT:
            raise DeadLetter("unexpected-type", f"only {events.RESULT} belongs on this topic")
        if not self._ready:
            # A replay of what happened before this process is no part of those events' traces.
            self._put(event.payload(Result), delivery)
            return
        with telemetry.span("card store update", parent=event.traceparent or None) as span:
            result = event.payload(Result)
            span.set_attributes({"pathway": result.pathway, "study": result.study.pseudonym})
            self._put(result, delivery)

    def _put(self, result: Result, delivery: Delivery) -> None:
        """Replace what was known of the result's key. A reconnected tail starts over: older events change nothing."""
        key = f"{result.study.key}|{result.pathway}"
        before = self._held.get(key)
        if before and before.partition == delivery.partition and delivery.offset <= before.offset:
            return
        card = render(result, self._public_url)
        shown = released(result)
        if not shown:
            _log.info("a card of %s is withheld: not all of its models are active", result.pathway)
        whose = (result.study.tenant, result.patient)
        order = (URGENCY[result.card.indicator], -recorded_at(result).timestamp())
        self._models.update({model.name: model for model in result.card.models})
        if before and before.whose != whose:
            self._show(before.whose, self._keys[before.whose] - {key})
        self._held[key] = _Held(whose, delivery.partition, delivery.offset, order, card if shown else None)
        self._show(whose, self._keys.get(whose, frozenset()) | {key})

    def _show(self, whose: Whose, keys: frozenset[str]) -> None:
        held = sorted((self._held[key] for key in keys), key=lambda each: each.order)
        cards = tuple(each.card for each in held if each.card is not None)
        if keys:
            self._keys[whose] = keys
        else:
            self._keys.pop(whose, None)
        if cards:
            self._cards[whose] = cards
        else:
            self._cards.pop(whose, None)

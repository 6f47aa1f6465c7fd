"""The kill switch: models that an operator switched off, as every process learns it from the bus.

Cards that rest on such a model are withheld, and no pathway asks it. Each switch is an event of its own that stays:
who switched what, when and why can be read as long as the topic is there.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.events import MODEL_SWITCHED, ModelSwitched
from auscult.bus.topics import SWITCHES
from auscult.platform.errors import AuscultError, DeadLetter

EVERY = "*"
"""Stands for all models."""
POLL = 0.5
PAUSE = 1.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Switches:
    """What is switched off, as far as the events taken say. One thread takes, any may ask."""

    ready: threading.Event = field(default_factory=threading.Event)
    """Set once all events that were there at the start are taken."""
    _newest: dict[str, ModelSwitched] = field(default_factory=dict)
    _off: dict[str, ModelSwitched] = field(default_factory=dict)

    def take(self, told: ModelSwitched) -> None:
        """Follow one switch, whatever the order in which they come."""
        before = self._newest.get(told.model)
        # Two operators at one moment may give one number: off wins.
        if before and (before.number, not before.enabled) >= (told.number, not told.enabled):
            return
        self._newest[told.model] = told
        # Replaced, not changed, so that those who ask see one state or the other.
        self._off = {model: each for model, each in self._newest.items() if not each.enabled}

    def off(self, models: Iterable[str]) -> ModelSwitched | None:
        """Return the switch that takes away what rests on `models`, None where there is none."""
        off = self._off
        if not off:
            return None
        return off.get(EVERY) or next((off[model] for model in models if model in off), None)

    @property
    def all_off(self) -> ModelSwitched | None:
        """The switch that takes away everything."""
        return self._off.get(EVERY)

    @property
    def now_off(self) -> tuple[str, ...]:
        """The names that are switched off."""
        return tuple(sorted(self._off))

    def follow(self, bus: Bus, stop: threading.Event) -> None:
        """Take what comes until `stop` is set. Runs in its own thread."""
        while not stop.is_set():
            try:
                with bus.tail(SWITCHES) as tail:
                    while not stop.is_set():
                        if tail.caught_up:
                            self.ready.set()
                        if delivery := tail.poll(POLL):
                            self._try(delivery)
            except AuscultError as problem:
                _log.warning("the switches are read again in %.1f s (%s)", PAUSE, problem.reason)
                stop.wait(PAUSE)

    def _try(self, delivery: Delivery) -> None:
        try:
            self.take(delivery.event.payload(ModelSwitched))
        except DeadLetter as problem:
            _log.error("a switch of a model cannot be read (%s), offset %d", problem.reason, delivery.offset)
            return
        _log.warning("models that are switched off: %s", ", ".join(self.now_off) or "none")


def switch(bus: Bus, model: str, *, enabled: bool, reason: str, by: str) -> ModelSwitched:
    """Switch `model` (EVERY: all) off or on, durably on return. Raises Retry where the bus cannot be reached."""
    number = max((told.number for _, told in history(bus) if told.model == model), default=0) + 1
    told = ModelSwitched(model, enabled, number, reason, by)
    # Numbered, not timed: a clock that is behind would undo nothing, and nobody would notice.
    bus.publish(SWITCHES, CloudEvent.of(MODEL_SWITCHED, "/auscult/operator", told), key=uuid.uuid4().hex)
    return told


def history(bus: Bus) -> Iterator[tuple[str, ModelSwitched]]:
    """Yield all that was switched, each with its time (RFC 3339)."""
    for delivery in bus.read(SWITCHES):
        try:
            yield delivery.event.time, delivery.event.payload(ModelSwitched)
        except DeadLetter:
            continue

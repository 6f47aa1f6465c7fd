"""The card store: every replica's own copy in memory of what the findings topic says, ready to be sent."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Container, Iterable
from pathlib import Path

from auscult import __version__
from auscult.bus import events
from auscult.bus.contract import Bus, Delivery, Tail
from auscult.bus.switches import Switches
from auscult.bus.topics import FINDINGS, PROGRESS, SWITCHES, WAITING
from auscult.cds_hooks import notices, snapshot
from auscult.cds_hooks.awaited import Awaited
from auscult.cds_hooks.card import URGENCY, SmartApp, card_uuid, recorded_at, released, render, seen_at
from auscult.cds_hooks.progress import InProgress
from auscult.cds_hooks.runs import patient_key
from auscult.cds_hooks.shelf import KEY, WITHHELD, Basis, Held, Shelf
from auscult.domain.finding import ModelReference, Result
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, Retry

POLL = 0.2
"""Seconds within which a follower notices that it has to stop."""
PAUSE = 1.0
"""Seconds before the bus is tried again, where it does not say how long to wait."""
REST = 3.0
"""Times as long as the follower was busy with an event that it leaves the interpreter to those who answer."""
SAVE_EVERY = 300.0
"""Seconds between two snapshots."""
DAY = 86400.0
_log = logging.getLogger(__name__)


class _OtherLogError(Exception):
    """The topic is not the one that was read before: it was made anew."""


class CardStore:
    """Cards by patient. One thread follows the bus; any number read, without a lock.

    `current_days`: age above which a card says that it is not current; 0: none does. `path`: where the snapshot is,
    None for none. `app`: to which cards link, beside the evidence.
    """

    def __init__(
        self, public_url: str, *, current_days: float = 0, path: Path | None = None, app: SmartApp | None = None
    ) -> None:
        self._public_url = public_url
        self._app = app
        self._current_days = current_days
        self._path = path
        self._rendering = f"{__version__} {public_url} {app}"
        self._shelf = Shelf()
        self._positions: dict[snapshot.Place, snapshot.Position] = {}
        self._saved: dict[snapshot.Place, snapshot.Position] = {}
        self._models: dict[str, ModelReference] = {}
        self._progress = InProgress()
        self._awaited = Awaited()
        self.switches = Switches()
        """What is switched off."""
        self._governed = False
        """Whether that is known: before, no card is shown, not even one that the snapshot has."""
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

    def cards(self, tenant: str, patient: str, pathways: Container[str] | None = None) -> tuple[bytes, ...]:
        """Return the cards, each as JSON, of `patient` (`Patient/<id>`): the most urgent first, then the newest.

        `pathways`: those whose cards are wanted; None: all. What is being computed or waited for comes before
        them. What rests on a model that is switched off is one notice.
        """
        if not self._governed:
            return ()
        if off := self.switches.all_off:
            return (notices.switched_off(off),)
        whose = patient_key(tenant, patient)
        found = sorted(self._shelf.of(whose), key=lambda held: (held.urgency, -held.recorded))
        withheld: dict[str, bytes] = {}
        shown = []
        for held in found:
            basis = self._shelf.bases[held.basis]
            if held.urgency == WITHHELD or (pathways is not None and basis.pathway not in pathways):
                continue
            if off := self.switches.off(basis.names):
                withheld[off.model] = notices.switched_off(off)
            else:
                shown.append(self._current(held))
        return (*self._progress.cards(whose), *self._awaited.cards(whose), *withheld.values(), *shown)

    def _current(self, held: Held) -> bytes:
        card = self._shelf.card(held)
        if self._current_days and time.time() - held.seen > self._current_days * DAY:
            return notices.not_current(card, held.seen, self._current_days)
        return card

    def of(self, tenant: str, patient: str, pathway: str) -> tuple[bytes, ...]:
        """Return the cards of one pathway that may be shown, the newest first, and no notices."""
        found = [
            held
            for held in self._shelf.of(patient_key(tenant, patient))
            if held.urgency != WITHHELD
            and (basis := self._shelf.bases[held.basis]).pathway == pathway
            and self.allows(basis.names)
        ]
        return tuple(self._current(held) for held in sorted(found, key=lambda held: -held.recorded))

    def allows(self, models: Iterable[str]) -> bool:
        """Whether what rests on `models` may be shown: none is switched off, as far as that is known."""
        return self._governed and self.switches.off(models) is None

    def model(self, name: str) -> ModelReference | None:
        """Return what results said last about a model or algorithm, None where none rests on it."""
        return self._models.get(name)

    def basis(self, card: str) -> tuple[str, Basis] | None:
        """Return whose tenant's a card is, and on what it rests, by its uuid; None where it is not known."""
        try:
            held = self._shelf.by_uuid(uuid.UUID(card).bytes)
        except ValueError:
            return None
        return (held.whose.partition(b"|")[0].decode(), self._shelf.bases[held.basis]) if held else None

    def resume(self) -> None:
        """Take what the snapshot has; the rest is read from the bus."""
        saved = snapshot.load(self._path, self._rendering) if self._path else None
        if saved:
            self._shelf, self._positions, self._models = saved.shelf, saved.positions, dict(saved.models)
            self._saved = dict(saved.positions)
            _log.info("%d cards were taken from the snapshot", len(self._shelf.records))

    def keep_saved(self, stop: threading.Event) -> None:
        """Write a snapshot now and then, and one at the end, where there is news. Runs in its own thread."""
        while not stop.wait(SAVE_EVERY):
            self._save()
        self._save()

    def _save(self) -> None:
        # What was read in part is no less true; but it is the whole that saves a start its time.
        if self._path is None or self._positions == self._saved or not self._ready:
            return
        positions = dict(self._positions)
        try:
            size = snapshot.save(self._path, self._rendering, self._shelf, positions, self._models)
        except OSError as problem:
            _log.warning("the cards could not be saved (%s); a start takes longer", problem.strerror)
            return
        self._saved = positions
        _log.info("%d cards were saved in %d bytes", len(self._shelf.records), size)

    def follow(self, bus: Bus, stop: threading.Event) -> None:
        """Keep the store up to date until `stop` is set; reconnect where the bus fails. Runs in its own thread."""
        while not stop.is_set():
            pause = 0.0
            try:
                if not self._governed:
                    self._govern(bus)
                start = {place: position.offset for place, position in self._positions.items()}
                with bus.tail(FINDINGS, SWITCHES, PROGRESS, WAITING, start=start) as tail:
                    self._read(tail, stop, start)
            except _OtherLogError:
                _log.warning("the findings topic was made anew; all results are read anew")
                self._shelf, self._positions = Shelf(), {}
            except Retry as problem:
                pause = problem.after or PAUSE
                _log.warning("the findings are read again in %.1f s (%s)", pause, problem.reason)
            except Exception as problem:  # noqa: BLE001 - whatever a client library raises, cards may not go stale unseen
                # Without its text and traceback, which may quote an event.
                pause = PAUSE
                _log.error("the findings are read again in %.1f s (%s)", pause, type(problem).__name__)
            if not stop.is_set():
                self._ready = False
            stop.wait(pause)

    def _govern(self, bus: Bus) -> None:
        for delivery in bus.read(SWITCHES):
            try:
                self.switches.take(delivery.event.payload(events.ModelSwitched))
            except DeadLetter as problem:
                self._skip(problem, delivery)
        self._governed = True

    def _read(self, tail: Tail, stop: threading.Event, start: dict[snapshot.Place, int]) -> None:
        busy = time.thread_time()
        while not stop.is_set():
            if self._ready:
                stop.wait(min(REST * (time.thread_time() - busy), POLL))
            busy = time.thread_time()
            self._ready = tail.caught_up
            try:
                delivery = tail.poll(POLL)
            except DeadLetter as problem:
                self._skip(problem, None)
                continue
            if delivery is None:
                continue
            if delivery.topic == FINDINGS.name:
                self._check(delivery, start)
            try:
                self._take(delivery)
            except (DeadLetter, ValueError) as problem:
                self._skip(problem, delivery)
            if delivery.topic == FINDINGS.name:
                place = delivery.topic, delivery.partition
                self._positions[place] = snapshot.Position(*place, delivery.offset, delivery.event.id)

    def _check(self, delivery: Delivery, start: dict[snapshot.Place, int]) -> None:
        """Hold the first event of a partition against what was there when it was read before."""
        place = delivery.topic, delivery.partition
        begun = start.pop(place, None)
        if begun is None:
            return
        known = self._positions[place]
        if delivery.offset < begun or (delivery.offset == known.offset and delivery.event.id != known.event):
            raise _OtherLogError

    def _skip(self, problem: Exception, delivery: Delivery | None) -> None:
        """Leave an event out, visibly. What it says is not logged: it may identify a patient."""
        self._skipped += 1
        reason = problem.reason if isinstance(problem, AuscultError) else type(problem).__name__
        where = f"partition {delivery.partition}, offset {delivery.offset}" if delivery else "position unknown"
        topic = delivery.topic if delivery else FINDINGS.name
        _log.error("an event on %s is left out: %s (%s); no card shows it", topic, reason, where)

    def _take(self, delivery: Delivery) -> None:
        event = delivery.event
        if event.type == events.MODEL_SWITCHED and delivery.topic == SWITCHES.name:
            self.switches.take(event.payload(events.ModelSwitched))
            if self._ready:
                _log.warning("models that are switched off: %s", ", ".join(self.switches.now_off) or "none")
            return
        if event.type == events.PROGRESS and delivery.topic == PROGRESS.name:
            told = event.payload(events.Progress)
            key = _key(f"{told.tenant}|{told.study_uid}", told.pathway)
            self._progress.take(key, told)
            self._awaited.done(key)
            return
        if event.type == events.RUN_WAITS and delivery.topic == WAITING.name:
            waits = event.payload(events.RunWaits)
            self._awaited.take(_key(f"{waits.tenant}|{waits.study_uid}", waits.pathway), waits)
            return
        if event.type != events.RESULT:
            raise DeadLetter("unexpected-type", f"{event.type} does not belong on {delivery.topic}")
        if not self._ready:
            # A replay of what happened before this process is no part of those events' traces.
            self._put(event.payload(Result), delivery)
            return
        with telemetry.span("card store update", parent=event.traceparent or None) as span:
            result = event.payload(Result)
            span.set_attributes({"pathway": result.pathway, "study": result.study.pseudonym})
            self._put(result, delivery)

    def _put(self, result: Result, delivery: Delivery) -> None:
        """Replace what was known of the result's key. What is read again changes nothing."""
        key = _key(result.study.key, result.pathway)
        before = self._shelf.get(key)
        if before and before.partition == delivery.partition and delivery.offset <= before.offset:
            return
        card = render(result, self._public_url, self._app)
        shown = released(result)
        if not shown:
            _log.info("a card of %s is withheld: not all of its models are active", result.pathway)
        models = tuple((model.name, model.version) for model in result.card.models)
        basis = Basis(result.pathway, result.version, models, result.sex, result.age_band)
        dictionary, body = self._shelf.packed(card, result.pathway) if shown else (0, b"")
        self._shelf.put(
            key,
            Held(
                whose=patient_key(result.study.tenant, result.patient),
                partition=delivery.partition,
                offset=delivery.offset,
                urgency=URGENCY[result.card.indicator] if shown else WITHHELD,
                recorded=recorded_at(result).timestamp(),
                seen=seen_at(result),
                basis=self._shelf.number(basis),
                dictionary=dictionary,
                uuid=card_uuid(result).bytes,
                body=body,
            ),
        )
        self._models.update({model.name: model for model in result.card.models})
        self._progress.done(key)
        self._awaited.done(key)


def _key(study: str, pathway: str) -> bytes:
    return hashlib.blake2b(f"{study}|{pathway}".encode("utf-8", "surrogatepass"), digest_size=KEY).digest()

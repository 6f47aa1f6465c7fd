"""Runs that wait for what their pathway needs of the record: visibly, durably, and not for ever.

The record is the truth, and what waits is on a compacted topic. Whatever brings news only makes the worker look
again: so the parts may come in each order, news may come twice or get lost, and any replica may take over. A study's
events are handled one after the other: of all that wake a run the first that finds everything starts it, and the
others find it started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.events import RunWaits
from auscult.bus.topics import OUTCOMES, WAITING
from auscult.domain.study import Patient, Study, StudyRef
from auscult.pathways.needs import Looked
from auscult.pathways.pathway import Need, Pathway
from auscult.platform.errors import DeadLetter

_log = logging.getLogger(__name__)

Look = Callable[[str, Sequence[Need], date | None], Looked]


@dataclass(frozen=True, slots=True)
class Met:
    """The patient with what the record says, and in words for the clinician what it did not say in time."""

    patient: Patient
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Joins:
    """What of the record runs wait for. `look`: asks the record."""

    bus: Bus
    look: Look
    clock: Callable[[], float] = time.time

    def waiting(self, key: str) -> RunWaits | None:
        """Return a run that waits; None where it started, was given up, or never waited."""
        newest = _newest(self.bus, key)
        return newest if newest is not None and newest.state == "waiting" else None

    def due(self, told: RunWaits, pathway: Pathway, patient: str) -> bool:
        """Whether a run that was waiting when `told` was written still does, and can be decided now.

        By the record alone: no image is read for that, and the bus only where there is news.
        """
        day = date.fromisoformat(told.acquired) if told.acquired else None
        missing = self.clock() < told.until and self.look(patient, pathway.needs.record, day).missing
        if missing and _names(missing) == told.missing and patient == told.patient:
            return False
        waits = self.waiting(told.key)
        if waits is None or waits.digest != told.digest:
            return False
        if missing:
            self._note(waits, replace(waits, patient=patient, missing=_names(missing), kinds=_kinds(missing)))
        return not missing

    def meet(self, pathway: Pathway, study: Study, patient: Patient) -> Met | None:
        """Return what the run starts with, or None where it waits from now on.

        DeadLetter (`needs-missing`) where the wait is over and what is required is not there.
        """
        needs = pathway.needs
        if not needs.record:
            return Met(patient)
        day = _day(study)
        looked = self.look(patient.reference, needs.record, day)
        key = f"{study.ref.key}|{pathway.name}"
        before = self.waiting(key) if looked.missing else None
        since = before.since if before else self.clock()
        now = RunWaits(
            tenant=study.ref.tenant,
            study_uid=study.ref.study_uid,
            digest=study.ref.digest,
            pathway=pathway.name,
            patient=patient.reference,
            missing=_names(looked.missing),
            kinds=_kinds(looked.missing),
            since=since,
            until=before.until if before else since + needs.wait,
            acquired=day.isoformat() if day else "",
            modality=study.modality,
        )
        if looked.missing and self.clock() < now.until:
            self._note(before, now)
            if before is None:
                self._tell(study.ref, "waiting", pathway.name, f"waits for {', '.join(now.missing)} in the record")
            # Once more, now that whoever brings news can see that it is waited for.
            looked = self.look(patient.reference, needs.record, day)
            if looked.missing:
                return None
        if any(need.required for need in looked.missing):
            detail = f"{', '.join(now.missing)} not in the record in time; enter it there, then replay"
            self._tell(study.ref, "incomplete", pathway.name, detail)
            self._publish(replace(now, state="given-up", reason="needs-missing"))
            raise DeadLetter("needs-missing", f"{pathway.name}: {detail}")
        without = tuple(f"the record does not say in time: {need.name}" for need in looked.missing)
        return Met(replace(patient, facts=looked.facts), without)

    def close(self, study: StudyRef, pathway: str, state: str, reason: str = "") -> None:
        """Note that a run, if it waited, does not wait any more. `reason`: why charts are to show that none comes."""
        newest = _newest(self.bus, f"{study.key}|{pathway}")
        if newest is None:
            return
        # One that was given up may be started by an operator.
        if newest.state == "waiting" or (newest.state == "given-up" and state == "started"):
            self._publish(replace(newest, state=state, reason=reason))

    def _note(self, before: RunWaits | None, now: RunWaits) -> None:
        if before != now:
            self._publish(now)

    def _publish(self, waits: RunWaits) -> None:
        event = CloudEvent.of(events.RUN_WAITS, f"/{waits.tenant}/pathways", waits)
        self.bus.publish(WAITING, event, key=waits.key)

    def _tell(self, study: StudyRef, status: str, reason: str, detail: str) -> None:
        outcome = events.Outcome(study.tenant, study.pseudonym, status, reason, detail)
        self.bus.publish(OUTCOMES, CloudEvent.of(events.OUTCOME, f"/{study.tenant}/pathways", outcome), key=study.key)


def _newest(bus: Bus, key: str) -> RunWaits | None:
    found = None
    for delivery in bus.read(WAITING):
        if delivery.key == key:
            try:
                found = delivery.event.payload(RunWaits)
            except DeadLetter as problem:
                _log.error("an event about a waiting run is passed over: %s", problem)
    return found


def _names(missing: Sequence[Need]) -> tuple[str, ...]:
    return tuple(need.name for need in missing)


def _kinds(missing: Sequence[Need]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(need.kind for need in missing))


def _day(study: Study) -> date | None:
    return study.acquired.date() if isinstance(study.acquired, datetime) else study.acquired

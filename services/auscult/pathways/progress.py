"""Tells the bus which studies are being computed, so that an open chart can say what is coming."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.events import PROGRESS as EVENT
from auscult.bus.events import Progress
from auscult.bus.topics import PROGRESS
from auscult.domain.study import StudyRef
from auscult.platform.errors import AuscultError

REMEMBERED = 100
"""Runs whose result is out: one that is done again for the PACS is not told as coming."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Announcer:
    """What this worker has begun. A notice that cannot be given stops no computation."""

    bus: Bus
    _begun: dict[str, dict[str, Progress]] = field(default_factory=dict)
    """By study's key, then pathway."""
    _out: deque[tuple[StudyRef, str]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def started(
        self, study: StudyRef, pathway: str, patient: str, *, modality: str, acquired: str | None, budget: float
    ) -> None:
        """Say that `pathway` begins with a study of `patient`, unless its result is out already."""
        if (study, pathway) in self._out:
            return
        told = Progress(
            study.tenant, study.study_uid, pathway, patient, "started", time.time(), modality, acquired, budget
        )
        self._begun.setdefault(study.key, {})[pathway] = told
        self._tell(told)

    def ended(self, study: StudyRef, pathway: str) -> None:
        """Say that its result is on the findings topic."""
        if (study, pathway) not in self._out:
            self._out.append((study, pathway))
        begun = self._begun.get(study.key, {})
        if told := begun.pop(pathway, None):
            self._end(told, "ended")
        if not begun:
            self._begun.pop(study.key, None)

    def failed(self, study: str) -> None:
        """Say that there will be no result of the study with this key, for what was begun with it here."""
        for told in self._begun.pop(study, {}).values():
            self._end(told, "failed")

    def _end(self, told: Progress, state: str) -> None:
        now = time.time()
        self._tell(replace(told, state=state, at=now, took=max(0.0, now - told.at)))

    def _tell(self, told: Progress) -> None:
        event = CloudEvent.of(EVENT, f"/{told.tenant}/pathways/{told.pathway}", told)
        try:
            self.bus.publish(PROGRESS, event, key=f"{told.tenant}|{told.study_uid}|{told.pathway}")
        except AuscultError as problem:
            _log.warning("charts are not told how far a study is (%s)", problem.reason)

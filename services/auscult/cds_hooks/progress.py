"""Which studies are being computed, as far as the bus says: an answer may be on its way, or have failed."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

from auscult.bus.events import Progress
from auscult.cds_hooks import notices
from auscult.cds_hooks.runs import Runs

HUNG = 1800.0
"""Seconds after which a computation that says nothing counts as failed: a worker that lives ends sooner."""
SHOWN = 2 * 86400.0
"""Seconds a failure is shown."""
CROWD = 1000
"""Computations from which on those that nobody is shown any more are looked for."""
REMEMBERED = 20
"""Durations by which the next is guessed."""


def _durations() -> defaultdict[str, deque[float]]:
    return defaultdict(lambda: deque(maxlen=REMEMBERED))


@dataclass(slots=True)
class InProgress:
    """Computations by patient. One thread takes, any may ask."""

    _runs: Runs[Progress] = field(default_factory=Runs)
    _crowd: int = CROWD
    _took: defaultdict[str, deque[float]] = field(default_factory=_durations)

    def take(self, key: bytes, told: Progress) -> None:
        """Follow one event."""
        if told.state == "ended":
            self._took[told.pathway].append(told.took)
            self.done(key)
        elif time.time() - told.at < SHOWN:
            self._runs.put(key, told)
        if len(self._runs) > self._crowd:
            for old in [each for each, seen in self._runs if time.time() - seen.at > SHOWN]:
                self.done(old)
            self._crowd = max(CROWD, 2 * len(self._runs))

    def done(self, key: bytes) -> None:
        """Forget a computation: its result is there."""
        self._runs.drop(key)

    def cards(self, whose: bytes) -> tuple[bytes, ...]:
        """Return one card for each computation of a patient that goes on or failed."""
        return tuple(card for told in self._runs.of(whose) if (card := self._card(told)))

    def _card(self, told: Progress) -> bytes | None:
        since = time.time() - told.at
        study = f"{told.tenant}|{told.study_uid}|{told.pathway}"
        images = f"{told.modality} of {_when(told)}"
        pathway = told.pathway.replace("_", " ")
        if since > SHOWN:
            return None
        if told.state == "failed" or since > max(HUNG, 2 * told.budget):
            return notices.failed(study, images, pathway=pathway)
        took = self._took.get(told.pathway)
        expected = median(took) if took else told.budget
        return notices.coming(study, images, left=expected - since if since < expected else None, pathway=pathway)


def _when(told: Progress) -> str:
    """Say when the images were taken, or else when they were complete; the date is left out where it is today."""
    try:
        moment = datetime.fromisoformat(told.acquired or "")
    except ValueError:
        moment = datetime.fromtimestamp(told.at, UTC)
    if told.acquired and len(told.acquired) <= len("2026-01-31"):
        return moment.date().isoformat()
    today = datetime.now(moment.tzinfo).date() == moment.date()
    return f"{moment:%H:%M}" if today else f"{moment:%Y-%m-%d %H:%M}"

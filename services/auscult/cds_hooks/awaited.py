"""Which studies wait for something in the record, or waited in vain, as far as the bus says."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from auscult.bus.events import RunWaits
from auscult.cds_hooks import notices
from auscult.cds_hooks.progress import HUNG, SHOWN
from auscult.cds_hooks.runs import Runs


@dataclass(slots=True)
class Awaited:
    """Runs that wait, by patient. One thread takes, any may ask."""

    _runs: Runs[RunWaits] = field(default_factory=Runs)

    def take(self, key: bytes, told: RunWaits) -> None:
        """Follow one event: the newest of a key counts."""
        if told.state == "waiting" or (told.state == "given-up" and told.reason):
            self._runs.put(key, told)
        else:
            self.done(key)

    def done(self, key: bytes) -> None:
        """Forget a run: it has started, or its result is there."""
        self._runs.drop(key)

    def cards(self, whose: bytes) -> tuple[bytes, ...]:
        """Return one card for each run of a patient that waits, or of which nothing comes."""
        return tuple(card for told in self._runs.of(whose) if (card := _card(told)))


def _card(told: RunWaits) -> bytes | None:
    over = time.time() - told.until
    if over > SHOWN:
        return None
    study = f"{told.tenant}|{told.study_uid}|{told.pathway}"
    images = f"{told.modality or 'Images'} of {told.acquired or _clock(told.since)}"
    pathway = told.pathway.replace("_", " ")
    until = _clock(told.until)
    if told.reason == "needs-missing":
        return notices.not_in_time(study, images, pathway=pathway, missing=told.missing, until=until)
    if told.state == "given-up" or over > HUNG:
        return notices.failed(study, images, pathway=pathway)
    since = _clock(told.since)
    return notices.awaiting(study, images, pathway=pathway, missing=told.missing, since=since, until=until)


def _clock(moment: float) -> str:
    """Say when: `09:12 UTC`, with its date where that is not today."""
    at, now = datetime.fromtimestamp(moment, UTC), datetime.now(UTC)
    return f"{at:%H:%M} UTC" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M} UTC"

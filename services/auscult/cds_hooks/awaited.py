"""Which studies wait for something in the record, or waited in vain, as far as the bus says."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from auscult.bus.events import RunWaits
from auscult.cds_hooks import notices
from auscult.cds_hooks.progress import HUNG, SHOWN, patient_key


@dataclass(slots=True)
class Awaited:
    """Runs that wait, by patient. One thread takes, any may ask."""

    _known: dict[bytes, RunWaits] = field(default_factory=dict)
    _by_patient: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)

    def take(self, key: bytes, told: RunWaits) -> None:
        """Follow one event: the newest of a key counts."""
        self.done(key)
        if told.state == "waiting" or (told.state == "given-up" and told.reason):
            whose = patient_key(told.tenant, told.patient)
            self._known[key] = told
            self._by_patient[whose] = (*self._by_patient.get(whose, ()), key)

    def done(self, key: bytes) -> None:
        """Forget a run: it has started, or its result is there."""
        told = self._known.pop(key, None)
        if told is None:
            return
        whose = patient_key(told.tenant, told.patient)
        left = tuple(each for each in self._by_patient[whose] if each != key)
        if left:
            self._by_patient[whose] = left
        else:
            del self._by_patient[whose]

    def cards(self, whose: bytes) -> tuple[bytes, ...]:
        """Return one card for each run of a patient that waits, or of which nothing comes."""
        found = (self._known.get(key) for key in self._by_patient.get(whose, ()))
        return tuple(card for told in found if told and (card := _card(told)))


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

"""A patient's earlier studies, for pathways that compare: asked of the PACS, fetched, and loaded as any study."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast

from auscult.bus.contract import Bus
from auscult.domain.identity import sop_digest
from auscult.domain.study import Study, StudyRef
from auscult.imaging.gate import admit
from auscult.imaging.notes import kept_with
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from auscult.listen import pacs
from auscult.listen.reception import Reception
from auscult.platform.errors import Quarantine
from auscult.platform.settings import Settings

FETCH = "fetch"
"""Name of the note about a study fetched as an earlier one; what a process that died left is not the whole."""
BEGUN, WHOLE = b"begun", b"whole"


@dataclass(frozen=True)
class Priors:
    """Of the patients of one tenant, in the image store and in the PACS of `settings`, where there is one."""

    settings: Settings
    store: ImageStore

    def of(self, study: Study) -> list[str]:
        """Return the patient's studies of the same modality in the PACS before `study`, the newest first.

        None where the study has no date or patient to ask for. Retry (`pacs-unavailable`).
        """
        day = day_of(study)
        if day is None or not study.identity.patient_id:
            return []
        return pacs.priors(self.settings, study.identity.patient_id, study.modality, day)

    def here(self, study_uid: str) -> bool:
        """Whether the image store has a study. Refused (`invalid-uid`)."""
        tenant = self.settings.tenant
        return self.store.note(tenant, kept_with(study_uid, FETCH)) != BEGUN and bool(
            self.store.count(tenant, study_uid)
        )

    def fetched(self, study_uid: str) -> bool:
        """Whether a study came only because another was compared with it. Refused (`invalid-uid`)."""
        return bool(self.store.note(self.settings.tenant, kept_with(study_uid, FETCH)))

    def load(self, study_uid: str, of: Study) -> Study:
        """Read a study; what the image store does not have is fetched into it first.

        That starts no run of its own where the PACS gives the study itself. By C-MOVE it comes to the listener as
        any study does. Quarantine (`another-patient`) where it is not of the patient of `of`. Retry
        (`pacs-unavailable`), and what `load_study` raises.
        """
        if not self.here(study_uid):
            self._fetch(study_uid)
        files = self.store.instances(self.settings.tenant, study_uid)
        headers = [header for header in map(admit, files) if not header.own_result]
        digest = sop_digest(header.sop_instance_uid for header in headers)
        prior = load_study(StudyRef(self.settings.tenant, study_uid, digest), self.store, of.modality)
        mine, theirs = of.identity, prior.identity
        if (mine.patient_id, mine.issuer) != (theirs.patient_id, theirs.issuer):
            raise Quarantine("another-patient", "an earlier study that was named is another patient's")
        return prior

    def _fetch(self, study_uid: str) -> None:
        tenant = self.settings.tenant
        note = kept_with(study_uid, FETCH)
        self.store.write_note(tenant, note, BEGUN)
        reception = Reception(tenant, cast("Bus", _Nobody()), self.store, "priors")
        asyncio.run(pacs.fetch(self.settings, self.store, reception, study_uid))
        self.store.write_note(tenant, note, WHOLE)


class _Nobody:
    """The bus of a reception that tells nobody."""

    def publish(self, *_: Any, **__: Any) -> None:
        """Tell nobody."""


def day_of(study: Study) -> date | None:
    """Return the day on which a study was acquired."""
    return study.acquired.date() if isinstance(study.acquired, datetime) else study.acquired

"""What a study should hold, as modalities (MPPS), PACSs (IAN) and Orthanc told it: notes in the image store."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from auscult.imaging.completeness import Completeness
from auscult.imaging.notes import of_study
from auscult.imaging.store import ImageStore


class Step(msgspec.Struct, frozen=True):
    """What one source told. `series`: SOP Instance UIDs by series. `wrong_entry`: of another worklist entry."""

    status: Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
    """Performed Procedure Step Status (PS3.3, C.4.14)."""
    series: dict[str, list[str]] = {}
    wrong_entry: bool = False


@dataclass(frozen=True)
class Expectation:
    """All that was told of one study."""

    steps: Collection[Step] = field(default=())

    @classmethod
    def of(cls, store: ImageStore, tenant: str, study_uid: str) -> Expectation:
        """Read it. Refused (`invalid-uid`)."""
        notes = store.notes(tenant, of_study(study_uid))
        return cls(tuple(msgspec.json.decode(note, type=Step) for note in notes))

    @property
    def in_progress(self) -> bool:
        """Whether a modality is still at work."""
        return any(step.status == "IN PROGRESS" for step in self.steps)

    def whole(self, files: Collection[Path]) -> bool | None:
        """Whether all is among the store's `files`; None where nothing was told."""
        if not self.in_progress and not self._named():
            return None
        here = {(path.parent.name, path.stem) for path in files}
        return not self.in_progress and self._named() <= here

    def doubt(self, files: Collection[Path]) -> Completeness | None:
        """Say why what is here is not to be computed as it stands; None where nothing speaks against it.

        A series of which nothing is here counts as not sent to us: routing by series is usual.
        """
        if any(step.wrong_entry for step in self.steps):
            return Completeness(
                "quarantine",
                "wrong-worklist-entry",
                "the modality says that this was done on the wrong worklist entry; see whose study it is",
            )
        here = {(path.parent.name, path.stem) for path in files}
        begun = {series for series, _ in here}
        missing = {(series, uid) for series, uid in self._named() if series in begun} - here
        if missing:
            return Completeness(
                "incomplete",
                "instances-missing",
                f"{len(missing)} instances that the modality or PACS names are not here; send them",
            )
        if any(step.status == "DISCONTINUED" for step in self.steps):
            return Completeness("incomplete", "discontinued", "the modality says that the acquisition was broken off")
        return None

    def _named(self) -> set[tuple[str, str]]:
        return {(series, uid) for step in self.steps for series, uids in step.series.items() for uid in uids}


def expect(store: ImageStore, tenant: str, study_uid: str, source: str, step: Step) -> None:
    """Note durably what `source` (a UID, or a word) told of a study, in the place of what it told before."""
    store.write_note(tenant, of_study(study_uid, source), msgspec.json.encode(step))

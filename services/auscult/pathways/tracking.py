"""Tracking UIDs (PS3.3, C.8.20.4): the same thing keeps its own through the versions of a study, and over studies.

Which thing has which is noted beside each study's images, and erased with them. So a UID that was written once stays,
whatever a newer model makes of the outline, and each study need only know the one before.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from auscult.domain.finding import Finding
from auscult.domain.identity import NAMESPACE, dicom_uid
from auscult.domain.study import Study, StudyRef
from auscult.domain.volume import Region
from auscult.imaging.notes import kept_with
from auscult.imaging.store import ImageStore
from auscult.pathways.pathway import Found
from auscult.platform.errors import AuscultError

NEAR = 3.0
"""mm between the centres of two outlines of one thing on the same images; more where it is larger than that."""

_log = logging.getLogger(__name__)


class Tracked(msgspec.Struct, frozen=True):
    """One thing in one study. `centre`: of its outline, LPS in mm."""

    uid: str
    centre: tuple[float, float, float]


@dataclass(frozen=True)
class Tracking:
    """The tracking UIDs of a pathway's findings."""

    store: ImageStore
    pathway: str

    def assign(self, found: Found, study: Study, earlier: Study | None) -> Found:
        """Return `found` with a tracking UID for each finding that has voxels.

        In this order: the one of the segment that somebody drew, the one it had before, that of its counterpart in
        `earlier`, a new one that follows from study and place.
        """
        if not found.regions:
            return found
        now, then = self._read(study.ref), self._read(earlier.ref) if earlier else []
        kept, before = list(now), list(then)
        counterparts: Sequence[Region | None] = found.counterparts or [None] * len(found.findings)
        findings: list[Finding] = []
        for finding, region, counterpart in zip(found.findings, found.regions, counterparts, strict=True):
            taken = {each.tracking_uid for each in findings}
            uid = finding.tracking_uid or _nearest(now, region, taken)
            if not uid and counterpart is not None and earlier is not None:
                uid = counterpart.source.tracking_uid or _nearest(then, counterpart, taken)
                uid = uid or self._new(earlier.ref, counterpart)
                _add(before, uid, counterpart)
            uid = uid if uid and uid not in taken else self._new(study.ref, region)
            _add(kept, uid, region)
            findings.append(replace(finding, tracking_uid=uid))
        if kept != now:
            self._write(study.ref, kept)
        if earlier and before != then:
            self._write(earlier.ref, before)
        return replace(found, findings=tuple(findings))

    def _new(self, ref: StudyRef, region: Region) -> str:
        place = ",".join(f"{value:.0f}" for value in region.centroid)
        return dicom_uid(
            uuid.uuid5(NAMESPACE, f"tracking|{ref.tenant}|{ref.study_uid}|{self.pathway}|{place}|{region.volume:.0f}")
        )

    def _read(self, ref: StudyRef) -> list[Tracked]:
        text = self.store.note(ref.tenant, self._name(ref))
        return msgspec.json.decode(text, type=list[Tracked]) if text else []

    def _write(self, ref: StudyRef, tracked: list[Tracked]) -> None:
        try:
            self.store.write_note(ref.tenant, self._name(ref), msgspec.json.encode(tracked))
        except AuscultError as problem:
            # They follow from study and place, so the next run gives the same, as long as the outlines are.
            _log.warning("the tracking UIDs of study %s are not noted (%s)", ref.pseudonym, problem.reason)

    def _name(self, ref: StudyRef) -> str:
        return kept_with(ref.study_uid, f"tracking-{self.pathway}")


def _nearest(tracked: Sequence[Tracked], region: Region, taken: set[str]) -> str:
    """Return the UID of what has its centre where the region's is; empty where nothing has."""
    centre, radius = region.centroid, (3 * region.volume / (4 * np.pi)) ** (1 / 3)
    apart = {
        each.uid: float(np.linalg.norm(np.array(each.centre) - centre)) for each in tracked if each.uid not in taken
    }
    uid = min(apart, key=apart.__getitem__, default="")
    return uid if uid and apart[uid] <= max(NEAR, radius) else ""


def _add(tracked: list[Tracked], uid: str, region: Region) -> None:
    if uid not in {each.uid for each in tracked}:
        x, y, z = (round(float(value), 2) for value in region.centroid)
        tracked.append(Tracked(uid, (x, y, z)))

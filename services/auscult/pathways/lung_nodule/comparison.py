"""What was found, compared with an earlier CT: its nodules, outlined by the same means, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Finding, Recommendation
from auscult.domain.study import Study
from auscult.domain.volume import Region
from auscult.pathways.lung_nodule import growth, measure, regions
from auscult.pathways.lung_nodule.fleischner import GUIDELINE, Appearance
from auscult.pathways.lung_nodule.lungs import Lungs, find_lungs
from auscult.pathways.lung_nodule.matching import Match, Placement, matched
from auscult.pathways.pathway import Found, Models
from auscult.platform.errors import TellClinician

WITHOUT_MONTHS = {"NONE", "NOT_APPLICABLE"}
"""Rules of the Fleischner Society that name no time."""
UNLIKE_SLICES = 1.5
"""From this ratio of slice spacings on, part of a change may come from the slices."""


def comparable(earlier: Study) -> None:
    """TellClinician where a study shows no lungs."""
    if find_lungs(earlier.volume) is None:
        raise TellClinician("no-lungs", "an earlier CT shows no lungs")


def compare(found: Found, study: Study, earlier: Study, models: Models, deadline: Deadline) -> Found:
    """Return `found` with what changed since `earlier`. TellClinician where they cannot be compared."""
    lungs = find_lungs(study.volume), find_lungs(earlier.volume)
    placement = Placement.between((earlier.volume, lungs[1]), (study.volume, lungs[0]))
    if placement is None:
        raise TellClinician(
            "no-common-place", "it has another frame of reference, and the lungs are not whole in both"
        )
    nodules = _outlined(found, earlier, lungs[1], models, deadline)
    comparing = _Comparing(study, earlier, nodules, placement)
    pairs = matched(found.regions, nodules, placement)
    findings = tuple(map(comparing.told, found.findings, found.regions, pairs))
    days = comparing.days
    return replace(
        found,
        findings=findings,
        counterparts=tuple(nodules[pair.earlier] if pair and not pair.doubt else None for pair in pairs),
        compared=(
            f"Compared with the CT of {comparing.on}, {days} day{'s' if days != 1 else ''} before; "
            f"nodules were matched {placement.how}."
        ),
    )


def _outlined(
    found: Found, earlier: Study, lungs: Lungs | None, models: Models, deadline: Deadline
) -> tuple[Region, ...]:
    """Return the nodules of the earlier CT, outlined by the model where the newer ones are, else by people."""
    if all(finding.outline.source_kind == "model" for finding in found.findings):
        return regions.segmented(earlier, lungs, models, deadline)
    if not (nodules := regions.drawn(earlier)):
        raise TellClinician("not-drawn", "nobody has outlined nodules in it, as they are in this one")
    return nodules


@dataclass(frozen=True, eq=False)
class _Comparing:
    """Two CTs of one patient. `nodules`: of the earlier one."""

    study: Study
    earlier: Study
    nodules: tuple[Region, ...]
    placement: Placement

    @property
    def on(self) -> date:
        return _day(self.earlier)

    @property
    def days(self) -> int:
        return (_day(self.study) - self.on).days

    def told(self, finding: Finding, region: Region, match: Match | None) -> Finding:
        """Return a finding with what became of it."""
        if match is None:
            return replace(finding, notes=(*finding.notes, self._unmatched(region)))
        was = _sizes(self.nodules[match.earlier])
        if match.doubt:
            note = (
                f"it may be the nodule of {was.mean:.1f} mm of the CT of {self.on}, but that is doubtful "
                f"({match.doubt}): compare by eye"
            )
            return replace(finding, notes=(*finding.notes, note))
        change = growth.Change(was, _sizes(region), self.on, self.days, self.earlier.ref.study_uid)
        return replace(
            finding,
            groups=(*finding.groups, change.group()),
            evaluations=(*finding.evaluations, change.evaluation()),
            recommendations=self._advice(finding, change),
            notes=(*finding.notes, *self._slices()),
        )

    def _unmatched(self, region: Region) -> str:
        where = self.earlier.volume.geometry.to_index(self.placement.back(region.centroid))
        if (where < 0).any() or (where > np.array(self.earlier.volume.geometry.shape) - 1).any():
            return f"the CT of {self.on} does not show this place"
        return f"no nodule was outlined here in the CT of {self.on}: it may be new, or was missed there"

    def _slices(self) -> tuple[str, ...]:
        now, then = (float(each.volume.geometry.spacing[0]) for each in (self.study, self.earlier))
        if max(now, then) < UNLIKE_SLICES * min(now, then):
            return ()
        return (f"slices of {then:.2g} and {now:.2g} mm are compared: part of the change may come from that",)

    def _advice(self, finding: Finding, change: growth.Change) -> tuple[Recommendation, ...]:
        """Return the advice for a nodule that is known: on growth, or the first CT's with whence its months count.

        The table of the Fleischner Society is for nodules that are seen for the first time.
        """
        appearance = next(each for each in Appearance if each.value == finding.appearance)
        if advice := growth.recommend(change, appearance):
            return (advice,)
        return tuple(
            replace(each, text=f"{each.text} The months count from the CT of {self.on} or an earlier one.")
            if each.guideline == GUIDELINE and each.rule not in WITHOUT_MONTHS
            else each
            for each in finding.recommendations
        )


def _sizes(region: Region) -> growth.Sizes:
    size = measure.size(region)
    return growth.Sizes(size.longest, size.mean, region.volume)


def _day(study: Study) -> date:
    if study.acquired is None:
        raise TellClinician("no-date", "the images do not say when they were taken")
    return study.acquired.date() if isinstance(study.acquired, datetime) else study.acquired

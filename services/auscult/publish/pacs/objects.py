"""A result as DICOM objects, under the UIDs that its FHIR resources have, too.

The SR is the result's assessment, and each of its measurement groups a finding: they have the UUIDs of those
Observations, as `2.25.<UUID as integer>`. A result that is not final has UIDs of its own, as a PACS never replaces
an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import cached_property

from pydicom.dataset import Dataset

from auscult.domain.finding import Finding, Result
from auscult.domain.identity import dicom_uid
from auscult.domain.volume import Region
from auscult.imaging.own_results import CREATOR
from auscult.publish.dicom_capture import NOT_FOR_CLINICAL_USE, write_capture
from auscult.publish.dicom_rtstruct import Structure, write_rtstruct
from auscult.publish.dicom_seg import Segment, write_seg
from auscult.publish.dicom_sr import Reported, write_sr
from auscult.publish.fhir.resources import pathway_model, without_shadow
from auscult.publish.sources import Source, headers


@dataclass(frozen=True, eq=False)
class ResultObjects:
    """The DICOM objects of one result. `regions`: of its findings, in their order; empty where they have none.

    `slices`: files, data sets or frames of the series, with their pixels, in the order of the regions' axis z.
    """

    result: Result
    regions: Sequence[Region]
    slices: Sequence[Source]
    kinds: Sequence[str]
    resampled: bool = False
    """Whether the regions' grid is none that the slices lie on."""

    def uids(self) -> tuple[str, ...]:
        """Return the SOP Instance UIDs of all that `datasets` gives, without making it."""
        found = []
        for kind in self.kinds:
            if kind == "capture":
                found += [self._uid(f"capture/{finding.label}") for finding, _ in self._findings]
            elif kind == "sr" or self._drawn:
                found.append(self._uid(kind))
        return tuple(found)

    def datasets(self) -> Iterator[Dataset]:
        """Yield the objects, in the order of `uids`."""
        for kind in self.kinds:
            for dataset in self._captures() if kind == "capture" else self._of(kind):
                dataset.InstanceCreatorUID = CREATOR
                yield dataset

    def _of(self, kind: str) -> Iterator[Dataset]:
        if kind == "sr":
            yield self._report()
        elif kind == "seg" and self._segmentation is not None:
            yield self._segmentation
        elif kind == "rtstruct" and self._drawn:
            structures = [
                Structure(region, finding.label, _drawn_by(finding), kind=finding.kind)
                for finding, region in self._drawn
            ]
            yield write_rtstruct(
                structures,
                self._headers,
                sop_instance_uid=self._uid(kind),
                series_uid=self._uid(f"{kind}/series"),
                made=self.made,
                description=self._described("structures"),
                resampled=self.resampled,
            )

    @cached_property
    def _segmentation(self) -> Dataset | None:
        if not self._drawn:
            return None
        segments = [
            Segment(
                region,
                finding.label,
                _drawn_by(finding),
                kind=finding.kind,
                site=finding.site,
                laterality=finding.laterality,
                tracking_uid=self._tracking_uid(finding),
            )
            for finding, region in self._drawn
        ]
        return write_seg(
            segments,
            self._headers,
            sop_instance_uid=self._uid("seg"),
            series_uid=self._uid("seg/series"),
            made=self.made,
            description=self._described("segmentation"),
            resampled=self.resampled,
        )

    def _report(self) -> Dataset:
        numbers = {finding.label: number for number, (finding, _) in enumerate(self._drawn, start=1)}
        model = pathway_model(self.result)
        return write_sr(
            [
                Reported(
                    finding,
                    numbers.get(finding.label) if "seg" in self.kinds else None,
                    self._tracking_uid(finding),
                    dicom_uid(self.result.identity(model, finding.label)),
                )
                for finding, _ in self._findings
            ],
            self._headers,
            segmentation=self._segmentation if "seg" in self.kinds else None,
            author=replace(model, clinical_use=self._validated),
            sop_instance_uid=self._uid("sr"),
            series_uid=self._uid("sr/series"),
            made=self.made,
            complete_result=self.result.status == "final",
            comments=[self.result.card.summary, *self.result.reasons, *self.result.processing],
            description=self._described("measurements"),
        )

    def _captures(self) -> Iterator[Dataset]:
        for number, (finding, _) in enumerate(self._findings, start=1):
            yield write_capture(
                finding,
                self.slices[finding.outline.slice_index],
                lines=_lines(finding),
                sop_instance_uid=self._uid(f"capture/{finding.label}"),
                series_uid=self._uid("capture/series"),
                made=self.made,
                instance_number=number,
                description=self._described("summary"),
                notice="" if self._validated else NOT_FOR_CLINICAL_USE,
            )

    @cached_property
    def _headers(self) -> list[Dataset]:
        return headers(self.slices)

    @cached_property
    def _findings(self) -> list[tuple[Finding, Region | None]]:
        """What may be shown, each with its region."""
        regions: Sequence[Region | None] = self.regions or [None] * len(self.result.findings)
        return [
            (without_shadow(finding), region)
            for finding, region in zip(self.result.findings, regions, strict=True)
            if finding.outline.model is None or finding.outline.model.stage != "shadow"
        ]

    @cached_property
    def _drawn(self) -> list[tuple[Finding, Region]]:
        return [(finding, region) for finding, region in self._findings if region is not None]

    @cached_property
    def made(self) -> datetime:
        """When the result was asked for, as the clock of the study's own times shows it."""
        recorded = datetime.fromisoformat(self.result.recorded)
        offset = str(self._headers[0].get("TimezoneOffsetFromUTC") or "")
        if len(offset) == 5 and offset[1:].isdigit():
            apart = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
            return recorded.astimezone(timezone(-apart if offset[0] == "-" else apart))
        return recorded.astimezone()

    @property
    def _validated(self) -> bool:
        return bool(self.result.card.models) and all(model.clinical_use for model in self.result.card.models)

    def _tracking_uid(self, finding: Finding) -> str:
        return finding.tracking_uid or self._uid(f"{finding.label}/tracking")

    def _uid(self, output: str) -> str:
        output = "assessment" if output == "sr" else output
        if self.result.status != "final":
            output = f"{output}/{self.result.status}"
        return dicom_uid(self.result.identity(pathway_model(self.result), output))

    def _described(self, what: str) -> str:
        return f"Auscult {self.result.pathway.replace('_', ' ')} {what}"


def _drawn_by(finding: Finding) -> tuple[str, str] | None:
    model = finding.outline.model
    return (model.name, model.version) if model else None


def _lines(finding: Finding) -> list[str]:
    """Return the finding in words and numbers, radiomics left out."""
    lines = [f"{finding.label.replace('-', ' ')}: {finding.appearance}, {finding.location}"]
    for group in finding.groups:
        if not group.name.startswith("radiomics"):
            lines += [f"{m.code.display}: {m.value:.3g} {m.unit}" for m in group.measurements]
    lines += [f"{risk.code.display}: {100 * risk.probability:.2g} % ({risk.model.name})" for risk in finding.risks]
    return [*lines, *(advice.text for advice in finding.recommendations)]

"""What a pathway found: numbers with unit, model, version, interval and evidence.

These dataclasses travel on the findings topic as JSON (msgspec reads and writes them as they are),
so they hold plain Python values only.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from auscult.domain.codes import Code
from auscult.domain.identity import result_uuid
from auscult.domain.study import StudyRef


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Which model, or which of our own algorithms, said something."""

    name: str
    version: str
    evidence: str
    """Citation or URL on which the model rests."""
    clinical_use: bool = False
    """True only after the site has validated it; reference models are False."""
    stage: str = "active"
    """`shadow`, `active` or `retired`."""
    incomplete_studies: bool = False
    """Whether it may compute a study of which instances are known to be missing."""
    resampled_studies: bool = False
    """Whether it may compute slices that made no regular grid, resampled to one."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number. `name` is stable and part of its identity; `unit` is UCUM (`1` for a pure number)."""

    name: str
    code: Code
    value: float
    unit: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class MeasurementGroup:
    """Measurements that one model made together: one FHIR Observation, components where several."""

    name: str
    """e.g. `size`; part of the identity."""
    code: Code
    model: ModelReference
    measurements: tuple[Measurement, ...]
    method: Code | None = None
    """How they were measured, where there are several ways, e.g. how texture matrices were brought together."""
    settings: str = ""
    """With what settings, as JSON, where there are any: enough to compute the same again."""
    without_value: tuple[Code, ...] = ()
    """What was looked for and has no value here, such as a correlation in a single voxel."""
    compared_with: str = ""
    """StudyInstanceUID of the earlier study, where the numbers are about a change since then."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One input's share in a risk, on the model's own additive scale (log-odds for a logistic model)."""

    input: str
    value: str
    """As a reader would say it: `female`, `8.4 mm`, `assumed absent`."""
    log_odds: float


@dataclass(frozen=True, slots=True)
class Risk:
    """A probability in [0, 1], with what it rests on.

    `interval` is the range over inputs that are not known (it is not a confidence interval);
    `assumed` names those inputs.
    """

    name: str
    code: Code
    outcome: Code
    model: ModelReference
    probability: float
    contributions: tuple[Contribution, ...]
    interval: tuple[float, float] | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A judgement in words that has a code, such as the type of a nodule."""

    name: Code
    value: Code
    model: ModelReference


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What a guideline advises. `rule` is a stable name; `text` is for the reader."""

    guideline: ModelReference
    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Outline:
    """Where a finding is seen best: a slice of a series and closed polygons on it.

    `polygons`: points (x, y) in pixels, (0, 0) the centre of the first pixel of the slice.
    """

    sop_instance_uid: str
    series_uid: str
    slice_index: int
    polygons: tuple[tuple[tuple[float, float], ...], ...]
    source_kind: str
    """As `RegionSource.kind`."""
    source_name: str
    model: ModelReference | None = None
    """The model that outlined it, where a model did."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in one place, e.g. `nodule-1`."""

    label: str
    kind: Code
    site: Code
    location: str
    """For the reader: `right lung, upper third`."""
    appearance: str
    """For the reader: `solid`."""
    outline: Outline
    groups: tuple[MeasurementGroup, ...]
    risks: tuple[Risk, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be said, and why."""
    laterality: Code | None = None
    evaluations: tuple[Evaluation, ...] = ()
    tracking_uid: str = ""
    """DICOM Tracking UID of the same thing in other studies; empty where nothing is known of others."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An examination that a guideline advises, and that the clinician may take over as a draft order."""

    label: str
    """For the button: `CT chest in 6-12 months`."""
    order: Code
    months: tuple[int, int]
    """From the acquisition of the images to the examination: earliest, latest."""
    reason: str
    guideline: ModelReference
    recommended: bool = False
    """Whether the guideline advises it outright, neither as optional nor as one of several ways."""


@dataclass(frozen=True, slots=True)
class Card:
    """A CDS Hooks card as far as a pathway decides it (CDS Hooks 2.0, Card Attributes)."""

    summary: str
    """At most 140 characters."""
    indicator: str
    """`info`, `warning` or `critical`."""
    detail: str
    """GitHub-flavoured Markdown."""
    source_label: str
    models: tuple[ModelReference, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    """At most one of them is chosen."""
    override_reasons: tuple[Code, ...] = ()
    """Why a clinician may pass over the proposals."""


@dataclass(frozen=True, slots=True)
class Result:
    """All that one run of a pathway said about one version of a study."""

    study: StudyRef
    pathway: str
    version: str
    patient: str
    """`Patient/<id>`."""
    status: str
    """`final`, or `degraded` where the deadline or a model failed; then `reasons` says why."""
    findings: tuple[Finding, ...]
    card: Card
    recorded: str
    """RFC 3339 instant at which the event that asked for the result was made."""
    acquired: str | None = None
    """FHIR dateTime of the acquisition, where known."""
    reasons: tuple[str, ...] = ()
    sex: str = ""
    """FHIR administrative gender, for governance by subgroup."""
    age_band: str = ""
    """Decade of age at the study, `60-69` or `90+`; empty where it is not known."""
    modality: str = ""
    """DICOM modality of the images that it was found on, where known."""
    processing: tuple[str, ...] = ()
    """What was done to the images first, in words for the reader, such as that they were resampled."""

    def identity(self, model: ModelReference, output: str) -> uuid.UUID:
        """Return the one identity of `output` of `model` in this result."""
        return result_uuid(
            tenant=self.study.tenant,
            study_uid=self.study.study_uid,
            digest=self.study.digest,
            pathway=self.pathway,
            model=model.name,
            version=model.version,
            output=output,
        )

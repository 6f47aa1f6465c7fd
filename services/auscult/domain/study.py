"""Studies and patients as the pathways see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from auscult.domain.identity import pseudonym
from auscult.domain.volume import Region, Volume


@dataclass(frozen=True, slots=True)
class StudyRef:
    """One version of a study's contents. `digest`: `identity.sop_digest` of its SOP Instance UIDs."""

    tenant: str
    study_uid: str
    digest: str

    @property
    def key(self) -> str:
        """The bus key: all events about a study have it, so they keep their order."""
        return f"{self.tenant}|{self.study_uid}"

    @property
    def pseudonym(self) -> str:
        """Stands for the study in logs and traces."""
        return pseudonym(self.tenant, self.study_uid)


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """What a DICOM object says about whose it is. PHI: never logged, never on the bus."""

    patient_id: str
    issuer: str
    birth_date: date | None
    sex: str
    """DICOM PatientSex: `M`, `F`, `O` or empty."""


@dataclass(frozen=True, eq=False)
class Study:
    """A complete study: its volume, the regions that came with it, and whose it is."""

    ref: StudyRef
    identity: PatientIdentity
    volume: Volume
    regions: tuple[Region, ...]
    """From incoming RTSTRUCT and SEG objects, on the volume's grid; empty where none came."""
    acquired: datetime | date | None
    """When, as far as DICOM says; aware where it gives a UTC offset, a date where it does not."""
    age_at_study: float | None = None
    """DICOM PatientAge in years, where given."""
    modality: str = "CT"
    """Of the volume."""


@dataclass(frozen=True, slots=True)
class RiskFactors:
    """What the record says that a risk model needs; None where it says nothing."""

    family_history_of_lung_cancer: bool | None = None
    emphysema: bool | None = None
    smoker: bool | None = None
    """Ever smoked."""
    known_cancer: bool | None = None
    immunosuppressed: bool | None = None
    spiculation: bool | None = None
    """As reported by a radiologist."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What the record says of one thing that a pathway declared to need."""

    name: str
    """As the pathway named the need."""
    reference: str
    """`Type/id` of the resource that says it."""
    value: float | str | None = None
    """A number in `unit`, a code, a text; None where the resource's being there is the answer."""
    unit: str = ""
    recorded: str = ""
    """FHIR dateTime at which it held."""


@dataclass(frozen=True, slots=True)
class Patient:
    """The one FHIR Patient that a study was resolved to. `reference` is `Patient/<id>`."""

    reference: str
    birth_date: date | None
    sex: str
    """FHIR administrative gender: `male`, `female`, `other`, `unknown` or empty."""
    factors: RiskFactors = RiskFactors()
    facts: tuple[Fact, ...] = ()
    """What the pathway that runs declared to need of the record."""

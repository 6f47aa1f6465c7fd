"""The lung nodule pathway: outline, size, radiomics, Brock risk, Fleischner recommendation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime

from auscult.domain import codes
from auscult.domain.deadline import Deadline
from auscult.domain.finding import (
    Card,
    Evaluation,
    Finding,
    Measurement,
    MeasurementGroup,
    ModelReference,
    Outline,
    Risk,
)
from auscult.domain.study import Patient, Study
from auscult.domain.volume import Region
from auscult.imaging.contours import outline
from auscult.pathways.lung_nodule import brock, card, comparison, fleischner, measure, regions
from auscult.pathways.lung_nodule.lungs import Lungs, find_lungs
from auscult.pathways.pathway import Found, Models, Needs
from auscult.pathways.radiomics import measured
from auscult.platform.errors import TellClinician
from auscult.radiomics.measure import MODELS
from auscult.radiomics.parameters import Parameters

RADIOMICS = Parameters(
    resegmentation=(-1000.0, 3000.0),
    bin_width=25.0,
    families=("morphology", "statistics", "histogram", "glcm"),
    aggregations=("3D_comb",),
)
"""The CT's own voxels from air to bone, in bins of 25 HU. A record is not a data set: four families of eleven."""
UPPER, LOWER = 0.55, 0.40
"""Heights between base (0) and apex (1) of the lungs above which a place is taken for the upper lobe and
below which it is not. The fissures are oblique: between them the lobe is not known without their outline."""
SIDES = {"left": codes.LEFT, "right": codes.RIGHT}
TYPES = {
    fleischner.Appearance.SOLID: codes.SOLID,
    fleischner.Appearance.PART_SOLID: codes.PART_SOLID,
    fleischner.Appearance.NONSOLID: codes.NONSOLID,
}
CATEGORIES = {fleischner.Risk.LOW: codes.LOW_RISK, fleischner.Risk.HIGH: codes.HIGH_RISK}
HIGH_RISK = 0.05
"""The guideline's high category is a risk of cancer of 5 % and more (MacMahon 2017, risk factors)."""


@dataclass(frozen=True)
class LungNodule:
    """Triggered by a chest CT; answers within its budget with findings and one card."""

    radiomics: Parameters = RADIOMICS

    name = "lung_nodule"
    version = "1"
    modality = "CT"
    needs = Needs(models=(regions.SEGMENTATION, *MODELS, brock.WITH_SPICULATION, brock.WITHOUT_SPICULATION))
    budget = 120.0

    def find(self, study: Study, patient: Patient, models: Models, deadline: Deadline) -> Found:
        """Outline the nodules, or take the outlines that came with the study, and describe each."""
        lungs = find_lungs(study.volume)
        nodules = regions.drawn(study)
        asked: tuple[ModelReference, ...] = ()
        if not nodules:
            nodules = regions.segmented(study, lungs, models, deadline)
            asked = (models.reference(regions.SEGMENTATION),)
        reading = _Reading(study, patient, lungs, len(nodules), models, deadline, self.radiomics)
        described = nodules[: regions.MOST]
        findings = tuple(reading.describe(number, region) for number, region in enumerate(described, start=1))
        return Found(findings, tuple(dict.fromkeys(reading.missing)), asked, described)

    def comparable(self, earlier: Study) -> None:
        """TellClinician where a study is not one to compare with."""
        comparison.comparable(earlier)

    def compare(self, found: Found, study: Study, earlier: Study, models: Models, deadline: Deadline) -> Found:
        """Return what was found with what changed since an earlier CT. TellClinician: why nothing can be said."""
        return comparison.compare(found, study, earlier, models, deadline)

    def measuring(self, radiomics: Parameters) -> LungNodule:
        """Return the pathway with other parameters of radiomics."""
        return replace(self, radiomics=radiomics)

    def card(self, found: Found) -> Card:
        """Return the card that the clinician reads."""
        return card.render(found)


@dataclass(frozen=True, eq=False)
class _Reading:
    """One study of one patient while it is read. `missing` gathers what could not be said."""

    study: Study
    patient: Patient
    lungs: Lungs | None
    count: int
    models: Models
    deadline: Deadline
    parameters: Parameters
    missing: list[str] = field(default_factory=list)

    def describe(self, number: int, region: Region) -> Finding:
        size = measure.size(region)
        density = measure.density(self.study.volume, region)
        notes: list[str] = []
        groups = [*_sizes(region, size)]
        risk = None
        try:
            groups += measured(self.study.volume, region, self.parameters, self.models, self.deadline)
            risk = self.risk(region, size, density, notes)
        except TellClinician as problem:
            self.missing.append(f"nodule {number} is described in part: {problem}")
        if density.solid_diameter is not None:
            notes.append(f"the solid part measures {density.solid_diameter:.1f} mm")
        factors = self.patient.factors
        age = age_at(self.study, self.patient)
        categories = _categories(risk, smoker=factors.smoker)
        advice = fleischner.recommend(
            appearance=density.appearance,
            mean_diameter=size.mean,
            multiple=self.count > 1,
            risks=categories,
            patient=fleischner.Applicability(age, factors.known_cancer, factors.immunosuppressed),
        )
        return Finding(
            label=f"nodule-{number}",
            kind=codes.NODULE,
            site=codes.LUNG,
            location=_location(region, self.lungs),
            appearance=density.appearance.value,
            outline=self.outline(region, size),
            groups=tuple(groups),
            risks=(risk,) if risk else (),
            recommendations=(advice,),
            notes=tuple(notes),
            laterality=SIDES[self.lungs.side(region.centroid)] if self.lungs else None,
            evaluations=_evaluations(density, categories),
            tracking_uid=region.source.tracking_uid,
        )

    def outline(self, region: Region, size: measure.Size) -> Outline:
        return Outline(
            sop_instance_uid=self.study.volume.sop_instance_uids[size.slice_index],
            series_uid=self.study.volume.series_uid,
            slice_index=size.slice_index,
            polygons=outline(region, size.slice_index),
            source_kind=region.source.kind,
            source_name=region.source.name,
            model=self.models.reference(region.source.name) if region.source.kind == "model" else None,
        )

    def risk(self, region: Region, size: measure.Size, density: measure.Density, notes: list[str]) -> Risk | None:
        """Return the Brock risk, or None and a note where the model is not for this nodule or patient."""
        age = age_at(self.study, self.patient)
        if age is None or not 0 < age <= brock.OLDEST:
            notes.append("the Brock risk needs the patient's age, which neither the record nor the images give")
            return None
        if size.mean > card.MASS:
            notes.append("the Brock model is for nodules of up to 30 mm, so no risk is computed")
            return None
        height = self.lungs.height(region.centroid) if self.lungs else None
        factors = self.patient.factors
        inputs = brock.Inputs(
            age=age,
            diameter=size.mean,
            appearance=density.appearance,
            nodule_count=self.count,
            female=_female(self.study, self.patient),
            family_history_lung_cancer=factors.family_history_of_lung_cancer,
            emphysema=factors.emphysema,
            upper_lobe=None if height is None or LOWER <= height <= UPPER else height > UPPER,
            spiculation=factors.spiculation,
        )
        return brock.assess(inputs, self.models, self.deadline)


def age_at(study: Study, patient: Patient) -> float | None:
    """Return the age in years at the study, from the record's birth date, else from DICOM PatientAge."""
    acquired = study.acquired.date() if isinstance(study.acquired, datetime) else study.acquired
    born: date | None = patient.birth_date or study.identity.birth_date
    if born and acquired:
        had_birthday = (acquired.month, acquired.day) >= (born.month, born.day)
        return float(acquired.year - born.year - (not had_birthday))
    return study.age_at_study


def _female(study: Study, patient: Patient) -> bool | None:
    for said, female, male in ((patient.sex, "female", "male"), (study.identity.sex, "F", "M")):
        if said in {female, male}:
            return said == female
    return None


def _categories(risk: Risk | None, *, smoker: bool | None) -> tuple[fleischner.Risk, ...]:
    """Return the guideline's risk categories that the patient may be in."""
    low, high = (risk.interval or (risk.probability, risk.probability)) if risk else (0.0, 1.0)
    if low >= HIGH_RISK or smoker:
        return (fleischner.Risk.HIGH,)
    if high < HIGH_RISK:
        return (fleischner.Risk.LOW,)
    return (fleischner.Risk.LOW, fleischner.Risk.HIGH)


def _evaluations(density: measure.Density, categories: tuple[fleischner.Risk, ...]) -> tuple[Evaluation, ...]:
    """Return the nodule's type, and its risk category where it is known which."""
    said = [Evaluation(codes.NODULE_TYPE, TYPES[density.appearance], measure.ALGORITHM)]
    if len(categories) == 1:
        said.append(Evaluation(codes.LESION_RISK, CATEGORIES[categories[0]], fleischner.GUIDELINE))
    return tuple(said)


def _sizes(region: Region, size: measure.Size) -> tuple[MeasurementGroup, ...]:
    longest = Measurement("longest-diameter", codes.LONGEST_DIAMETER, size.longest, "mm")
    across = Measurement("perpendicular-diameter", codes.OTHER_DIAMETER, size.perpendicular, "mm")
    mean = Measurement("mean-diameter", codes.DIAMETER, size.mean, "mm")
    volume = Measurement("volume", codes.VOLUME, region.volume, "mm3")
    algorithm = measure.ALGORITHM
    return (
        MeasurementGroup("size", codes.TUMOR_SIZE, algorithm, (longest, across)),
        MeasurementGroup("mean-diameter", codes.DIAMETER, algorithm, (mean,)),
        MeasurementGroup("volume", codes.VOLUME, algorithm, (volume,)),
    )


def _location(region: Region, lungs: Lungs | None) -> str:
    if lungs is None:
        return "chest"
    side = f"{lungs.side(region.centroid)} lung"
    height = lungs.height(region.centroid)
    if height is None:
        return side
    third = "upper" if height > 2 / 3 else "middle" if height > 1 / 3 else "lower"
    return f"{side}, {third} third"

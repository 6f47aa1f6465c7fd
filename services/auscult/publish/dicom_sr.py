"""Findings as a Comprehensive 3D SR (PS3.3, A.35.13) with TID 1500, Measurement Report (PS3.16; IHE AIR).

One measurement group per finding: what is tracked, category, type, site and side; the segment it was measured on,
with its source images; each number with its unit and the algorithm that gave it; qualitative evaluations. What
TID 1500 has no place for is text, as its extensible templates allow: comments, and the guideline's recommendation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import ExplicitVRLittleEndian

from auscult import __version__
from auscult.domain import codes
from auscult.domain.finding import Finding, Measurement, ModelReference, Risk
from auscult.imaging.own_results import MANUFACTURER
from auscult.publish.dicom_codes import coded, schemes, unit
from auscult.publish.dicom_modules import (
    IMPLEMENTATION,
    SERIES_NUMBER,
    Source,
    complete,
    derived_uid,
    nameless,
    source,
    text,
)
from auscult.publish.dicom_seg import ARTIFICIAL_INTELLIGENCE

NOT_VALIDATED = "Not validated for clinical use at this site."
COMMENT = sr.CodedConcept("121106", "DCM", "Comment")
MEAN = DicomCode("373098007", "SCT", "Mean")
PERCENT = 100.0

Group = sr.MeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
TEXT_LENGTH = 10_000
"""Characters of a text; settings are the longest."""
DIGITS = 6
"""Significant digits of a number; more are not reproducible."""


@dataclass(frozen=True)
class Reported:
    """A finding, and where it is: the number of its segment in the SEG, and the UID under which it is tracked.

    `observation_uid`: of the finding's measurement group, the same as that of its FHIR Observation.
    """

    finding: Finding
    segment_number: int | None
    tracking_uid: str
    observation_uid: str


def write_sr(
    reported: Sequence[Reported],
    slices: Sequence[Source],
    *,
    segmentation: Dataset | None,
    author: ModelReference,
    sop_instance_uid: str,
    series_uid: str,
    made: datetime,
    complete_result: bool = True,
    sought: codes.Code = codes.NODULE,
    comments: Sequence[str] = (),
    description: str = "Measurements",
) -> Dataset:
    """Return a report of `reported`; of none, it says that nothing was found, or by `comments` why nothing is said.

    `slices`: files or data sets of the CT series that was looked at. `segmentation`: the SEG that has the findings'
    segments. `author`: what put the report together, the observer of all. `complete_result`: False marks the report
    PARTIAL and PRELIMINARY. `sought`: what nothing was found of. Repeatable as `write_seg` is.
    """
    headers = [source(item) for item in slices]
    shown = _shown(headers, segmentation)
    groups = [_group(each, segmentation) for each in reported]
    nothing = _nothing(sought, author, sop_instance_uid, complete_result=complete_result)
    report = sr.MeasurementReport(
        observation_context=_observer(author),
        procedure_reported=_procedures(headers[0]),
        imaging_measurements=groups or [nothing],
        title=DicomCode("126000", "DCM", "Imaging Measurement Report"),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept("en-US", "RFC5646", "English (United States)")
        ),
        referenced_images=[nameless(header) for header in shown],
    )
    said = [*comments, *([] if author.clinical_use else [NOT_VALIDATED])]
    report[0].ContentSequence.extend(_texts(COMMENT, said))
    dataset: Dataset = sr.Comprehensive3DSR(
        evidence=[*(nameless(header) for header in headers), *([segmentation] if segmentation else [])],
        content=report,
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=complete_result,
        is_final=complete_result,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    # highdicom copies what it is given, and searches it for each number: hundreds of features come when it is done.
    for group, each in zip(groups, reported, strict=True):
        group[0].ContentSequence.extend(_said(each.finding))
    if private := schemes(dataset):
        dataset.CodingSchemeIdentificationSequence = private
    complete(
        dataset,
        headers[0],
        made=made,
        sop_instance_uid=sop_instance_uid,
        description=description,
        content_date="Content",
    )
    _within_character_set(dataset.ContentSequence, headers[0])
    return dataset


def _shown(headers: Sequence[Dataset], segmentation: Dataset | None) -> list[Dataset]:
    """Return the slices that the segments lie on, or else the middle one: the image library need not hold all."""
    if segmentation is None:
        return [headers[len(headers) // 2]]
    on = {
        image.ReferencedSOPInstanceUID
        for series in segmentation.ReferencedSeriesSequence
        for image in series.ReferencedInstanceSequence
    }
    return [header for header in headers if header.SOPInstanceUID in on]


def _observer(author: ModelReference) -> sr.ObservationContext:
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=sr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=derived_uid(IMPLEMENTATION, f"{author.name} {author.version}"),
                name=author.name,
                manufacturer_name=MANUFACTURER,
                model_name=f"{MANUFACTURER} {__version__}",
            ),
        )
    )


def _procedures(header: Dataset) -> list[sr.CodedConcept]:
    """Return the procedure as the study codes it, else by its modality."""
    given = [
        sr.CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
        for item in header.get("ProcedureCodeSequence") or ()
        if all(item.get(key) for key in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"))
        and str(item.CodeMeaning).isascii()
    ]
    return given or [coded(codes.COMPUTED_TOMOGRAPHY)]


def _group(each: Reported, segmentation: Dataset | None) -> Group:
    finding = each.finding
    said: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=each.tracking_uid, identifier=finding.label),
        "finding_category": coded(codes.ABNORMAL_STRUCTURE),
        "finding_type": coded(finding.kind),
        "finding_sites": [
            sr.FindingSite(coded(finding.site), laterality=coded(finding.laterality) if finding.laterality else None)
        ],
        "algorithm_id": _algorithm(finding.outline.model, ARTIFICIAL_INTELLIGENCE) if finding.outline.model else None,
    }
    group: Group
    if segmentation is None or each.segment_number is None:
        group = sr.MeasurementsAndQualitativeEvaluations(**said)
    else:
        segment = _segment(segmentation, each.segment_number)
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **said)
    group[0].ObservationUID = each.observation_uid
    return group


def _said(finding: Finding) -> Iterator[sr.ContentItem]:
    """Yield the numbers, the evaluations and the texts about a finding."""
    for group in finding.groups:
        algorithm = _algorithm(group.model)
        for measurement in group.measurements:
            if math.isfinite(measurement.value):
                yield from _measurement(measurement, algorithm, group.method)
    for risk in finding.risks:
        if math.isfinite(risk.probability):
            yield from _risk(risk)
    for evaluation in finding.evaluations:
        yield from sr.QualitativeEvaluation(coded(evaluation.name), coded(evaluation.value))
    notes = [
        f"{finding.appearance}, {finding.location}",
        *finding.notes,
        *_without_number(finding),
        *_settings(finding),
    ]
    yield from _texts(COMMENT, [*notes, *(_assumed(risk) for risk in finding.risks if risk.assumed)])
    yield from _texts(coded(codes.RECOMMENDATION), [advice.text for advice in finding.recommendations])


def _segment(segmentation: Dataset, number: int) -> sr.ReferencedSegment:
    """Refer to a segment, and to the images from which its frames were derived."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    images = {}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        identification = frame.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        if identification is None or identification[0].ReferencedSegmentNumber == number:  # a LABELMAP has none
            for image in frame.DerivationImageSequence[0].SourceImageSequence:
                images[image.ReferencedSOPInstanceUID] = image.ReferencedSOPClassUID
    return sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_images=[sr.SourceImageForSegmentation(sop_class, uid) for uid, sop_class in images.items()],
    )


def _measurement(
    measurement: Measurement, algorithm: sr.AlgorithmIdentification, method: codes.Code | None
) -> sr.Measurement:
    return sr.Measurement(
        name=coded(measurement.code),
        value=_number(measurement.value),
        unit=unit(measurement.unit),
        algorithm_id=algorithm,
        method=coded(method) if method else None,
        derivation=MEAN if measurement.name == "mean-diameter" else None,
        properties=_range(measurement.value, measurement.interval, measurement.unit),
    )


def _risk(risk: Risk) -> sr.Measurement:
    return sr.Measurement(
        name=coded(risk.code),
        value=_number(risk.probability * PERCENT),
        unit=unit("%"),
        algorithm_id=_algorithm(risk.model),
        properties=_range(risk.probability, risk.interval, "%"),
    )


def _without_number(finding: Finding) -> list[str]:
    """Name what was measured and has no number. TID 300 has an empty NUM for it, which highdicom does not read."""
    absent = [m.code.display for group in finding.groups for m in group.measurements if not math.isfinite(m.value)]
    absent += [code.display for group in finding.groups for code in group.without_value]
    absent += [risk.code.display for risk in finding.risks if not math.isfinite(risk.probability)]
    return [f"No value: {', '.join(absent)}."] if absent else []


def _settings(finding: Finding) -> list[str]:
    """Say with what settings was measured, once for each model: a number's own parameters would repeat them."""
    told = {(g.model.name, g.model.version, g.settings): None for g in finding.groups if g.settings}
    return [f"Settings of {name} {version}: {settings}" for name, version, settings in told]


def _range(value: float, interval: tuple[float, float] | None, ucum: str) -> sr.MeasurementProperties | None:
    """Return how far the value may lie above and below (TID 310), in its own unit; percentages from fractions."""
    if interval is None or not all(map(math.isfinite, (value, *interval))):
        return None
    low, high = interval
    scale = PERCENT if ucum == "%" else 1.0
    properties = sr.MeasurementProperties(
        upper_measurement_uncertainty=_number((high - value) * scale),
        lower_measurement_uncertainty=_number((value - low) * scale),
    )
    for item in properties:
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [unit(ucum)]
    return properties


def _algorithm(model: ModelReference, family: DicomCode | None = None) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(name=model.name, version=model.version, family=family)


def _nothing(
    sought: codes.Code, author: ModelReference, sop_instance_uid: str, *, complete_result: bool
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the group of a report without findings: looked for and absent, or not determined."""
    presence = ("121054", "Absent") if complete_result else ("121059", "Presence Undetermined")
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derived_uid(sop_instance_uid, "nothing"), identifier="No finding"
        ),
        finding_category=coded(codes.ABNORMAL_STRUCTURE),
        finding_type=coded(sought),
        algorithm_id=_algorithm(author),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                DicomCode("121052", "DCM", "Presence of property"), DicomCode(presence[0], "DCM", presence[1])
            )
        ],
    )


def _assumed(risk: Risk) -> str:
    return f"{risk.model.name}: not known, assumed absent: {', '.join(risk.assumed)}."


def _texts(name: sr.CodedConcept, said: Sequence[str]) -> list[sr.TextContentItem]:
    return [
        sr.TextContentItem(name=name, value=each, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        for each in said
        if each
    ]


def _number(value: float) -> float:
    """Return `value` so that it fits the 16 characters of a DS."""
    return float(f"{value:.{DIGITS}g}")


def _within_character_set(content: Sequence[Dataset], header: Dataset) -> None:
    for item in content:
        if "TextValue" in item:
            item.TextValue = text(item.TextValue, header, most=TEXT_LENGTH)
        _within_character_set(item.get("ContentSequence") or (), header)

"""Findings as a Comprehensive 3D SR (PS3.3, A.35.13) with TID 1500, Measurement Report (PS3.16; IHE AIR).

One measurement group per finding: what is tracked, category, type, site and side; the segment it was measured on,
with its source images; each number with its unit and the algorithm that gave it; qualitative evaluations. What
TID 1500 has no place for is text, as its extensible templates allow: comments, and the guideline's recommendation.
"""

from __future__ import annotations

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
from auscult.domain.finding import Finding, ModelReference
from auscult.imaging.own_results import MANUFACTURER
from auscult.publish.dicom_codes import coded
from auscult.publish.dicom_measurements import COMMENT, algorithm, statements, texts
from auscult.publish.dicom_modules import (
    IMPLEMENTATION,
    SERIES_NUMBER,
    complete,
    derived_uid,
    nameless,
    text,
)
from auscult.publish.dicom_seg import ARTIFICIAL_INTELLIGENCE
from auscult.publish.sources import Source, Twins, headers

NOT_VALIDATED = "Not validated for clinical use at this site."
TEXT_LENGTH = 10_000
"""Characters of a text; settings are the longest."""

PROCEDURES = {
    "CT": codes.COMPUTED_TOMOGRAPHY,
    "MR": codes.MAGNETIC_RESONANCE_IMAGING,
    "PT": codes.POSITRON_EMISSION_TOMOGRAPHY,
}
"""By the modality of the images."""

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
    found = headers(slices)
    shown = Twins.of([nameless(header) for header in _shown(found, segmentation)])
    groups = [_group(each, segmentation) for each in reported]
    nothing = _nothing(sought, author, sop_instance_uid, complete_result=complete_result)
    report = sr.MeasurementReport(
        observation_context=_observer(author),
        procedure_reported=_procedures(found[0]),
        imaging_measurements=groups or [nothing],
        title=DicomCode("126000", "DCM", "Imaging Measurement Report"),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept("en-US", "RFC5646", "English (United States)")
        ),
        referenced_images=shown.slices,
    )
    said = [*comments, *([] if author.clinical_use else [NOT_VALIDATED])]
    report[0].ContentSequence.extend(texts(COMMENT, said))
    dataset: Dataset = sr.Comprehensive3DSR(
        evidence=[*(nameless(header) for header in found), *shown.slices, *([segmentation] if segmentation else [])],
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
    shown.resolve(dataset)
    # highdicom copies what it is given, and searches it for each number: hundreds of features come when it is done.
    for group, each in zip(groups, reported, strict=True):
        group[0].ContentSequence.extend(statements(each.finding))
    complete(
        dataset,
        found[0],
        made=made,
        sop_instance_uid=sop_instance_uid,
        description=description,
        content_date="Content",
    )
    _within_character_set(dataset.ContentSequence, found[0])
    return dataset


def _shown(found: Sequence[Dataset], segmentation: Dataset | None) -> list[Dataset]:
    """Return the slices that the segments lie on, or else the middle one: the image library need not hold all."""
    on = set(_derived_from(segmentation)) if segmentation else set()
    return [each for each in found if _place(each) in on] or [found[len(found) // 2]]


Place = tuple[str, str, int]
"""SOP class, instance and frame, which is 0 where there are none."""


def _place(header: Dataset) -> Place:
    return header.SOPClassUID, header.SOPInstanceUID, header.get("ReferencedFrameNumber", 0)


def _derived_from(segmentation: Dataset, number: int | None = None) -> Iterator[Place]:
    """Yield the images from which the frames of a segment, or of all, were derived."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        identification = frame.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        # A LABELMAP has none.
        if number is None or identification is None or identification[0].ReferencedSegmentNumber == number:
            for derivation in frame.get("DerivationImageSequence") or ():
                for image in derivation.SourceImageSequence:
                    numbers = image.get("ReferencedFrameNumber", 0)
                    yield image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID, numbers


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
    return given or [coded(PROCEDURES[header.Modality])]


def _group(each: Reported, segmentation: Dataset | None) -> Group:
    finding = each.finding
    said: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=each.tracking_uid, identifier=finding.label),
        "finding_category": coded(codes.ABNORMAL_STRUCTURE),
        "finding_type": coded(finding.kind),
        "finding_sites": [
            sr.FindingSite(coded(finding.site), laterality=coded(finding.laterality) if finding.laterality else None)
        ],
        "algorithm_id": algorithm(finding.outline.model, ARTIFICIAL_INTELLIGENCE) if finding.outline.model else None,
    }
    group: Group
    if segmentation is None or each.segment_number is None:
        group = sr.MeasurementsAndQualitativeEvaluations(**said)
    else:
        segment = _segment(segmentation, each.segment_number)
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **said)
    group[0].ObservationUID = each.observation_uid
    return group


def _segment(segmentation: Dataset, number: int) -> sr.ReferencedSegment:
    """Refer to a segment, and to the images from which its frames were derived."""
    images: dict[tuple[str, str], list[int]] = {}
    for sop_class, uid, frame in dict.fromkeys(_derived_from(segmentation, number)):
        images.setdefault((sop_class, uid), []).extend([frame] if frame else [])
    return sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_images=[
            sr.SourceImageForSegmentation(sop_class, uid, frames or None)
            for (sop_class, uid), frames in images.items()
        ]
        or None,
        # Of a segment on a resampled grid, whose frames lie between slices.
        source_series=None
        if images
        else sr.SourceSeriesForSegmentation(segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID),
    )


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
        algorithm_id=algorithm(author),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                DicomCode("121052", "DCM", "Presence of property"), DicomCode(presence[0], "DCM", presence[1])
            )
        ],
    )


def _within_character_set(content: Sequence[Dataset], header: Dataset) -> None:
    for item in content:
        if "TextValue" in item:
            item.TextValue = text(item.TextValue, header, most=TEXT_LENGTH)
        _within_character_set(item.get("ContentSequence") or (), header)

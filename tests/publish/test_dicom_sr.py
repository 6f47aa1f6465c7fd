"""The report says what was found, where, how large, by whom, and refers to what it was measured on."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import date
from io import BytesIO
from typing import Any

import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain import codes
from auscult.domain.finding import Measurement, MeasurementGroup
from auscult.domain.identity import dicom_uid
from auscult.pathways.lung_nodule.growth import Change, Sizes
from auscult.publish.fhir.resources import pathway_model, transaction
from auscult.publish.pacs.objects import ResultObjects
from dicom_factory import encode
from fhir_samples import MEASURES

pytestmark = pytest.mark.golden


def made(read: Any, *kinds: str, **changes: Any) -> dict[str, Dataset]:
    """Return the objects of a result by modality, as they come back from a file."""
    result = replace(read.result, **changes)
    objects = ResultObjects(result, read.regions[: len(result.findings)], read.slices, kinds)
    datasets = [dcmread(BytesIO(encode(dataset))) for dataset in objects.datasets()]
    assert tuple(dataset.SOPInstanceUID for dataset in datasets) == objects.uids()
    return {dataset.Modality: dataset for dataset in datasets}


def report(dataset: Dataset) -> Any:
    """Return the report as highdicom reads it."""
    return Comprehensive3DSR.from_dataset(dataset).content


@pytest.fixture(scope="module")
def written(read: Any) -> dict[str, Dataset]:
    """Write a SEG and its report."""
    return made(read, "seg", "sr")


def test_a_finding_is_a_measurement_group(read: Any, written: dict[str, Dataset]) -> None:
    """Category, type, site and side, tracked under the segment's own id, on the segment and its source images."""
    group, other = report(written["SR"]).get_volumetric_roi_measurement_groups()
    segment = written["SEG"].SegmentSequence[0]
    assert (group.tracking_identifier, group.tracking_uid) == (segment.TrackingID, segment.TrackingUID)
    assert group.finding_category.value == codes.ABNORMAL_STRUCTURE.code
    assert group.finding_type.value == codes.NODULE.code
    (site,) = group.finding_sites
    assert (site.value.value, site.laterality.value) == (codes.LUNG.code, codes.RIGHT.code)
    reference = group.referenced_segment
    assert reference.referenced_sop_instance_uid == written["SEG"].SOPInstanceUID
    assert reference.referenced_segment_numbers == [1]
    images = group[0].ContentSequence
    sources = [item for item in images if item.ValueType == "IMAGE" and item.name.value == "121233"]
    assert {item.referenced_sop_instance_uid for item in sources} == {s.SOPInstanceUID for s in read.slices[3:7]}
    assert other.tracking_uid == written["SEG"].SegmentSequence[1].TrackingUID != group.tracking_uid


def test_each_number_has_its_code_unit_and_algorithm(written: dict[str, Dataset]) -> None:
    """Diameters have CID 7470's codes, radiomics IBSI's; the risk is a percentage with its range."""
    group, _ = report(written["SR"]).get_volumetric_roi_measurement_groups()
    numbers = {(m.name.scheme_designator, m.name.value): m for m in group.get_measurements()}
    longest = numbers["SCT", "103339001"]
    assert (longest.value, longest.unit.value) == (8.42312, "mm")
    assert numbers["SCT", "131189007"].value == 6.1
    assert numbers["SCT", "118565006"].unit.value == "mm3"
    assert sum(scheme == "IBSI" for scheme, _ in numbers) == 3
    risk = numbers["DCM", "111047"]
    assert (risk.value, risk.unit.value) == (4.12345, "%")
    said = {item.name.value: item for item in risk[0].ContentSequence}
    assert said["111001"].value == "brock_full"
    upper = said["371886008"].MeasuredValueSequence[0]
    assert float(upper.NumericValue) == pytest.approx(5.0)
    assert upper.MeasurementUnitsCodeSequence[0].CodeValue == "%"


def test_what_has_no_number_is_text_or_code(written: dict[str, Dataset]) -> None:
    """Type and risk category are evaluations; private codes say whose they are; advice and notes are text."""
    group, _ = report(written["SR"]).get_volumetric_roi_measurement_groups()
    said = {(e.name.value, e.value.value): e for e in group.get_qualitative_evaluations()}
    assert ("nodule-type", "solid") in said
    assert ("121153", "723505004") in said
    (scheme,) = written["SR"].CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99AUSCULT"
    texts = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert "CT at 6-12 months." in texts
    assert "the solid part measures 3.0 mm" in texts
    assert any("assumed absent: emphysema" in text for text in texts)


def test_report_and_record_share_their_identity(read: Any, written: dict[str, Dataset]) -> None:
    """The SR and its groups have the UUIDs of the Observations that say the same."""
    model = pathway_model(read.result)
    assert written["SR"].SOPInstanceUID == dicom_uid(read.result.identity(model, "assessment"))
    ids = {dicom_uid(uuid.UUID(entry["resource"]["id"])) for entry in transaction(read.result)["entry"]}
    groups = report(written["SR"]).get_volumetric_roi_measurement_groups()
    assert {written["SR"].SOPInstanceUID, *(group[0].ObservationUID for group in groups)} <= ids


def test_the_observer_is_a_device_and_the_images_are_listed(read: Any, written: dict[str, Dataset]) -> None:
    """Observer, language and procedure are there; evidence is the whole series and the SEG."""
    content = report(written["SR"])
    (observer,) = content.get_observer_contexts()
    assert observer.observer_identifying_attributes.name == "lung_nodule"
    evidence = [
        instance.ReferencedSOPInstanceUID
        for series in written["SR"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert set(evidence) >= {written["SEG"].SOPInstanceUID, *(s.SOPInstanceUID for s in read.slices[3:7])}
    assert (written["SR"].CompletionFlag, written["SR"].PreliminaryFlag) == ("COMPLETE", "FINAL")


def test_no_finding_is_said_to_be_absent_or_not_determined(read: Any) -> None:
    """A complete run without findings says Absent; a degraded one is partial, says why, and has a UID of its own."""
    final = made(read, "seg", "sr", findings=())
    assert list(final) == ["SR"]
    degraded = made(read, "sr", findings=(), status="degraded", reasons=("the model did not answer",))["SR"]
    assert degraded.SOPInstanceUID != final["SR"].SOPInstanceUID
    assert (degraded.CompletionFlag, degraded.PreliminaryFlag) == ("PARTIAL", "PRELIMINARY")
    for dataset, presence in ((final["SR"], "121054"), (degraded, "121059")):
        (group,) = report(dataset).get_image_measurement_groups()
        said = {(e.name.value, e.value.value) for e in group.get_qualitative_evaluations()}
        assert ("121052", presence) in said
    assert "the model did not answer" in [item.get("TextValue") for item in degraded.ContentSequence]


def test_a_number_that_is_none_is_said_to_be_none(read: Any) -> None:
    """NaN is no measurement, and does not go unsaid."""
    nothing = MeasurementGroup(
        "volume", codes.VOLUME, MEASURES, (Measurement("volume", codes.VOLUME, float("nan"), "mm3"),)
    )
    findings = tuple(replace(each, groups=(nothing,), risks=()) for each in read.result.findings)
    group, _ = report(made(read, "seg", "sr", findings=findings)["SR"]).get_volumetric_roi_measurement_groups()
    assert group.get_measurements() == []
    assert "No value: Volume." in [item.get("TextValue") for item in group[0].ContentSequence]


def test_what_a_shadow_model_said_is_not_written(read: Any) -> None:
    """It is shown to nobody, in the PACS neither."""
    shadow = replace(MEASURES, stage="shadow")
    findings = tuple(
        replace(each, groups=tuple(replace(group, model=shadow) for group in each.groups))
        for each in read.result.findings
    )
    group, _ = report(made(read, "seg", "sr", findings=findings)["SR"]).get_volumetric_roi_measurement_groups()
    assert [m.name.value for m in group.get_measurements()] == ["111047"]


def test_the_same_result_is_the_same_bytes(read: Any) -> None:
    """Neither the clock nor chance leaves a trace in any kind of object."""
    kinds = ("seg", "sr", "rtstruct", "capture")
    once, again = (
        [encode(dataset) for dataset in ResultObjects(read.result, read.regions, read.slices, kinds).datasets()]
        for _ in range(2)
    )
    assert once == again


def test_a_change_is_measured_too(read: Any) -> None:
    """With its own codes, units and algorithm; the text says with which study it was compared."""
    change = Change(Sizes(5, 5, 100), Sizes(6, 6, 200), date(2026, 1, 1), 59, "1.2.9")
    first, *others = read.result.findings
    grown = replace(first, groups=(change.group(),), evaluations=(change.evaluation(),))
    group, _ = report(
        made(read, "seg", "sr", findings=(grown, *others))["SR"]
    ).get_volumetric_roi_measurement_groups()
    numbers = {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}
    assert numbers["volume-doubling-time"] == (59.0, "d")
    assert numbers["volume-change"] == (100.0, "%")
    judged = [(each.name.value, each.value.value) for each in group.get_qualitative_evaluations()]
    assert ("growth", "grown") in judged
    said = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert "Compared with the study 1.2.9." in said

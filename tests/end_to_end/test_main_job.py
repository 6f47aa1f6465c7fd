"""A study goes in, a card comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from auscult.entrypoints.demo.study import write_phantom
from auscult.entrypoints.timeline import budget
from auscult.imaging.phantom.nodule import NoduleTruth
from product import Product

REAL_CT = Path(__file__).resolve().parents[3] / "shared/data/lung_ct_with_gtv"
HOPS = {
    "receive study",
    "assemble study",
    "consume auscult.studies",
    "load study",
    "resolve patient",
    "pathway lung_nodule",
    "infer radiomics_region",
    "infer radiomics_texture",
    "ModelInfer",
    "onnxruntime run",
    "publish result",
    "FHIR POST transaction",
    "publish auscult.findings",
    "card store update",
    "hook patient-view",
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NoduleTruth]:
    """Return a phantom's folder, its SEG in it, and the nodule's truth."""
    folder = tmp_path_factory.mktemp("phantom")
    return folder, write_phantom(folder, seed=1, seg=True)


def value(product: Product, patient: str, code: str) -> float:
    """Return the one quantity with `code` in the patient's record, be it an Observation or a component."""
    found = [
        part["valueQuantity"]["value"]
        for observation in product.observations(patient)
        for part in [observation, *observation.get("component", [])]
        if "valueQuantity" in part and code in {coding["code"] for coding in part["code"].get("coding", [])}
    ]
    assert len(found) == 1
    return float(found[0])


def test_the_card_names_the_nodule_and_its_size(product: Product, phantom: tuple[Path, NoduleTruth]) -> None:
    """With the phantom's own SEG the size is that of the truth within 1 mm, in the card and in the record."""
    folder, truth = phantom
    files = sorted(folder.rglob("*.dcm"))
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    product.register("phantom", header.PatientID)
    assert {answer.status for answer in product.send(files)} == {0}
    outcome = product.outcome(header.StudyInstanceUID)
    assert outcome.status == "published"
    assert value(product, "phantom", "33728-7") == pytest.approx(truth.diameter_mm, abs=1)
    card = product.card("phantom")
    assert f"{value(product, 'phantom', '81827009'):.1f} mm" in card["summary"]
    assert "malignancy risk" in card["summary"]
    assert "**Fleischner 2017**" in card["detail"]
    assert "not for clinical use" in card["detail"]
    assert {"Observation", "RiskAssessment", "Provenance"} == {
        place.split("/")[0] for place in product.resources("phantom")
    }


def test_one_trace_has_every_hop(product: Product, phantom: tuple[Path, NoduleTruth]) -> None:
    """From the association to the answered hook, over bus, gRPC and HTTP, all spans are of one trace."""
    folder, _ = phantom
    study = pydicom.dcmread(next(folder.rglob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
    traceparent = product.traceparent(study)
    product.cards("phantom", traceparent=traceparent)
    records = product.trace(traceparent)
    assert {record.name for record in records} >= HOPS
    assert {record.service for record in records} >= {"listen", "pathways", "inference", "cds-hooks"}
    known = {record.span for record in records}
    roots = [record.name for record in records if record.parent not in known]
    assert roots == ["receive study"]
    spent = budget(records)
    assert spent is not None
    assert 0 < spent.models < spent.total


def test_a_study_sent_again_changes_nothing(product: Product, phantom: tuple[Path, NoduleTruth]) -> None:
    """Sent three times, the record has the same resources in the same versions."""
    folder, _ = phantom
    files = sorted(folder.rglob("*.dcm"))
    study = pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    told = len(product.outcomes(study))
    assert told >= 1
    before = product.resources("phantom")
    for again in range(2):
        product.send(files)
        assert product.outcome(study, after=told + again).status == "published"
    assert product.resources("phantom") == before
    assert len(product.cards("phantom")) == 1


@pytest.mark.golden
def test_without_an_outline_the_model_makes_one(product: Product, tmp_path: Path) -> None:
    """The segmentation model outlines the nodule where nobody did, and the card says that it was the model."""
    truth = write_phantom(tmp_path, seed=2, seg=False)
    files = sorted(tmp_path.rglob("*.dcm"))
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    product.register("automatic", header.PatientID)
    product.send(files)
    assert product.outcome(header.StudyInstanceUID).status == "published"
    result = product.result(header.StudyInstanceUID)
    longest = [m.value for m in result.findings[0].groups[0].measurements if m.name == "longest-diameter"]
    assert longest == [pytest.approx(truth.diameter_mm, abs=1.5)]
    assert {finding.outline.source_kind for finding in result.findings} == {"model"}
    assert "lung_nodule_seg" in product.card("automatic")["detail"]


def shoelace_volume(structure_set: Path, slice_spacing: float) -> float:
    """Return the volume in mm3 enclosed by the contours of the first structure: area times slice distance."""
    area = 0.0
    for contour in pydicom.dcmread(structure_set).ROIContourSequence[0].ContourSequence:
        x, y, _ = np.array(contour.ContourData, dtype=float).reshape(-1, 3).T
        area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return area * slice_spacing


def test_a_real_tumour_is_measured(product: Product) -> None:
    """The real CT gives the volume that its contours enclose within 2 %, diameters, radiomics and a card."""
    if not REAL_CT.exists():
        pytest.skip("the real chest CT with its tumour contour is not here")
    files = sorted(REAL_CT.rglob("*.dcm"))
    images = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    product.register("real", images[0].PatientID)
    product.send(files)
    assert product.outcome(images[0].StudyInstanceUID).status == "published"
    enclosed = shoelace_volume(next(path for path in files if "RS" in path.name), 3.0)
    assert value(product, "real", "118565006") == pytest.approx(enclosed, rel=0.02)
    result = product.result(images[0].StudyInstanceUID)
    assert len(result.findings) == 1
    assert result.findings[0].outline.source_name == "GTV-1"
    assert {"size", "volume", "radiomics/morph", "radiomics/cm/3D_comb"} <= {
        group.name for group in result.findings[0].groups
    }
    assert "mm" in product.card("real")["summary"]

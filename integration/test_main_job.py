"""The main job on real servers: PACS to record to card, and nothing lost or doubled when a part dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from hospital import Hospital

from auscult.bus import topics
from auscult.domain.identity import sop_digest
from auscult.entrypoints.demo.processes import environment
from auscult.entrypoints.demo.study import write_phantom
from product import eventually

HERE = Path(__file__).parent


@pytest.fixture
def phantom(tmp_path: Path, request: pytest.FixtureRequest, hospital: Hospital) -> tuple[list[Path], str, str]:
    """Return the files of a phantom with its SEG, its study, and its patient's id in the record."""
    seed = request.param
    write_phantom(tmp_path, seed=seed, seg=True)
    files = sorted(tmp_path.rglob("*.dcm"))
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    patient = f"phantom-{seed}"
    hospital.product.register(patient, header.PatientID)
    return files, header.StudyInstanceUID, patient


@pytest.mark.parametrize("phantom", [11], indirect=True)
def test_the_pacs_forwards_and_the_record_holds_the_result(
    hospital: Hospital, phantom: tuple[list[Path], str, str]
) -> None:
    """Orthanc forwards the study, HAPI holds the result, the hook answers with the card; again changes nothing."""
    files, study, patient = phantom
    hospital.archive(files)
    assert hospital.product.outcome(study).status == "published"
    written = hospital.product.resources(patient)
    assert {"Observation", "RiskAssessment", "Provenance"} == {place.split("/")[0] for place in written}
    assert "malignancy risk" in hospital.product.card(patient)["summary"]
    for told in (1, 2):
        hospital.product.send(files)
        assert hospital.product.outcome(study, after=told).status == "published"
    assert hospital.product.resources(patient) == written
    assert len(hospital.product.cards(patient)) == 1


@pytest.mark.parametrize("phantom", [12], indirect=True)
def test_a_worker_killed_between_write_and_commit_leaves_one_result(
    hospital: Hospital, phantom: tuple[list[Path], str, str]
) -> None:
    """Its successor gets the event again, finds the result in the record, announces it, and commits."""
    files, study, patient = phantom
    hospital.services.processes["pathways"].stop()
    dying = subprocess.Popen(
        [sys.executable, str(HERE / "worker_that_dies.py"), "record"], env=environment(hospital.product.settings)
    )
    hospital.product.send(files)
    assert dying.wait(120) == -9
    written = hospital.product.resources(patient)
    assert written, "the worker died before it wrote"
    assert hospital.product.outcomes(study) == []
    assert ["being analysed" in card["summary"] for card in hospital.product.cards(patient)] == [True]
    hospital.services.start("pathways")
    assert hospital.product.outcome(study).status == "published"
    assert hospital.product.resources(patient) == written
    assert "malignancy risk" in hospital.product.card(patient)["summary"]
    assert len(hospital.product.cards(patient)) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("phantom", [13], indirect=True)
def test_the_broker_dies_halfway_and_nothing_is_lost(
    hospital: Hospital, phantom: tuple[list[Path], str, str]
) -> None:
    """Instances that were answered with success stay; refused ones are sent again, and one result is made."""
    files, study, patient = phantom
    half = len(files) // 2
    assert {answer.status for answer in hospital.product.send(files[:half])} == {0}
    hospital.broker.kill()
    refused = hospital.product.send(files[half : half + 1])
    assert [answer.status == 0 for answer in refused] == [False]
    hospital.broker.start()
    eventually(
        lambda: {answer.status for answer in hospital.product.send(files[half:])} == {0} or None,
        "the rest to be accepted",
    )
    # The first half alone may be judged, and computed, before the rest comes; the whole study takes its place.
    whole = sop_digest(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files)
    eventually(
        lambda: whole in {result.study.digest for result in hospital.product.results(study)} or None,
        "a result of the whole study",
    )
    eventually(lambda: len(hospital.product.cards(patient)) == 1 or None, "its one card")
    assert hospital.product.parked(topics.DEAD_LETTERS) == 0

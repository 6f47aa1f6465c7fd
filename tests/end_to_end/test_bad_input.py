"""Bad input has a named outcome that an operator sees, and no result."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from auscult.bus import topics
from auscult.entrypoints.demo.study import dicom_files
from dicom_factory import JANE, Person, ct_series, encode, structure_set
from product import Product

pytestmark = pytest.mark.golden


def written(folder: Path, datasets: list[Dataset]) -> list[Path]:
    """Write each data set to a file."""
    paths = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:03d}.dcm"
        path.write_bytes(encode(dataset))
        paths.append(path)
    return paths


def test_a_file_that_is_not_dicom_is_named_and_not_sent(tmp_path: Path) -> None:
    """The demo's sender tells a file that is no DICOM from the others."""
    (tmp_path / "notes.txt").write_text("not DICOM")
    good = written(tmp_path, [ct_series()[0]])
    files, bad = dicom_files(tmp_path)
    assert files == good
    assert [(report.path.name, report.status) for report in bad] == [("notes.txt", None)]


def test_a_truncated_image_is_refused(product: Product, tmp_path: Path) -> None:
    """An image with fewer pixels than it says is refused with a DICOM status, and the refusal is on record."""
    series = ct_series()
    series[3].PixelData = series[3].PixelData[:100]
    answers = product.send(written(tmp_path, series))
    assert [answer.status == 0 for answer in answers].count(False) == 1
    refused = [outcome for outcome in product.outcomes() if outcome.status == "refused"]
    assert "truncated" in {outcome.reason for outcome in refused}


def test_a_missing_slice_is_incomplete(product: Product, tmp_path: Path) -> None:
    """A gap in the series is told to the operator, and nothing is computed."""
    series = ct_series(patient=Person(patient_id="GAP"))
    product.send(written(tmp_path, series[:5] + series[6:]))
    outcome = product.outcome(series[0].StudyInstanceUID)
    assert (outcome.status, outcome.reason) == ("incomplete", "missing-slices")


def test_a_duplicated_slice_is_not_computed(product: Product, tmp_path: Path) -> None:
    """Two different instances at one position make the series ambiguous."""
    series = ct_series(patient=Person(patient_id="DOUBLE"))
    double = ct_series(patient=Person(patient_id="DOUBLE"))[4]
    double.StudyInstanceUID, double.SeriesInstanceUID = series[0].StudyInstanceUID, series[0].SeriesInstanceUID
    double.FrameOfReferenceUID = series[0].FrameOfReferenceUID
    product.send(written(tmp_path, [*series, double]))
    outcome = product.outcome(series[0].StudyInstanceUID)
    assert (outcome.status, outcome.reason) == ("incomplete", "duplicated-slices")


def test_two_patients_in_one_study_are_quarantined(product: Product, tmp_path: Path) -> None:
    """Whose study it is is in doubt, so it is parked apart."""
    before = product.parked(topics.QUARANTINE)
    series = ct_series(patient=Person(patient_id="ONE"))
    for dataset in series[:4]:
        dataset.PatientID = "OTHER"
    product.send(written(tmp_path, series))
    outcome = product.outcome(series[0].StudyInstanceUID)
    assert (outcome.status, outcome.reason) == ("quarantined", "two-patients")
    assert product.parked(topics.QUARANTINE) == before + 1


def test_an_unknown_patient_is_quarantined(product: Product, tmp_path: Path) -> None:
    """Without a Patient in the record there is nobody to write about."""
    series = ct_series(patient=Person(patient_id="NOBODY"))
    product.send(written(tmp_path, series))
    outcome = product.outcome(series[0].StudyInstanceUID)
    assert (outcome.status, outcome.reason) == ("quarantined", "unknown-patient")


def test_a_structure_set_of_another_series_is_dead_lettered(product: Product, tmp_path: Path) -> None:
    """Contours that were drawn on other images are not put on these."""
    series = ct_series(patient=Person(patient_id="OTHERSERIES"))
    product.register("otherseries", "OTHERSERIES")
    foreign = structure_set(
        series,
        {"GTV": [[(-10.0, -20.0, 44.0), (0.0, -20.0, 44.0), (0.0, -10.0, 44.0)]]},
        series_uid=generate_uid(),
        patient=Person(patient_id="OTHERSERIES"),
    )
    product.send(written(tmp_path, [*series, foreign]))
    outcome = product.outcome(series[0].StudyInstanceUID)
    assert (outcome.status, outcome.reason) == ("dead-lettered", "rtstruct-other-series")
    assert product.cards("otherseries") == []


def test_no_identifier_reaches_a_log_or_trace(product: Product, tmp_path: Path) -> None:
    """Names, patient ids, birth dates and UIDs are in no log line, span or outcome."""
    series = ct_series(patient=JANE)
    product.send(written(tmp_path, series))
    product.outcome(series[0].StudyInstanceUID)
    home = product.settings.home
    said = "".join(path.read_text() for folder in ("logs", "traces") for path in (home / folder).iterdir())
    said += "".join(outcome.detail for outcome in product.outcomes())
    secrets = [JANE.name, "Doe", JANE.birth_date, "1960-02-03", series[0].StudyInstanceUID, series[3].SOPInstanceUID]
    assert [secret for secret in secrets if secret in said] == []

"""A patient's images are erased, or those that are too old, and each erasure is on record without a name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from auscult.domain.identity import pseudonym
from auscult.entrypoints.cli import main
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from dicom_factory import Person, ct_series, encode


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home that the command reads."""
    monkeypatch.setenv("AUSCULT_HOME", str(tmp_path))
    return tmp_path


def stored(home: Path, patient: Person) -> str:
    """Store a study of a patient and return its UID."""
    store = ImageStore(home / "images", min_free_bytes=0)
    for dataset in ct_series((3, 4, 4), patient=patient):
        data = encode(dataset)
        store.put("default", InstanceHeader.read(data), data)
    return str(dataset.StudyInstanceUID)


def run(*arguments: str) -> Result:
    """Run `auscult images` and return what it said."""
    result = CliRunner().invoke(main, ["images", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_a_patients_studies_are_erased_and_no_others(home: Path) -> None:
    """By PatientID and issuer; the record has the study's pseudonym and who did it."""
    mine, other = stored(home, Person("A-1", "HERE")), stored(home, Person("A-1", "THERE"))
    assert "would be" in run("erase", "--patient-id", "A-1", "--issuer", "HERE", "--dry-run").output
    store = ImageStore(home / "images", min_free_bytes=0)
    assert store.studies("default") == sorted([mine, other])
    assert "1 studies with 3 instances" in run("erase", "--patient-id", "A-1", "--issuer", "HERE").output
    assert store.studies("default") == [other]
    (line,) = (home / "audit" / "images.jsonl").read_text().splitlines()
    assert json.loads(line)["study"] == pseudonym("default", mine)
    assert "A-1" not in line


def test_what_is_too_old_is_erased(home: Path) -> None:
    """Counted from a study's last instance."""
    old, new = stored(home, Person("OLD")), stored(home, Person("NEW"))
    store = ImageStore(home / "images", min_free_bytes=0)
    for path in store.instances("default", old):
        os.utime(path, (0, 0))
    run("expire", "--days", "30")
    assert store.studies("default") == [new]

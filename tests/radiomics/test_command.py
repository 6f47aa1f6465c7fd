"""The command line measures NIfTI pairs and says why where it cannot."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result

from auscult.domain.ibsi_features import FEATURES
from auscult.entrypoints import radiomics as command
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, measure

from .conftest import DATA

pytestmark = pytest.mark.golden

AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])
IMAGE = np.random.default_rng(3).integers(-100, 200, (6, 7, 8)).astype(np.int16)
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[1:4, 1:5, 2:6] = 2
MASK[5, 5, 5] = 1


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Return the paths of an image and a mask with labels 1 and 2; files' axes are (x, y, z)."""
    paths = str(tmp_path / "image.nii.gz"), str(tmp_path / "mask.nii.gz")
    for path, voxels in zip(paths, (IMAGE, MASK), strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)
    return paths


@pytest.fixture(autouse=True)
def models(infer: Infer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the models that the tests built."""
    monkeypatch.setattr(command, "local_models", lambda _: (infer, {"radiomics_region": "1"}))


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(command.radiomics, arguments)


def test_csv_has_a_row_per_pair(infer: Infer, pair: tuple[str, str], tmp_path: Path) -> None:
    """Each with its settings and the library's own values, along (z, y, x)."""
    settings = tmp_path / "chain.yaml"
    settings.write_text("bin_number: 8\nspacing: [2, 1, 1]\n")
    result = run(*pair, *pair, "--label", "2", "--settings", str(settings))
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 2
    chain = Chain(bin_number=8, spacing=(2, 1, 1))
    values = measure(IMAGE.transpose(2, 1, 0), MASK.transpose(2, 1, 0) == 2, np.array([2, 1, 0.5]), chain, infer)
    for row in rows:
        assert (row["image"], row["mask"], row["label"]) == (*pair, "2")
        assert json.loads(row["settings"])["bin_number"] == 8
        for name, value in values.items():
            assert row[name] == ("" if np.isnan(value) else repr(value)), name


def test_json_has_codes_and_units(pair: tuple[str, str]) -> None:
    """Every feature, in the table's order; without a label all labels are the region."""
    (result,) = json.loads(run(*pair, "--format", "json").stdout)
    assert [each["name"] for each in result["features"]] == [feature.name for feature in FEATURES]
    named = {each["name"]: each for each in result["features"]}
    assert named["morph_vol_approx"]["value"] == (MASK > 0).sum()
    assert (named["morph_volume"]["ibsi"], named["morph_volume"]["unit"]) == ("RNU0", "mm3")
    assert named["cm_corr_3D_comb"]["aggregation"] == "3D_comb"


def saved(path: Path, voxels: Any, affine: Any) -> str:
    """Write a NIfTI file and return its path."""
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return str(path)


def test_a_pair_that_cannot_be_measured_is_named(pair: tuple[str, str], tmp_path: Path) -> None:
    """The others are measured; the exit status says that one was not."""
    image, mask = pair
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.2
    moved = AFFINE.copy()
    moved[0, 3] = 1
    text = tmp_path / "text.nii"
    text.write_text("no image")
    bad = {
        "mask-geometry: the mask lies elsewhere": (image, saved(tmp_path / "moved.nii", MASK, moved)),
        "mask-geometry: the image has shape": (image, saved(tmp_path / "small.nii", MASK[1:], AFFINE)),
        "image-sheared": (
            saved(tmp_path / "sheared.nii", IMAGE, sheared),
            saved(tmp_path / "sheared_mask.nii", MASK, sheared),
        ),
        "region-empty": (image, saved(tmp_path / "empty.nii", np.zeros_like(MASK), AFFINE)),
        "nifti-unreadable": (str(text), mask),
    }
    files = [path for both in bad.values() for path in both]
    result = run(*files, image, mask)
    assert result.exit_code == 1
    for reason in bad:
        assert reason in result.stderr
    assert len(list(csv.DictReader(io.StringIO(result.stdout)))) == 1


def test_wrong_settings_and_half_a_pair_are_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    """Before anything is measured."""
    settings = tmp_path / "chain.yaml"
    settings.write_text("binwidth: 8\n")
    assert "radiomics-settings" in run(*pair, "--settings", str(settings)).output
    assert "each IMAGE with its MASK" in run(pair[0]).output


def test_a_real_tumour() -> None:
    """A sarcoma outlined in a CT: every feature has a value."""
    folder = DATA / "sarcoma_ct"
    if not folder.exists():
        pytest.skip("the sarcoma CT is not beside the repository")
    result = run(str(folder / "STS_001_CT_image.nii.gz"), str(folder / "STS_001_CT_mask.nii.gz"))
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert all(row[feature.name] for feature in FEATURES)
    assert float(row["morph_volume"]) == pytest.approx(float(row["morph_vol_approx"]), rel=0.01)

"""The command line measures images of any format, says why where it cannot, and goes on with the others."""

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
from fhir.resources.R4B.bundle import Bundle

from auscult import __version__
from auscult.domain.codes import IBSI
from auscult.domain.ibsi_features import FEATURES
from auscult.entrypoints.radiomics import measuring
from auscult.entrypoints.radiomics.command import radiomics
from auscult.entrypoints.radiomics.measuring import Outcome
from auscult.entrypoints.radiomics.rows import Row, read_table
from auscult.imaging.files import Selection
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import measure
from auscult.radiomics.parameters import DEFAULT, parse

from .conftest import DATA

AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])
IMAGE = np.random.default_rng(3).integers(-100, 200, (6, 7, 8)).astype(np.int16)
MASK = np.zeros(IMAGE.shape, np.uint8)
MASK[1:4, 1:5, 2:6] = 2
MASK[5, 5, 5] = 1


def saved(path: Path, voxels: Any, affine: Any = AFFINE) -> str:
    """Write a NIfTI file and return its path."""
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Return the paths of an image and a mask with labels 1 and 2; files' axes are (x, y, z)."""
    return saved(tmp_path / "image.nii.gz", IMAGE), saved(tmp_path / "mask.nii.gz", MASK)


def run(*arguments: str) -> Result:
    """Run the command."""
    result = CliRunner().invoke(radiomics, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(text: str) -> list[dict[str, str]]:
    """Read CSV."""
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_row_per_feature(pair: tuple[str, str], tmp_path: Path) -> None:
    """Each with its code, unit and settings, and the library's own value, along (z, y, x)."""
    settings = tmp_path / "chain.yaml"
    settings.write_text("bin_number: 8\nspacing: [2, 1, 1]\n")
    result = run(*pair, "--label", "2", "--parameters", str(settings))
    assert result.exit_code == 0, result.output
    chain = Chain(bin_number=8, spacing=(2, 1, 1))
    values = measure(IMAGE.transpose(2, 1, 0), MASK.transpose(2, 1, 0) == 2, np.array([2, 1, 0.5]), chain)
    assert [row["feature"] for row in rows(result.stdout)] == list(values)
    for row, feature in zip(rows(result.stdout), FEATURES, strict=True):
        assert float(row["value"] or "nan") == pytest.approx(values[feature.name], rel=1e-12, nan_ok=True)
        assert (row["ibsi"], row["unit"], row["compliant"]) == (feature.code.code, feature.unit, "True")
        assert (row["image"], row["mask"], row["label"], row["status"]) == (*pair, "2", "measured")
        assert parse(row["settings"]).bin_number == 8


def test_the_documents_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told to those who use it from Python gives the command's value."""
    text = (Path(__file__).parents[2] / "docs/radiomics.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "image.nii.gz", IMAGE)
    saved(tmp_path / "mask.nii.gz", MASK.clip(0, 1))
    found: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], found)  # noqa: S102 - it is our own
    (row,) = rows(run("image.nii.gz", "mask.nii.gz", "--format", "wide").stdout)
    assert float(row["cm_contrast_3D_comb"]) == found["values"]["cm_contrast_3D_comb"]


def test_a_table_may_be_wide(pair: tuple[str, str]) -> None:
    """A row per region, a column per feature, for statistics."""
    (row,) = rows(run(*pair, "--label", "2", "--format", "wide").stdout)
    assert float(row["morph_vol_approx"]) == (MASK == 2).sum()
    assert len([feature for feature in FEATURES if row[feature.name]]) == len(FEATURES)


def test_json_has_codes_and_units(pair: tuple[str, str]) -> None:
    """Every feature, in the table's order, and what it was computed with."""
    found = json.loads(run(*pair, "--label", "2", "--format", "json").stdout)
    assert [each["feature"] for each in found["features"]] == [feature.name for feature in FEATURES]
    named = {each["feature"]: each for each in found["features"]}
    assert named["morph_vol_approx"]["value"] == (MASK == 2).sum()
    assert (named["morph_volume"]["ibsi"], named["morph_volume"]["unit"]) == ("RNU0", "mm3")
    assert named["cm_corr_3D_comb"]["aggregation"] == "3D_comb"
    assert found["settings"] == json.loads(DEFAULT.settings())
    assert found["software"] == f"auscult {__version__}"


def test_fhir_has_an_observation_per_family_and_aggregation(pair: tuple[str, str], tmp_path: Path) -> None:
    """FHIR's own classes take it; one voxel's features without a value are named as such."""
    settings = tmp_path / "p.yaml"
    settings.write_text("{bin_width: 25, families: [morphology, glcm], aggregations: [3D_comb], intensity_unit: '1'}")
    result = run(*pair, "--label=1", "--format=fhir", "--subject=Patient/7", "--parameters", str(settings))
    bundle = json.loads(result.stdout)
    Bundle.model_validate(bundle)
    shape, texture = (e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation")
    assert shape["subject"] == {"reference": "Patient/7"}
    assert texture["method"]["coding"][0]["code"] == "IAZD"
    assert '"bin_width":25.0' in texture["method"]["text"]
    absent = [c["code"]["coding"][0] for c in shape["component"] if "dataAbsentReason" in c]
    assert {(each["system"], each["code"]) for each in absent} >= {(IBSI, "N365"), (IBSI, "NPT7")}
    assert all("dataAbsentReason" in component for component in texture["component"])


def test_families_are_chosen(pair: tuple[str, str], tmp_path: Path) -> None:
    """Only what is wanted is written."""
    settings = tmp_path / "p.yaml"
    settings.write_text("{bin_width: 25, families: [statistics, glszm], aggregations: [3D]}")
    found = rows(run(*pair, "--label=2", "--parameters", str(settings)).stdout)
    assert {row["family"] for row in found} == {"statistics", "grey level size zone matrix"}
    assert len(found) == 18 + 16


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table with four regions, of which two cannot be measured."""
    saved(tmp_path / "image.nii.gz", IMAGE)
    saved(tmp_path / "mask.nii.gz", MASK)
    saved(tmp_path / "small.nii", MASK[1:])
    path = tmp_path / "table.csv"
    path.write_text(
        "id,image,mask,label\none,image.nii.gz,mask.nii.gz,2\nbad,image.nii.gz,small.nii,2\n"
        "none,image.nii.gz,none.nii,\ntwo,image.nii.gz,mask.nii.gz,1\n"
    )
    return path


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.golden)])
def test_a_batch_goes_on_and_keeps_its_order(table: Path, jobs: str) -> None:
    """What cannot be measured says why in its row; the exit status says that there was such a row."""
    result = run("--batch", str(table), "--format", "wide", "--jobs", jobs)
    found = rows(result.stdout)
    assert result.exit_code == 1
    assert [(row["id"], row["status"]) for row in found] == [
        ("one", "measured"), ("bad", "failed"), ("none", "failed"), ("two", "measured")
    ]  # fmt: skip
    assert found[1]["problem"].startswith("mask-geometry: ")
    assert found[2]["problem"].startswith("path-missing: ")
    assert "mask-geometry" in result.stderr


@pytest.mark.parametrize("form", ["csv", "wide", "json", "fhir"])
def test_a_batch_is_resumed(table: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run measured is kept, also of one that broke off in a line; the rest is measured."""
    output, part = tmp_path / "out", tmp_path / "out.part"
    arguments = ("--batch", str(table), "--format", form, "--output", str(output), "--resume")
    assert run(*arguments).exit_code == 1
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    part.write_text("".join(lines[:-1]) + lines[-1][:-30])
    output.unlink()
    told, measure_row = [], measuring.measured

    def measure_and_tell(row: Row) -> Outcome:
        told.append(row.id)
        return measure_row(row)

    monkeypatch.setattr(measuring, "measured", measure_and_tell)
    assert run(*arguments).exit_code == 1
    assert output.read_text() == whole
    assert told == ["bad", "none", "two"]
    assert not part.exists()


@pytest.mark.parametrize(
    "text", ["Image,Mask,Label\na,b,2\n", "image;mask;label\r\na;b;2\r\n", "mask\tlabel\timage\nb\t2\ta\n"]
)
def test_tables_of_other_programs_are_read(tmp_path: Path, text: str) -> None:
    """PyRadiomics writes its columns with capitals; spreadsheets may part them by semicolons or tabs."""
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8-sig")
    (row,) = read_table(path, DEFAULT, Selection())
    assert (row.image, row.mask, row.selection.label) == ("a", "b", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its columns are none"),
        ("image,msk\na,b\n", "its columns are image, msk"),
        ("image,mask\na,\n", "row 1 has no image or no mask"),
        ("image,mask,label\na,b,x\n", "label of row 1"),
        ("image,mask,id\na,b,1\nc,d,1\n", "the id '1'"),
        ("image,mask,parameters\na,b,none.yaml\n", "radiomics-settings"),
        ("image,mask\n", "no rows"),
    ],
)
def test_a_table_that_cannot_be_meant_so_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Before anything is measured, with the status of a configuration that cannot be used."""
    path = tmp_path / "table.csv"
    path.write_text(text)
    result = run("--batch", str(path))
    assert result.exit_code == 78
    assert said in result.stderr
    assert result.stdout == ""


def test_wrong_usage_is_told(pair: tuple[str, str], tmp_path: Path) -> None:
    """Status 2 for what is typed wrong, 78 for what is set up wrong, 1 for a region; nothing is left half written."""
    assert run(pair[0]).exit_code == 2
    assert run(*pair, "--resume").exit_code == 2
    assert run(*pair, "--parameters", str(tmp_path / "none.yaml")).exit_code == 78
    assert run(*pair, "--output", str(tmp_path / "none" / "out.csv")).exit_code == 78
    result = run(*pair, "--output", str(tmp_path / "out.csv"))
    assert (result.exit_code, "mask-labels" in result.stderr) == (1, True)


@pytest.mark.golden
def test_a_real_tumour() -> None:
    """A sarcoma outlined in a CT: every feature has a value."""
    folder = DATA / "sarcoma_ct"
    if not folder.exists():
        pytest.skip("the sarcoma CT is not beside the repository")
    names = ("STS_001_CT_image.nii.gz", "STS_001_CT_mask.nii.gz")
    (row,) = rows(run(*(str(folder / name) for name in names), "--format=wide").stdout)
    assert all(row[feature.name] for feature in FEATURES)
    assert float(row["morph_volume"]) == pytest.approx(float(row["morph_vol_approx"]), rel=0.01)


@pytest.mark.golden
def test_a_real_dicom_series() -> None:
    """A lung tumour in a DICOM CT, outlined in an RTSTRUCT."""
    folder = DATA / "lung_ct_with_gtv"
    if not folder.exists():
        pytest.skip("the lung CT is not beside the repository")
    (row,) = rows(run(str(folder / "image"), str(folder / "mask"), "--format=wide", "--roi=1").stdout)
    assert float(row["morph_vol_approx"]) == pytest.approx(358500, rel=0.01)

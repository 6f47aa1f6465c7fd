"""The repository that is built is whole, the same each time, and replaced in one step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from auscult.domain.model_card import ModelCard
from auscult.inference.repository import Repository
from auscult.models import build
from auscult.models.build import MODELS, SUMS, Authored, build_repository

NAMES = [model.name for model in MODELS]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """Reduce the table to one model that is built fast, and return its name."""
    monkeypatch.setattr(build, "MODELS", MODELS[:1])
    return MODELS[0].name


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_model_is_served(repository: Path) -> None:
    """The inference service accepts each folder: digests, configuration, card and graph agree."""
    served = Repository(repository, threads=1)
    assert served.refused == {}
    assert sorted(served.models) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_sums_are_those_of_sha256sum(repository: Path, name: str) -> None:
    """`sha256sum --check` accepts each folder, and every file but the sums is listed."""
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    folder = repository / name
    checked = subprocess.run(
        [tool, "--check", "--strict", SUMS], cwd=folder, capture_output=True, text=True, check=True
    )
    assert sorted(line.removesuffix(": OK") for line in checked.stdout.splitlines()) == sorted(
        contents(folder).keys() - {SUMS}
    )


@pytest.mark.parametrize("name", NAMES)
def test_graph_is_valid_onnx(repository: Path, name: str) -> None:
    """Each graph passes ONNX's own checker, with shapes inferred strictly."""
    onnx.checker.check_model(onnx.load(repository / name / "1" / "model.onnx"), full_check=True)


@pytest.mark.parametrize("name", NAMES)
def test_no_reference_model_claims_clinical_use(repository: Path, name: str) -> None:
    """A site has to validate a model before its card may say that it is for clinical use."""
    assert not ModelCard.parse((repository / name / "card.yaml").read_text()).clinical_use


@pytest.mark.golden
def test_bytes_are_the_same_in_another_process(repository: Path, tmp_path: Path) -> None:
    """A second build, with other string hashes, writes the same bytes."""
    code = "import sys, pathlib; from auscult.models.build import build_repository as b; b(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert contents(tmp_path) == contents(repository)


def test_only_what_changed_is_replaced(small: str, tmp_path: Path) -> None:
    """A second build leaves the folders alone, and nothing half-built stays behind."""
    assert build_repository(tmp_path) == [small]
    inode = (tmp_path / small).stat().st_ino
    assert build_repository(tmp_path) == []
    assert (tmp_path / small).stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == [build.RECORD, small]


@pytest.mark.parametrize("damage", ["changed", "missing", "unlisted", "gone"])
def test_damage_is_repaired(small: str, tmp_path: Path, damage: str) -> None:
    """A folder that is no longer what was built is built again, even where the sources did not change."""
    build_repository(tmp_path)
    whole = contents(tmp_path)
    card = tmp_path / small / "card.yaml"
    match damage:
        case "changed":
            card.write_text("name: other\n")
        case "missing":
            card.unlink()
        case "unlisted":
            card.with_name("other.yaml").touch()
        case _:
            shutil.rmtree(tmp_path / small)
    assert build_repository(tmp_path, if_changed=True) == [small]
    assert contents(tmp_path) == whole


def test_unchanged_sources_author_nothing(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `if_changed` nothing is authored until a source changes."""
    build_repository(tmp_path)
    authored: list[str] = []
    monkeypatch.setattr(build, "write", lambda model, folder: (authored.append(model.name), folder.mkdir()))
    assert build_repository(tmp_path, if_changed=True) == []
    assert authored == []
    monkeypatch.setattr(build, "authoring_digest", lambda: "another")
    assert build_repository(tmp_path, if_changed=True) == [small]
    assert authored == [small]


@pytest.mark.usefixtures("small")
def test_nothing_to_do_needs_no_authoring_library(tmp_path: Path) -> None:
    """Finding that all is up to date imports neither ONNX nor spox nor numpy, which take longer than the check."""
    build_repository(tmp_path)
    code = (
        "import sys, pathlib; from auscult.models import build; build.MODELS = build.MODELS[:1];"
        "assert build.build_repository(pathlib.Path(sys.argv[1]), if_changed=True) == [];"
        "assert not {'onnx', 'spox', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def test_digest_covers_sources_and_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of a file of the package, or of a library's version, changes the digest."""
    package = tmp_path / "models"
    package.mkdir()
    (tmp_path / "domain").mkdir()
    for table in ("ibsi.py", "ibsi_features.py"):
        (tmp_path / "domain" / table).touch()
    monkeypatch.setattr(build, "HERE", package)
    digests = {build.authoring_digest()}
    (package / "weights.npz").write_bytes(b"1")
    digests.add(build.authoring_digest())
    (package / "weights.npz").write_bytes(b"2")
    digests.add(build.authoring_digest())
    monkeypatch.setattr(build, "version", lambda library: f"{library} of tomorrow")
    digests.add(build.authoring_digest())
    assert len(digests) == 4


def test_failed_build_leaves_the_old_model(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model cannot be authored, what is served stays as it was."""
    build_repository(tmp_path)
    whole = contents(tmp_path)
    monkeypatch.setattr(build, "MODELS", (Authored(small, "risk.brock:full", "risk/brock_full_no_spiculation.yaml"),))
    with pytest.raises(ValueError, match="is the card of"):
        build_repository(tmp_path)
    assert contents(tmp_path) == whole

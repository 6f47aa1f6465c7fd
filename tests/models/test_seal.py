"""A model folder of Triton's becomes one that is served, by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from auscult.entrypoints.cli import main
from auscult.inference.repository import Repository


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two versions of a graph, and nothing else: Triton would serve it."""
    monkeypatch.setenv("AUSCULT_MODEL_REPOSITORY", str(tmp_path))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for version in "12":
        (tmp_path / "theirs" / version).mkdir(parents=True)
        (tmp_path / "theirs" / version / "model.onnx").write_bytes(made.SerializeToString())
    return tmp_path / "theirs"


def seal(folder: Any) -> Result:
    """Run `auscult models seal`."""
    return CliRunner().invoke(main, ["models", "seal", str(folder)])


def test_folder_of_tritons_is_served_once_it_is_sealed(folder: Path) -> None:
    """It gets a card that says what is not known, and digests; before, the reason names the command."""
    assert "auscult models seal" in Repository(folder.parent, threads=1).refused["theirs"]
    sealed = seal(folder)
    assert sealed.exit_code == 0, sealed.output
    served, version = Repository(folder.parent, threads=1).find("theirs")
    assert (version, served.card and served.card.stage) == ("2", "shadow")
    assert [spec.shape for spec in served.signature.inputs] == [(-1, 3)]


def test_card_that_is_there_is_kept(folder: Path) -> None:
    """After a change the digests are written again, and nothing else."""
    seal(folder)
    card = folder / "card.yaml"
    card.write_text(card.read_text().replace("title: theirs", "title: Ours"))
    assert "restore" in Repository(folder.parent, threads=1).refused["theirs"]
    (folder / "SHA256SUMS.sig").touch()
    assert "sign it again" in seal(folder).output
    model, _ = Repository(folder.parent, threads=1).find("theirs")
    assert model.card
    assert model.card.title == "Ours"


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("2/model.onnx", b"none", "2/model.onnx is not an ONNX graph"),
        ("config.pbtxt", b"max_batch_size: -1", "max_batch_size is negative"),
        ("card.yaml", b"name: theirs", "card.yaml: the card: missing"),
    ],
)
def test_what_would_be_refused_is_not_sealed(folder: Path, file: str, content: bytes, reason: str) -> None:
    """The reason is told, and no file is written."""
    (folder / file).write_bytes(content)
    before = sorted(folder.rglob("*"))
    refused = seal(folder)
    assert refused.exit_code == 1
    assert reason in refused.output
    assert sorted(folder.rglob("*")) == before


def test_links_are_not_sealed(folder: Path, tmp_path: Path) -> None:
    """What the service would refuse to read is refused here."""
    (folder / "1/model.onnx").rename(tmp_path / "elsewhere")
    (folder / "1/model.onnx").symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in seal(folder).output

"""A plain ONNX file becomes an entry that the service serves, or nothing is written."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from auscult.domain.model_card import ModelCard
from auscult.entrypoints.cli import main
from auscult.inference import model_config
from auscult.inference.repository import Repository
from auscult.models.importing import entry
from auscult.models.importing.golden import KEPT, Golden

Run = Callable[..., Result]

FACTOR = np.arange(1, 4, dtype=np.float32)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the repository, which is not there yet."""
    folder = tmp_path / "models"
    monkeypatch.setenv("AUSCULT_MODEL_REPOSITORY", str(folder))
    return folder


@pytest.fixture
def models(root: Path) -> Run:
    """Return `auscult models …` on the repository."""

    def run(*arguments: Any) -> Result:
        assert root
        return CliRunner().invoke(main, ["models", *map(str, arguments)])

    return run


def model(
    node: onnx.NodeProto | None = None, *, sizes: Any = ("rows", 3), opset: int = 17, domain: str = ""
) -> onnx.ModelProto:
    """Return y = x * FACTOR, or another node from x to y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name in "xy")
    factor = numpy_helper.from_array(FACTOR, "factor")
    graph = helper.make_graph([node or helper.make_node("Mul", ["x", "factor"], ["y"])], "g", [x], [y], [factor])
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, doc_string="Triples.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with that model."""
    onnx.save_model(model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_entry_is_served_and_verified(file: Path, models: Run, root: Path) -> None:
    """The repository accepts it, batches it, shows it to nobody, and its golden pair is replayed."""
    imported = models("import", file, "--name", "triple", "--labels", "a,b,c")
    assert imported.exit_code == 0, imported.output
    repository = Repository(root, threads=1)
    assert repository.refused == {}
    served, version = repository.find("triple")
    assert (version, served.config.max_batch_size > 0, list(served.config.input[0].dims)) == ("1", True, [3])
    assert served.card is not None
    assert (served.card.stage, served.card.clinical_use, served.card.summary) == ("shadow", False, "Triples.")
    assert served.labels == {"y": ["a", "b", "c"]}
    verified = models("verify", "triple")
    assert verified.exit_code == 0, verified.output
    assert "answers as" in verified.output
    assert [path.name for path in root.iterdir()] == ["triple"]


def test_verify_tells_a_model_that_answers_otherwise(file: Path, models: Run, root: Path) -> None:
    """A graph that was exchanged, digests and all, does not give what the golden pair says."""
    models("import", file, "--name", "triple")
    folder = root / "triple"
    changed = model()
    changed.graph.initializer[0].CopyFrom(numpy_helper.from_array(FACTOR * 1.01, "factor"))
    onnx.save_model(changed, folder / "1/model.onnx")
    broken = models("verify", "triple")
    assert broken.exit_code == 1
    assert "SHA256SUMS" in broken.output
    _seal(folder)
    assert "output-differs" in models("verify").output
    assert models("verify").exit_code == 1


def test_verify_reads_what_is_no_pair(file: Path, models: Run, root: Path) -> None:
    """A golden file that is none fails with a sentence; a model without one is told, and fails where it was named."""
    models("import", file, "--name", "triple")
    (root / "triple/golden.npz").write_bytes(b"PK")
    _seal(root / "triple")
    assert "FAILED" in models("verify", "triple").output
    (root / "triple/golden.npz").unlink()
    _seal(root / "triple")
    assert models("verify").exit_code == 0
    assert models("verify", "triple").exit_code == 1
    assert "no model 'other'" in models("verify", "other").output


def test_name_that_is_taken_is_not_replaced_unasked(file: Path, models: Run, root: Path) -> None:
    """The old model stays as it is, unless --overwrite says otherwise; a name cannot lead out of the repository."""
    models("import", file, "--name", "triple")
    before = (root / "triple/golden.npz").read_bytes()
    assert "name-taken" in models("import", file, "--name", "triple", "--seed", 2).output
    assert (root / "triple/golden.npz").read_bytes() == before
    assert models("import", file, "--name", "triple", "--seed", 2, "--overwrite").exit_code == 0
    assert (root / "triple/golden.npz").read_bytes() != before
    assert "name-invalid" in models("import", file, "--name", "../out").output


def test_weights_beside_the_file_are_taken_in(tmp_path: Path, models: Run, root: Path) -> None:
    """External data becomes part of the entry."""
    onnx.save_model(model(), tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert models("import", tmp_path / "m.onnx", "--name", "triple").exit_code == 0
    (tmp_path / "weights").unlink()
    assert models("verify", "triple").exit_code == 0
    assert Repository(root, threads=1).refused == {}


@pytest.mark.parametrize("place", ["../weights", "/etc/hostname", "missing", "link"])
def test_weights_elsewhere_are_refused(place: str, tmp_path: Path, models: Run, root: Path) -> None:
    """Nothing is read from outside the file's folder, by a path or by a link."""
    folder = tmp_path / "source"
    folder.mkdir()
    onnx.save_model(model(), folder / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    (folder / "weights").rename(tmp_path / "weights")
    (folder / "link").symlink_to(tmp_path / "weights")
    changed = onnx.load_model(folder / "m.onnx", load_external_data=False)
    for item in changed.graph.initializer[0].external_data:
        if item.key == "location":
            item.value = place
    (folder / "m.onnx").write_bytes(changed.SerializeToString())
    said = models("import", folder / "m.onnx", "--name", "triple")
    assert said.exit_code == 1
    assert "external-data" in said.output
    assert not root.exists()


def test_labels_that_do_not_fit_are_refused(file: Path, models: Run, root: Path) -> None:
    """Two names for three columns would leave one without."""
    assert "labels-wrong: there are 2 labels" in models("import", file, "--name", "m", "--labels", "a,b").output
    assert not root.exists()


@pytest.mark.parametrize("kind", ["sparse", "function"])
def test_weights_that_only_the_runtime_would_read_are_refused(
    kind: str, tmp_path: Path, models: Run, root: Path
) -> None:
    """Values of sparse tensors and of functions' constants have to be in the file."""
    outside = TensorProto(name="factor", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="weights")
    (tmp_path / "weights").write_bytes(FACTOR.tobytes())
    made = model(domain="own")
    if kind == "sparse":
        del made.graph.initializer[:]
        made.graph.sparse_initializer.add(
            values=outside, indices=numpy_helper.from_array(np.arange(3), "places"), dims=[3]
        )
    else:
        sparse = onnx.SparseTensorProto(
            values=outside, indices=numpy_helper.from_array(np.arange(3), "places"), dims=[3]
        )
        made.functions.append(
            helper.make_function(
                "own",
                "Triple",
                ["a"],
                ["b"],
                [
                    helper.make_node("Constant", [], ["c"], sparse_value=sparse),
                    helper.make_node("Mul", ["a", "c"], ["b"]),
                ],
                [helper.make_opsetid("", 17)],
            )
        )
        made.graph.node[0].CopyFrom(helper.make_node("Triple", ["x"], ["y"], domain="own"))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    said = models("import", tmp_path / "m.onnx", "--name", "triple")
    assert said.exit_code == 1
    assert "external-data: weights of 'factor' are in another file" in said.output
    assert not root.exists()


def test_a_single_number_is_made_up(tmp_path: Path, models: Run) -> None:
    """An input without axes needs no example."""
    onnx.save_model(model(helper.make_node("Neg", ["x"], ["y"]), sizes=[]), tmp_path / "m.onnx")
    said = models("import", tmp_path / "m.onnx", "--name", "negative")
    assert said.exit_code == 0, said.output


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (model(helper.make_node("Own", ["x"], ["y"], domain="acme"), domain="acme"), "acme::Own"),
        (model(opset=99), "opset 99"),
        (model(sizes=("rows", "open")), "--input x:FP32:3,"),
        (model(helper.make_node("SequenceConstruct", ["x"], ["y"])), "onnx-"),
    ],
    ids=["operator", "opset", "open", "type"],
)
def test_what_cannot_be_carried_is_named(
    made: onnx.ModelProto, reason: str, tmp_path: Path, models: Run, root: Path
) -> None:
    """Custom operators, opsets of the future and open sizes are refused by name, and nothing is written."""
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    said = models("import", tmp_path / "m.onnx", "--name", "m")
    assert said.exit_code == 1
    assert reason in said.output
    assert not root.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.onnx", b"\xff\xff", "not-onnx"),
        ("m.onnx", b"", "not-onnx"),
        ("m.zip", b"PK\x03\x04", "file-unreadable"),
        ("m.bin", b"", "source-unknown"),
    ],
)
def test_what_is_no_model_is_told(  # noqa: PLR0917
    name: str, content: bytes, reason: str, tmp_path: Path, models: Run, root: Path
) -> None:
    """A file that is none of the sources is refused with a sentence."""
    (tmp_path / name).write_bytes(content)
    said = models("import", tmp_path / name, "--name", "m")
    assert said.exit_code == 1
    assert reason in said.output
    assert not root.exists()


def test_framework_that_is_missing_is_named(tmp_path: Path, models: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the message says which one to install."""
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    (tmp_path / "m.txt").write_text("tree\n", encoding="utf-8")
    assert "auscult[import-tabular]" in models("import", tmp_path / "m.txt", "--name", "m").output


def test_rows_that_influence_one_another_are_not_batched(tmp_path: Path, models: Run, root: Path) -> None:
    """A first axis that is no batch is left to the caller: requests are never merged along it."""
    made = model(helper.make_node("Softmax", ["x"], ["y"], axis=0))
    onnx.save_model(made, tmp_path / "m.onnx")
    assert models("import", tmp_path / "m.onnx", "--name", "m").exit_code == 0
    config = model_config.parse((root / "m/config.pbtxt").read_text(encoding="utf-8"), "m")
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 3])


def test_example_is_what_is_compared(file: Path, tmp_path: Path, models: Run, root: Path) -> None:
    """The caller's own inputs are replayed."""
    np.savez(tmp_path / "example.npz", x=np.full((2, 3), 7.0, np.float32))
    assert models("import", file, "--name", "m", "--example", tmp_path / "example.npz").exit_code == 0
    pair = Golden.decode((root / "m/golden.npz").read_bytes())
    np.testing.assert_array_equal(pair.expected["y"], np.full((2, 3), 7.0) * FACTOR)


def test_text_is_carried(tmp_path: Path, models: Run) -> None:
    """Inputs and outputs of text are compared with an example, and kept."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx"
    )
    assert "example-needed" in models("import", tmp_path / "m.onnx", "--name", "m").output
    np.savez(tmp_path / "example.npz", x=np.array(["solid", "subsolid"]))
    imported = models("import", tmp_path / "m.onnx", "--name", "m", "--example", tmp_path / "example.npz")
    assert imported.exit_code == 0, imported.output
    assert models("verify", "m").exit_code == 0


def test_large_weights_lie_beside_the_graph(
    file: Path, models: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large for one protobuf goes into a file of its own, which the digests cover."""
    monkeypatch.setattr(entry, "_LARGE", 0)
    large = model(sizes=("rows", 3000))
    large.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.tile(FACTOR, 1000), "factor"))
    onnx.save_model(large, file)
    imported = models("import", file, "--name", "m")
    assert imported.exit_code == 0, imported.output
    assert (root / "m/1/model.onnx.data").stat().st_size == 12_000
    assert models("verify", "m").exit_code == 0


def test_large_outputs_are_kept_in_part(tmp_path: Path, models: Run, root: Path) -> None:
    """Of many elements some are kept, with their places, so that the pair stays small."""
    (tmp_path / "m.onnx").write_bytes(model(sizes=(100, 200, 3)).SerializeToString())
    assert models("import", tmp_path / "m.onnx", "--name", "m").exit_code == 0
    pair = Golden.decode((root / "m/golden.npz").read_bytes())
    assert pair.expected["y"].shape == pair.places["y"].shape == (KEPT,)
    assert models("verify", "m").exit_code == 0


def test_card_says_what_is_not_known(file: Path, models: Run, root: Path) -> None:
    """Every attribute is answered, and the first limitation is that no site has validated the model."""
    models("import", file, "--name", "m")
    card = ModelCard.parse((root / "m/card.yaml").read_text(encoding="utf-8"))
    assert "not for clinical use" in card.limitations[0]
    assert card.source_attributes["fairness_approach"] == "information not available"


def _seal(folder: Path) -> None:
    """Write the digests again, as sha256sum does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")

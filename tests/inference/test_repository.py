"""A model is served when it is what its author signed off and what its configuration says; else it says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from auscult.inference import loading
from auscult.inference.providers import Devices
from auscult.inference.repository import RefusedModelError, Repository, UnknownModelError
from auscult.platform.errors import RefuseToStart

DOUBLE = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [3] }
output { name: "y" data_type: TYPE_FP32 dims: [3] }
"""


def reason(root: Path, name: str = "double") -> str:
    """Load the repository and return why its model is refused; it must be neither served nor found."""
    repository = Repository(root, threads=1)
    assert name not in repository.models
    with pytest.raises(RefusedModelError, match=f"model '{name}' is not served"):
        repository.find(name)
    return repository.refused[name]


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., Path], double: bytes) -> Path:
    """Return a sealed model folder that is served as it is."""
    return write(tmp_path / "double", DOUBLE, double)


def test_sealed_model_is_served(folder: Path) -> None:
    """An untouched folder is served, under its name and version."""
    model, version = Repository(folder.parent, threads=1).find("double")
    assert (model.name, version, model.card.stage) == ("double", "1", "shadow")


def test_one_refused_model_leaves_the_others(
    folder: Path, write: Callable[..., Path], double: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken model beside a good one is refused and logged; the good one serves."""
    write(folder.parent / "other", "max_batch_size: -1", double)
    repository = Repository(folder.parent, threads=1)
    assert list(repository.models) == ["double"]
    assert repository.refused == {"other": "config.pbtxt: max_batch_size is negative"}
    assert "model other is not served" in caplog.text


@pytest.mark.parametrize("file", ["1/model.onnx", "config.pbtxt", "card.yaml"])
def test_flipped_bit_is_found(folder: Path, file: str) -> None:
    """One changed bit in any file and the model is not served."""
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    assert reason(folder.parent).startswith(f"{file} is not the file that SHA256SUMS lists")


def test_digests_that_are_no_text_are_found(folder: Path) -> None:
    """A manifest of arbitrary bytes."""
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe")
    assert reason(folder.parent).startswith("SHA256SUMS is not UTF-8 text")


def test_defect_that_one_model_shows_leaves_the_others(
    folder: Path, write: Callable[..., Path], double: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens while a model is loaded, the others are served; its text stays out of the reason."""
    write(folder.parent / "other", DOUBLE, double)
    load = loading.load

    def broken(name: str, *given: Any, **named: Any) -> loading.Model:
        if name == "other":
            raise ZeroDivisionError("secret")
        return load(name, *given, **named)

    monkeypatch.setattr(loading, "load", broken)
    repository = Repository(folder.parent, threads=1)
    assert list(repository.models) == ["double"]
    assert repository.refused == {"other": "ZeroDivisionError while it was loaded; the server's log says where"}


def test_unlisted_file_is_found(folder: Path) -> None:
    """A file that nobody signed off is not tolerated, wherever it lies."""
    (folder / "1/extra.bin").write_bytes(b"")
    assert reason(folder.parent).startswith("SHA256SUMS does not list 1/extra.bin")


def test_missing_file_is_found(folder: Path) -> None:
    """A listed file that is gone is named."""
    (folder / "card.yaml").unlink()
    assert reason(folder.parent).startswith("SHA256SUMS lists card.yaml, which is not there")


def test_unsealed_folder_is_refused(folder: Path) -> None:
    """Without digests nothing is trusted."""
    (folder / "SHA256SUMS").unlink()
    assert reason(folder.parent).startswith("SHA256SUMS is missing")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "expected a SHA-256 digest"),
        (f"{'0' * 63}  config.pbtxt", "expected a SHA-256 digest"),
        (f"{'0' * 64}  config.pbtxt", "config.pbtxt is listed twice"),
        (f"{'0' * 64}  ./config.pbtxt", "config.pbtxt is listed twice"),
        (f"{'0' * 64}  ../other/config.pbtxt", "lists ../other/config.pbtxt, which is not there"),
    ],
)
def test_wrong_line_of_digests_is_found(folder: Path, line: str, message: str) -> None:
    """A line that is not sha256sum's, a path given twice and a path out of the folder are refused."""
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{line}\n")
    assert message in reason(folder.parent)


@pytest.mark.parametrize("place", ["1/model.onnx", "1", "notes"])
def test_symbolic_link_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory, place: str) -> None:
    """A link in place of a file or folder, or beside them, is refused even where it leads to the same bytes."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "target"
    link = folder / place
    if link.exists():
        link.rename(elsewhere)
    link.symlink_to(elsewhere)
    assert reason(folder.parent).startswith(f"{place} is a symbolic link")


def test_pipe_is_refused(folder: Path) -> None:
    """What is neither file nor folder is refused, not read."""
    os.mkfifo(folder / "pipe")
    assert reason(folder.parent).startswith("pipe is neither a file nor a folder")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_batch_size: 4", "max_batch_size: x", "config.pbtxt: 1:17"),
        ("max_batch_size: 4", "colour: 1", 'no field named "colour"'),
        ("output {", "sequence_batching { } output {", "sequence_batching is not served: no state is kept"),
        ("output {", "ensemble_scheduling { } output {", "ensemble_scheduling is not served"),
        ("output {", "batch_input { } output {", "batch_input is not served"),
        (
            "output {",
            'cc_model_filenames { key: "7.5" value: "t4.onnx" } output {',
            "cc_model_filenames is not served",
        ),
        ("output {", "model_transaction_policy { decoupled: true } output {", "decoupled is not served"),
        (
            "output {",
            'model_repository_agents { agents { name: "unseal" } } output {',
            "agent 'unseal' is not served",
        ),
        ("dims: [3] }\noutput", "dims: [3] reshape { } }\noutput", "'x' has dims [3] and reshape []; they need as"),
        (
            "dims: [3] }\noutput",
            "dims: [3, -1] reshape { shape: [-1, 3] } }\noutput",
            "they need as many elements, also between sizes of -1",
        ),
        (
            "dims: [3] }\noutput",
            "dims: [3] reshape { shape: [1, 3] } }\noutput",
            "input 'x': shape [-1, 1, 3] configured, [-1, 3] in the graph",
        ),
        (
            "dims: [3] }\noutput",
            "dims: [3] allow_ragged_batch: true }\noutput",
            "'x': allow_ragged_batch is not served",
        ),
        (
            "dims: [3] }\noutput",
            "dims: [3] optional: true }\noutput",
            "'x' is optional in config.pbtxt, the graph has",
        ),
        (
            'name: "y"',
            'name: "y" label_filename: "labels.txt"',
            "label_filename names labels.txt, which is not among",
        ),
        (
            "output {",
            'model_operations { op_library_filename: "../ops.so" } output {',
            "op_library_filename names ../ops.so, which is not among",
        ),
        (
            "output {",
            'model_warmup { inputs { key: "x" value { input_data_file: "x" } } } output {',
            "input_data_file names warmup/x, which is not among",
        ),
        ("max_batch_size: 4", 'max_batch_size: 4 name: "single"', "name is 'single', the folder is 'double'"),
        ("max_batch_size: 4", 'max_batch_size: 4 backend: "python"', "backend 'onnxruntime' are served"),
        ("max_batch_size: 4", "", "input 'x': shape [3] configured, [-1, 3] in the graph"),
        ("output {", "dynamic_batching { preferred_batch_size: 5 } output {", "5 is not within max_batch_size 4"),
        ("output {", "dynamic_batching { priority_levels: 2 } output {", "0 is not one of 2 priority_levels"),
        (
            "output {",
            "dynamic_batching { priority_queue_policy { key: 1 } } output {",
            "priority_queue_policy 1 is not one of 0 priority_levels",
        ),
        ("max_batch_size: 4", "version_policy { specific { versions: 2 } }", "asks for [2], which has no folder"),
        ('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_FP64', "tensor(double) configured, tensor(float) in"),
        ('"x" data_type: TYPE_FP32', '"x" data_type: TYPE_BF16', "TYPE_BF16, which is not served"),
        ('"x" data_type: TYPE_FP32', '"x"', "TYPE_INVALID, which is not served"),
        ('"x"', '"z"', "config.pbtxt has input 'z', the graph has ['x']"),
        ('"y"', '"z"', "config.pbtxt has output 'z', the graph has ['y']"),
        ("dims: [3] }\noutput", "dims: [4] }\noutput", "input 'x': shape [-1, 4] configured, [-1, 3] in the graph"),
        ("dims: [3] }\noutput", "dims: [-1] }\noutput", "input 'x': shape [-1, -1] configured, [-1, 3] in the graph"),
        ("dims: [3] }\noutput", "dims: [0] }\noutput", "'x' has dims [0]"),
        ("output {", 'input { name: "x" data_type: TYPE_FP32 dims: [3] } output {', "names one input twice"),
        ("output {", 'default_model_filename: "net.onnx" output {', "1/net.onnx is missing"),
        ("output {", 'default_model_filename: "../../x.onnx" output {', "1/../../x.onnx is missing"),
    ],
)
def test_wrong_configuration_is_named(
    folder: Path, seal: Callable[[Path], None], old: str, new: str, message: str
) -> None:
    """A configuration that cannot be served or is not the graph's says where they differ."""
    assert old in DOUBLE
    (folder / "config.pbtxt").write_text(DOUBLE.strip().replace(old, new, 1))
    seal(folder)
    assert message in reason(folder.parent)


TRITONS = """
name: "double" platform: "onnxruntime_onnx" backend: "onnxruntime" max_batch_size: 4
version_policy { latest { num_versions: 1 } }
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NONE dims: [ 3 ] is_shape_tensor: false optional: false } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "" is_shape_tensor: false } ]
optimization {
  graph { level: 1 } priority: PRIORITY_MAX cuda { graphs: true } input_pinned_memory { enable: true }
  execution_accelerators { gpu_execution_accelerator [ {
    name: "tensorrt" parameters { key: "precision_mode" value: "FP16" }
  } ] }
}
dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 }
instance_group [ {
  name: "double_0" kind: KIND_GPU count: 2 gpus: [ 0 ] passive: false host_policy: ""
  rate_limiter { resources [ { name: "R1" count: 4 } ] priority: 2 } secondary_devices: [] profile: []
} ]
default_model_filename: "model.onnx" metric_tags { key: "site" value: "a" }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
model_warmup [ { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 zero_data: true } } } ]
model_transaction_policy { decoupled: false }
model_repository_agents { agents [ { name: "checksum" parameters { key: "MD5:config.pbtxt" value: "0" } } ] }
response_cache { enable: true }
"""


def test_configuration_of_tritons_users_is_served(folder: Path, seal: Callable[[Path], None]) -> None:
    """What Triton writes out in full is read as it is; hints for speed are kept, and told to those who ask."""
    (folder / "config.pbtxt").write_text(TRITONS)
    seal(folder)
    config = Repository(folder.parent, threads=1, devices=Devices("cpu")).models["double"].config
    assert config.optimization.execution_accelerators.gpu_execution_accelerator[0].name == "tensorrt"
    assert config.parameters["intra_op_thread_count"].string_value == "2"


@pytest.mark.parametrize(("batch", "shape"), [(4, (-1, 3)), (0, (-1, 3))])
def test_tensors_that_the_configuration_omits_are_the_graphs(
    folder: Path, seal: Callable[[Path], None], batch: int, shape: tuple[int, ...]
) -> None:
    """As with Triton, a configuration without inputs and outputs has those of the graph."""
    (folder / "config.pbtxt").write_text(f"max_batch_size: {batch}")
    seal(folder)
    model = Repository(folder.parent, threads=1).models["double"]
    assert [(spec.name, spec.shape) for spec in model.signature.inputs + model.signature.outputs] == [
        ("x", shape),
        ("y", shape),
    ]
    assert list(model.config.input[0].dims) == list(shape[1:] if batch else shape)


def test_hard_link_out_of_the_folder_is_refused(folder: Path) -> None:
    """Who has the file under its other name could write to it; two names within the folder are the author's."""
    (folder.parent / "elsewhere").hardlink_to(folder / "1/model.onnx")
    assert reason(folder.parent).startswith("1/model.onnx is a hard link to a file outside of the folder")


def test_too_large_a_model_is_refused_unread(folder: Path) -> None:
    """A file of terabytes is not read into memory to find that its digest is wrong."""
    with (folder / "1/model.onnx").open("r+b") as file:
        file.truncate(2**42)
    assert "of which 17179869184 are allowed" in reason(folder.parent)


def test_input_that_the_configuration_omits_is_named(folder: Path, seal: Callable[[Path], None], pair: bytes) -> None:
    """A graph with an input more than its configuration cannot be asked."""
    (folder / "1/model.onnx").write_bytes(pair)
    (folder / "config.pbtxt").write_text(
        'input { name: "a" data_type: TYPE_FP32 dims: [2] } output { name: "total" data_type: TYPE_FP32 dims: [2] }'
    )
    seal(folder)
    assert reason(folder.parent) == "the graph has input 'b', config.pbtxt does not"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "card.yaml is for 'double' version 2, the model is 'double' version 1"),
        ("stage: shadow", "stage: new", "card.yaml: stage: one of"),
    ],
)
def test_wrong_card_is_named(folder: Path, seal: Callable[[Path], None], old: str, new: str, message: str) -> None:
    """A card that is incomplete or another version's keeps the model from being served."""
    card = folder / "card.yaml"
    card.write_text(card.read_text().replace(old, new))
    seal(folder)
    assert message in reason(folder.parent)


def test_graph_that_is_none_is_refused(folder: Path, seal: Callable[[Path], None]) -> None:
    """A sealed file that is no graph, or none that ONNX Runtime can read, is named."""
    (folder / "1/model.onnx").write_bytes(b"\x08\x09not a graph")
    seal(folder)
    assert reason(folder.parent).startswith("1/model.onnx is not an ONNX graph")
    (folder / "1/model.onnx").write_bytes(b"")
    seal(folder)
    assert reason(folder.parent).startswith("ONNX Runtime cannot load 1/model.onnx")


@pytest.mark.parametrize(
    ("policy", "served"),
    [("", ["10"]), ("latest { num_versions: 2 }", ["9", "10"]), ("all { }", [str(v) for v in range(1, 11)])],
)
def test_versions_are_served_by_policy(
    tmp_path: Path, write: Callable[..., Path], double: bytes, policy: str, served: list[str]
) -> None:
    """By default the highest version alone; ordered as numbers, so that 10 comes after 9."""
    policy = f"version_policy {{ {policy} }}" if policy else ""
    write(tmp_path / "double", policy + DOUBLE, *[double] * 10)
    repository = Repository(tmp_path, threads=1)
    assert list(repository.models["double"].sessions) == served
    assert repository.find("double")[1] == "10"
    assert repository.find("double", served[0])[1] == served[0]
    with pytest.raises(UnknownModelError, match="no version '11'"):
        repository.find("double", "11")


def external(location: str, weights: NDArray[np.float32]) -> bytes:
    """Return a model with y = x + weights whose weights lie in a file."""
    tensor = numpy_helper.from_array(weights, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(weights.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(weights.shape)) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


EXTERNAL = DOUBLE.replace("max_batch_size: 4", "").replace("[3]", "[300]")
WEIGHTS = np.arange(300, dtype=np.float32)


def test_weights_beside_the_graph_are_used(
    tmp_path: Path, write: Callable[..., Path], seal: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """External weights come from the verified bytes, also where a file of that name lies in the working folder."""
    folder = write(tmp_path / "models/outside", EXTERNAL, external("weights.bin", WEIGHTS))
    (folder / "1/weights.bin").write_bytes(WEIGHTS.tobytes())
    seal(folder)
    (tmp_path / "weights.bin").write_bytes(bytes(WEIGHTS.nbytes))
    monkeypatch.chdir(tmp_path)
    model, version = Repository(tmp_path / "models", threads=1).find("outside")
    (y,) = model.sessions[version].run(["y"], {"x": np.ones(300, np.float32)})
    assert np.array_equal(y, WEIGHTS + 1)


@pytest.mark.parametrize("location", ["weights.bin", "../../../weights.bin", "{}/weights.bin"])
def test_weights_elsewhere_are_never_read(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """External weights that are not in the version's folder keep the model from being served."""
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "models/outside", EXTERNAL, external(location.format(tmp_path), WEIGHTS))
    assert "which is not a file of the version's folder" in reason(tmp_path / "models", "outside")


def test_missing_repository_refuses_to_start(tmp_path: Path) -> None:
    """A folder that is not there is a wrong setting."""
    with pytest.raises(RefuseToStart, match="AUSCULT_MODEL_REPOSITORY"):
        Repository(tmp_path / "nowhere")

"""A graph's weights come from its folder, wherever in the graph they hide."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from auscult.inference.config_checks import WrongModelError
from auscult.inference.external_data import check_external_data
from auscult.inference.repository import Repository
from auscult.inference.wire import _varint

WEIGHTS = np.arange(300, dtype=np.float32)
X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in "xy")
ADD = helper.make_node("Add", ["x", "w"], ["y"])


def outside(location: str, name: str = "w") -> onnx.TensorProto:
    """Return a tensor whose elements lie in a file."""
    tensor = numpy_helper.from_array(WEIGHTS, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(WEIGHTS.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(*nodes: onnx.NodeProto, initializers: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """Return a model with y of x."""
    made = helper.make_graph(nodes, "g", [X], [Y], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def initializer(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Put it where weights belong."""
    return model(ADD, initializers=(tensor,))


def constant(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Put it into a node of the main graph."""
    return model(helper.make_node("Constant", [], ["w"], value=tensor), ADD)


def subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Put it among the initializers of a branch."""
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, [300])
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["r"])], "b", [], [result], [tensor])
    always = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return model(always, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def sparse(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Let it be the values of a sparse tensor."""
    made = model(ADD)
    held = made.graph.sparse_initializer.add(dims=[300])
    held.values.CopyFrom(tensor)
    held.indices.CopyFrom(numpy_helper.from_array(np.arange(300, dtype=np.int64), "i"))
    return made


def function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Put it into a node of a function."""
    body = [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["a", "w"], ["b"])]
    made = model(helper.make_node("F", ["x"], ["y"], domain="d"))
    made.functions.append(helper.make_function("d", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    made.opset_import.append(helper.make_opsetid("d", 1))
    return made


@pytest.mark.parametrize("hide", [initializer, constant, subgraph, sparse, function])
@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "{}/secret.bin"])
def test_weights_elsewhere_are_never_read(
    *,
    tmp_path: Path,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    hide: Callable[[onnx.TensorProto], onnx.ModelProto],
    location: str,
) -> None:
    """Not from the working folder, not from above it: ONNX Runtime itself reads three of these."""
    for folder in (tmp_path, tmp_path / "work"):
        folder.mkdir(exist_ok=True)
        (folder / "secret.bin").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path / "work")
    write(tmp_path / "models/m", "", hide(outside(location.format(tmp_path))).SerializeToString())
    refused = Repository(tmp_path / "models", 1).refused["m"]
    assert refused.startswith("1/model.onnx: tensor 'w' ")
    assert "has its data in" in refused


def test_address_in_the_process_is_no_location() -> None:
    """Also where a file of that name lies in the folder."""
    location = "*/_ORT_MEM_ADDR_/*"
    graph = initializer(outside(location)).SerializeToString()
    with pytest.raises(WrongModelError, match="is not a file of the version's folder"):
        check_external_data(graph, "1/model.onnx", {location})


def test_weights_in_the_folder_and_in_the_graph_are_right() -> None:
    """External data of the main graph's initializers, and tensors that hold their own wherever they are."""
    check_external_data(initializer(outside("w.bin")).SerializeToString(), "1/model.onnx", {"w.bin"})
    for hide in (initializer, constant, subgraph, sparse, function):
        check_external_data(hide(numpy_helper.from_array(WEIGHTS, "w")).SerializeToString(), "1/model.onnx", ())


@given(st.binary(max_size=60))
def test_what_is_no_graph_is_told(content: bytes) -> None:
    """Arbitrary bytes are walked to their end, or refused."""
    with suppress(WrongModelError):
        check_external_data(content, "1/model.onnx", ())


def test_nesting_has_an_end() -> None:
    """Messages in messages without end do not exhaust the stack."""
    content = b""
    for number in (6, 5, 1) * 200 + (7,):
        content = _varint(number << 3 | 2) + _varint(len(content)) + content
    with pytest.raises(WrongModelError, match="nested too deeply"):
        check_external_data(content, "1/model.onnx", ())

"""Tiny models in a repository, and servers of them on the loopback interface."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from auscult.domain.model_card import NOT_AVAILABLE, SOURCE_ATTRIBUTES
from auscult.inference.client import InferenceClient
from auscult.inference.repository import Repository
from auscult.inference.server import create_server
from auscult.inference.tensors import DATATYPES

Serve = Callable[..., AbstractContextManager[str]]

SHAPES = """
input {{ name: "{}" data_type: {} dims: {} }}
output {{ name: "{}" data_type: {} dims: {} }}
"""
DOUBLE = "max_batch_size: 4\n" + SHAPES.format("x", "TYPE_FP32", [3], "y", "TYPE_FP32", [3])


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """Return a serialised model."""
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def _double() -> bytes:
    """Return a model with y = x + x, both FP32 of shape (n, 3)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    return graph([helper.make_node("Add", ["x", "x"], ["y"])], [x], [y])


def _times(factor: float) -> bytes:
    """Return a model with y = x * factor, both FP32 of shape (n, 3)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    weight = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    return graph([helper.make_node("Mul", ["x", "factor"], ["y"])], [x], [y], [weight])


def _pair() -> bytes:
    """Return a model with total = a + b and difference = a - b, all FP32 of shape (2,)."""
    names = ("a", "b", "total", "difference")
    a, b, total, difference = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in names)
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    return graph(nodes, [a, b], [total, difference])


def mirror(datatype: str) -> bytes:
    """Return a model that gives back a vector of `datatype`."""
    kind = helper.np_dtype_to_tensor_dtype(DATATYPES[datatype].numpy)
    x, y = (helper.make_tensor_value_info(name, kind, ["n"]) for name in "xy")
    return graph([helper.make_node("Identity", ["x"], ["y"])], [x], [y])


def pick() -> bytes:
    """Return a model that gives element `i` of a vector of three; it fails for any other `i`."""
    i, y = (helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in "iy")
    three = helper.make_tensor("three", TensorProto.INT64, [3], [7, 8, 9])
    return graph([helper.make_node("Gather", ["three", "i"], ["y"], name="choose")], [i], [y], [three])


def endless() -> bytes:
    """Return a model that counts up to `n`, one turn of a loop at a time."""
    n, y = (helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("n", "y"))
    turn, go, old = (
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("turn", TensorProto.INT64), ("go", TensorProto.BOOL), ("old", TensorProto.INT64))
    )
    still, new = (
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("still", TensorProto.BOOL), ("new", TensorProto.INT64))
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Add", ["old", "one"], ["new"])],
        "body",
        [turn, go, old],
        [still, new],
        [helper.make_tensor("one", TensorProto.INT64, [], [1])],
    )
    return graph(
        [helper.make_node("Loop", ["n", "", "zero"], ["y"], body=body)],
        [n],
        [y],
        [helper.make_tensor("zero", TensorProto.INT64, [], [0])],
    )


def card(name: str, version: int) -> str:
    """Return a complete card."""
    texts = ("title", "summary", "intended_use", "evidence", "license", "training_data", "limitations")
    attributes = dict.fromkeys((key for group in SOURCE_ATTRIBUTES.values() for key in group), NOT_AVAILABLE)
    return yaml.safe_dump(
        dict.fromkeys(texts, "For tests.")
        | {"name": name, "version": version, "stage": "shadow", "clinical_use": False}
        | {"performance": [], "source_attributes": attributes}
    )


def _seal(folder: Path) -> None:
    """Write the folder's SHA256SUMS."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "SHA256SUMS" not in path.name)
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files)
    (folder / "SHA256SUMS").write_text("".join(lines))


def _write(folder: Path, config: str, *models: bytes) -> Path:
    """Write a sealed model folder with versions 1, 2, ... and return it."""
    for version, model in enumerate(models, start=1):
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "model.onnx").write_bytes(model)
    (folder / "config.pbtxt").write_text(config)
    (folder / "card.yaml").write_text(card(folder.name, len(models)))
    _seal(folder)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository folder; tests only read it."""
    root = tmp_path_factory.mktemp("models")
    _write(root / "double", DOUBLE, _double())
    _write(
        root / "pair",
        "".join(f'input {{ name: "{name}" data_type: TYPE_FP32 dims: [2] }}\n' for name in "ab")
        + "".join(
            f'output {{ name: "{name}" data_type: TYPE_FP32 dims: [2] }}\n' for name in ("total", "difference")
        ),
        _pair(),
    )
    for datatype in DATATYPES:
        configured = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
        config = SHAPES.format("x", configured, [-1], "y", configured, [-1])
        _write(root / f"mirror_{datatype}", config, mirror(datatype))
    _write(root / "endless", SHAPES.format("n", "TYPE_INT64", [], "y", "TYPE_INT64", []), endless())
    _write(root / "pick", SHAPES.format("i", "TYPE_INT64", [], "y", "TYPE_INT64", []), pick())
    broken = _write(root / "broken", DOUBLE, _double())
    (broken / "1/model.onnx").write_bytes(_double()[:-1] + b"!")
    return root


@pytest.fixture(scope="session")
def repository(root: Path) -> Repository:
    """Return the loaded repository."""
    return Repository(root, threads=1)


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Return a function that writes a sealed model folder: (folder, config, *models by version)."""
    return _write


@pytest.fixture(scope="session")
def seal() -> Callable[[Path], None]:
    """Return a function that writes a folder's SHA256SUMS."""
    return _seal


@pytest.fixture(scope="session")
def double() -> bytes:
    """Return a model with y = x + x, both FP32 of shape (n, 3)."""
    return _double()


@pytest.fixture(scope="session")
def times() -> Callable[[float], bytes]:
    """Return a function that makes a model with y = x * factor, both FP32 of shape (n, 3)."""
    return _times


@pytest.fixture(scope="session")
def pair() -> bytes:
    """Return a model with total = a + b and difference = a - b, all FP32 of shape (2,)."""
    return _pair()


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Return a context manager that serves a repository, one inference at a time, and gives its address."""

    @contextmanager
    def serve(repository: Repository, **options: Any) -> Iterator[str]:
        server = create_server(repository, "127.0.0.1:0", 1, **options)
        server.start()
        try:
            yield f"127.0.0.1:{server.port}"
        finally:
            server.stop(None)

    return serve


@pytest.fixture(scope="session")
def target(repository: Repository, serve: Serve) -> Iterator[str]:
    """Return the address of a server of the repository."""
    with serve(repository) as address:
        yield address


@pytest.fixture
def client(target: str, root: Path) -> Iterator[InferenceClient]:
    """Return a client of that server."""
    with InferenceClient(target, root) as client:
        yield client

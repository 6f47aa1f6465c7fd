"""gRPC: what a model costs beside its own time, and beside gRPC that carries the same bytes for nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper

from auscult.domain.deadline import Deadline
from auscult.domain.model_card import NOT_AVAILABLE, SOURCE_ATTRIBUTES
from auscult.entrypoints.demo.processes import demo_settings, running
from auscult.inference.client import InferenceClient
from auscult.inference.protocol import MESSAGE_OPTIONS
from benchmarks.processes import ECHO, elsewhere, grpc_bytes
from benchmarks.table import OURS

INPUTS = {"one": np.zeros(1, np.int16), "volume": np.zeros((40, 512, 512), np.int16)}
ROUNDS = {"one": 300, "volume": 30}
HOPS = {
    "one": "gRPC: infer, 1 element",
    "volume": "gRPC: infer, a volume of 21 MB int16 to 10.5 MB uint8",
}
KINDS = tuple(INPUTS)


def write_model(folder: Path, dimensions: int, config: str = "", model: onnx.ModelProto | None = None) -> None:
    """Write a served model folder: of `config` and `model`, or `y` is `x`, int16 of `dimensions`, as uint8."""
    x = helper.make_tensor_value_info("x", TensorProto.INT16, [None] * dimensions)
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [None] * dimensions)
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8)], "cast", [x], [y])
    cast = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "1").mkdir(parents=True)
    onnx.save(model or cast, folder / "1" / "model.onnx")
    dims = [-1] * dimensions
    (folder / "config.pbtxt").write_text(
        config
        or f'input {{ name: "x" data_type: TYPE_INT16 dims: {dims} }}\n'
        f'output {{ name: "y" data_type: TYPE_UINT8 dims: {dims} }}\n'
    )
    texts = ("title", "summary", "intended_use", "evidence", "license", "training_data", "limitations")
    attributes = {key: NOT_AVAILABLE for group in SOURCE_ATTRIBUTES.values() for key in group}
    card = dict.fromkeys(texts, "For measurements.") | {"name": folder.name, "version": 1, "stage": "shadow"}
    card |= {"clinical_use": False, "performance": [], "source_attributes": attributes}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files)
    (folder / "SHA256SUMS").write_text("".join(sums))


@pytest.fixture(scope="module")
def repository(disk: Path) -> Path:
    """Return a repository with one model for each kind of input."""
    root = disk / "casts"
    for kind, array in INPUTS.items():
        write_model(root / kind, array.ndim)
    return root


@pytest.fixture(scope="module")
def client(disk: Path, repository: Path) -> Iterator[InferenceClient]:
    """Return a client of the inference service, which runs as it does in the product."""
    settings = demo_settings(disk / "inference", repository, {})
    with (
        running(settings, ("inference",)) as services,
        InferenceClient(settings.inference_target, repository) as client,
    ):
        assert list(services.wait_ready(("inference",))) == ["inference"]
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_infer(measure: Callable[..., Any], client: InferenceClient, kind: str) -> None:
    """A tensor goes to the service and one comes back."""
    array = INPUTS[kind]

    def infer() -> None:
        answer = client.infer(kind, {"x": array}, deadline=Deadline.after(30))
        assert answer["y"].shape == array.shape

    measure(HOPS[kind], OURS, infer, rounds=ROUNDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_infer_bare_grpc(measure: Callable[..., Any], kind: str) -> None:
    """The peer: gRPC with as many bytes each way, and nothing done with them."""
    content = INPUTS[kind].tobytes()
    with (
        elsewhere(grpc_bytes, len(content) // 2) as line,
        grpc.insecure_channel(f"127.0.0.1:{line.recv()}", options=list(MESSAGE_OPTIONS)) as channel,
    ):
        call = channel.unary_unary(ECHO)
        measure(HOPS[kind], "gRPC alone, as many bytes", lambda: call(content), rounds=ROUNDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_infer_in_process(measure: Callable[..., Any], repository: Path, kind: str) -> None:
    """The raw limit: the model itself, run by ONNX Runtime in this process."""
    session = onnxruntime.InferenceSession(repository / kind / "1" / "model.onnx")
    feed = {"x": INPUTS[kind]}
    measure(HOPS[kind], "ONNX Runtime in process", lambda: session.run(["y"], feed), rounds=ROUNDS[kind])

"""A volume through a model of patches, in the server and as a loop of ONNX Runtime alone: CPU time, not wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import spox.opset.ai.onnx.v17 as op
from spox import Tensor, argument, build

from auscult.inference.loading import Model
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import prepare
from auscult.inference.repository import Repository
from auscult.inference.scheduler import Scheduler
from auscult.inference.shared_memory import Regions
from auscult.inference.statistics import Statistics
from auscult.inference.wire import Framed
from auscult.models.segmentation import graph
from auscult.models.segmentation.architecture import network
from benchmarks.bench_inference import write_model
from benchmarks.table import OURS

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.timeout(900)]

HOP = "Sliding window: 256 x 256 x 128 in 32 patches of 96-cubed, CPU time"
SIDE = 96
PATCHES = 32
ROUNDS = 3

CONFIG = f"""
max_batch_size: 1
input {{ name: "image" data_type: TYPE_FP32 dims: [1, {SIDE}, {SIDE}, {SIDE}] }}
output {{ name: "score" data_type: TYPE_FP32 dims: [1, {SIDE}, {SIDE}, {SIDE}] }}
""" + "".join(
    f'parameters {{ key: "sliding_window.{key}" value {{ string_value: "{value}" }} }}\n'
    for key, value in {
        "roi_size": f"{SIDE},{SIDE},{SIDE}",
        "overlap": "0.25",
        "mode": "gaussian",
        "clip": "-1000,400",
        "subtract": "-300",
        "divide": "700",
    }.items()
)


def unet() -> onnx.ModelProto:
    """Return the reference U-Net on patches that are normalised, without its resampling."""
    image = argument(Tensor(np.float32, ("n", 1, SIDE, SIDE, SIDE)))
    score = op.reshape(network(graph._Spox(graph.load()), image), op.const(np.array([-1, 1, SIDE, SIDE, SIDE])))
    return build({"image": image}, {"score": score})


@pytest.fixture(scope="module")
def model(disk: Path) -> Model:
    """Return the model, served with one thread."""
    root = disk / "patches"
    write_model(root / "unet", 1, CONFIG, unet())
    repository = Repository(root, threads=1)
    assert not repository.refused, repository.refused
    return repository.models["unet"]


def test_volume(measure: Callable[..., Any], model: Model) -> None:
    """A request for labels, from its message to its answer."""
    image = np.random.default_rng(0).integers(-1000, 400, (1, 128, 256, 256)).astype(np.int16)
    message = pb.ModelInferRequest(model_name="unet")
    message.inputs.add(name="image", datatype="INT16", shape=image.shape)
    message.outputs.add(name="labels")
    scheduler = Scheduler(Statistics(), 1)

    def infer() -> None:
        scheduler.infer(prepare(model, "1", Framed(message, (memoryview(image.tobytes()),)), Regions()))

    measure(HOP, OURS, infer, rounds=ROUNDS, warm=0)


def test_loop(measure: Callable[..., Any], model: Model) -> None:
    """The peer: as many runs of the graph on one patch that is ready, and nothing done with the scores."""
    session: ort.InferenceSession = model.sessions["1"]
    patch = np.random.default_rng(0).normal(size=(1, 1, SIDE, SIDE, SIDE)).astype(np.float32)

    def loop() -> None:
        for _ in range(PATCHES):
            session.run(["score"], {"image": patch})

    measure(HOP, "ONNX Runtime in a loop, one patch", loop, rounds=ROUNDS, warm=0)

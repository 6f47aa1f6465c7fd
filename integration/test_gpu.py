"""Models on a GPU: the CPU's results, its memory's limits, and the table of docs/gpu.md. Skipped where there is none.

`make gpu` runs it and writes the table.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import spox.opset.ai.onnx.v17 as op
from numpy.typing import NDArray
from spox import Tensor, argument, build

from auscult.inference.device_session import DeviceSession, opened
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.providers import CPU, Devices, Plan, here, plan
from auscult.inference.sliding_window import declared
from auscult.inference.volumes import VolumeRun
from auscult.models.segmentation import graph
from auscult.models.segmentation.architecture import network

DEVICES = here("auto", 0, 0)
SIDE = 96
DOCS = Path(__file__).parents[1] / "docs" / "gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

pytestmark = pytest.mark.skipif(
    not DEVICES.gpus, reason="no GPU that ONNX Runtime can use: docs/gpu.md says what has to be installed"
)

Feed = dict[str, NDArray[Any]]
Open = Callable[..., Any]


def unet(kind: type = np.float32) -> bytes:
    """Return the reference U-Net on one patch, in single or half precision."""
    image = argument(Tensor(kind, (1, 1, SIDE, SIDE, SIDE)))
    runs = graph._Spox({name: array.astype(kind) for name, array in graph.load().items()})
    score = op.reshape(network(runs, image), op.const(np.array([1, 1, SIDE, SIDE, SIDE])))
    made: bytes = build({"image": image}, {"score": score}).SerializeToString()
    return made


def config(*, graphs: bool = False, limit: int = 0, window: Mapping[str, str] | None = None) -> pb.ModelConfig:
    """Return a configuration of the U-Net."""
    made = pb.ModelConfig(max_batch_size=1)
    made.input.add(name="image", data_type=pb.TYPE_FP32, dims=[1, SIDE, SIDE, SIDE])
    made.output.add(name="score", data_type=pb.TYPE_FP32, dims=[1, SIDE, SIDE, SIDE])
    made.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU)
    made.optimization.cuda.graphs = graphs
    if limit:
        made.parameters["gpu_mem_limit"].string_value = str(limit)
    for key, value in (window or {}).items():
        made.parameters[f"sliding_window.{key}"].string_value = value
    return made


def on_gpu(model: bytes, config: pb.ModelConfig, preference: str = "cuda") -> DeviceSession:
    """Return a session on the GPU."""
    devices = Devices(preference, DEVICES.gpus, DEVICES.tensorrt)  # type: ignore[arg-type]

    def make(planned: Plan) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        return ort.InferenceSession(model, options, providers=list(planned.providers))

    session = opened(make, plan(config, devices), devices)
    assert isinstance(session, DeviceSession)
    return session


def on_cpu(model: bytes) -> ort.InferenceSession:
    """Return a session on the CPU."""
    return ort.InferenceSession(model, providers=[CPU])


@pytest.fixture(scope="module")
def patch() -> Feed:
    """Return a patch."""
    return {"image": np.random.default_rng(0).normal(size=(1, 1, SIDE, SIDE, SIDE)).astype(np.float32)}


@pytest.mark.parametrize("graphs", [False, True])
def test_gpu_gives_the_cpus_scores(patch: Feed, graphs: bool) -> None:
    """Runs with bound tensors, captured or not, give what the CPU gives."""
    model = unet()
    session = on_gpu(model, config(graphs=graphs))
    session.capture(patch)
    assert bool(session._captured) is graphs
    (expected,) = on_cpu(model).run(["score"], patch)
    for _ in range(3):
        (score,) = session.run(["score"], patch)
        np.testing.assert_allclose(score, expected, atol=2e-2 * np.abs(expected).max())
    assert not session.fell_back


def test_half_precision_gives_the_same_labels(patch: Feed) -> None:
    """Scores in half precision lead to the same labels but for voxels on the edge."""
    (expected,) = on_cpu(unet()).run(["score"], patch)
    (score,) = on_gpu(unet(np.float16), config()).run(["score"], {"image": patch["image"].astype(np.float16)})
    assert np.mean((score > 0) != (expected > 0)) < 0.01


def test_cpu_takes_over_where_the_gpus_memory_runs_out(patch: Feed) -> None:
    """With a limit that no patch fits in, the same call is answered by the CPU."""
    model = unet()
    session = on_gpu(model, config(limit=2**23))
    (score,) = session.run(["score"], patch)
    assert session.fell_back
    np.testing.assert_allclose(score, on_cpu(model).run(["score"], patch)[0], rtol=1e-5, atol=1e-5)


def volume(session: Any) -> float:
    """Run a volume of 256 x 256 x 128 in 96-cubes; return the seconds that it took."""
    window = declared(config(window={"roi_size": f"{SIDE},{SIDE},{SIDE}", "mode": "gaussian"}))
    assert window
    image = np.random.default_rng(0).integers(-1, 2, (1, 128, 256, 256)).astype(np.int16)
    start = time.perf_counter()
    run = VolumeRun(window, {"image": image}, {"labels": None}, session)
    assert run.advance(ort.RunOptions(), lambda: False)
    assert not run.fell_back
    return time.perf_counter() - start


def median(act: Callable[[], object], times: int) -> float:
    """Return the median of the seconds that `act` takes, after one that is not counted."""
    act()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


@pytest.fixture
def rows() -> Iterator[list[str]]:
    """Return the table's rows, which are written into docs/gpu.md where `make gpu` asks for it."""
    rows: list[str] = []
    yield rows
    if rows and os.environ.get("AUSCULT_TEST_WRITE_GPU_TABLE"):
        before, _, rest = DOCS.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        head = "| run on | one 96-cubed patch, ms | 256 x 256 x 128 in 32 patches, s |\n| --- | ---: | ---: |"
        table = "\n".join((f"ONNX Runtime {ort.__version__}, {_name()}.\n", head, *rows))
        DOCS.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


def test_table(patch: Feed, rows: list[str]) -> None:
    """Time the reference U-Net on what there is."""
    half = {"image": patch["image"].astype(np.float16)}
    sides: list[tuple[str, Any, Feed]] = [
        ("CPU", on_cpu(unet()), patch),
        ("CUDA", on_gpu(unet(), config()), patch),
        ("CUDA, CUDA graph", on_gpu(unet(), config(graphs=True)), patch),
        ("CUDA, FP16", on_gpu(unet(np.float16), config()), half),
    ]
    if DEVICES.tensorrt:
        sides.append(("TensorRT", on_gpu(unet(), config(), "tensorrt"), patch))
    for name, session, feed in sides:
        if isinstance(session, DeviceSession):
            session.capture(feed)
        one = median(lambda session=session, feed=feed: session.run(["score"], feed), 3 if name == "CPU" else 20)
        whole = f"{volume(session):.2f}" if feed is patch else ""
        rows.append(f"| {name} | {one * 1e3:.1f} | {whole} |")


def _name() -> str:
    devices = Path("/proc/driver/nvidia/gpus")
    texts = [path.read_text() for path in devices.glob("*/information")] if devices.exists() else []
    names = [
        line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line.startswith("Model")
    ]
    return names[0] if names else "a GPU"

"""What a model runs on, planned for machines with and without GPUs, and sessions that behave as those on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from auscult.inference import execution, metrics, providers
from auscult.inference.config_checks import WrongModelError
from auscult.inference.device_session import DeviceSession, opened
from auscult.inference.model_config import signature
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.pb import open_inference_grpc_pb2 as infer_pb
from auscult.inference.preparing import prepare
from auscult.inference.providers import CPU, CUDA, ON_CPU, TENSORRT, Devices, Plan, plan
from auscult.inference.repository import Repository
from auscult.inference.shared_memory import Regions
from auscult.inference.sliding_window import declared
from auscult.inference.statistics import Statistics
from auscult.inference.volumes import VolumeRun
from auscult.inference.warmup import warm_up
from auscult.inference.wire import Framed
from inference.conftest import DOUBLE
from inference.test_volumes import both_signs

GPU = Devices(gpus=2)
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'Conv_0' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for "
    "requested buffer of size 939524096"
)


def config(text: str = "") -> pb.ModelConfig:
    """Return a configuration."""
    return text_format.Parse(text, pb.ModelConfig())


def names(planned: Plan) -> list[str]:
    """Return the providers, the preferred one first."""
    return [name for name, _ in planned.providers]


@pytest.mark.parametrize(
    ("text", "devices", "expected"),
    [
        ("", Devices(), [CPU]),
        ("", GPU, [CUDA, CPU]),
        ("", Devices(gpus=1, tensorrt=True), [TENSORRT, CUDA, CPU]),
        ("", Devices("cuda", gpus=1, tensorrt=True), [CUDA, CPU]),
        ("", Devices("cpu", gpus=1), [CPU]),
        ("instance_group { kind: KIND_CPU }", GPU, [CPU]),
        ("instance_group { kind: KIND_GPU }", GPU, [CUDA, CPU]),
        ("instance_group { kind: KIND_GPU }", Devices("cpu"), [CPU]),
        ("optimization { cuda { graphs: true } }", Devices(), [CPU]),
    ],
)
def test_best_provider_that_is_there_runs_the_model(text: str, devices: Devices, expected: list[str]) -> None:
    """TensorRT, then CUDA, then the CPU, unless a setting or the model says otherwise."""
    assert names(plan(config(text), devices)) == expected


def test_options_are_those_that_triton_reads() -> None:
    """Device, arena, its growth, CUDA graphs and accelerators' parameters reach ONNX Runtime under its names."""
    planned = plan(
        config("""
        instance_group { kind: KIND_GPU gpus: [1] }
        optimization { cuda { graphs: true } execution_accelerators {
          gpu_execution_accelerator { name: "tensorrt"
            parameters { key: "precision_mode" value: "FP16" }
            parameters { key: "max_workspace_size_bytes" value: "1073741824" } }
          gpu_execution_accelerator { name: "cuda"
            parameters { key: "cudnn_conv_use_max_workspace" value: "0" } } } }
        parameters { key: "gpu_mem_limit" value { string_value: "4294967296" } }
        parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }
        """),
        Devices(gpus=2, tensorrt=True),
    )
    assert planned.providers == (
        (TENSORRT, {"device_id": "1", "trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824"}),
        (
            CUDA,
            {
                "device_id": "1",
                "gpu_mem_limit": "4294967296",
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "cudnn_conv_use_max_workspace": "0",
                "enable_cuda_graph": "1",
            },
        ),
        (CPU, {}),
    )
    assert (planned.device, planned.graphs, planned.arena) == (1, True, 2**32)


@pytest.mark.parametrize(
    ("text", "devices", "message"),
    [
        ("instance_group { kind: KIND_GPU }", Devices(), "asks for KIND_GPU, and this server has none"),
        ("instance_group { kind: KIND_MODEL }", Devices(), "KIND_MODEL is not served"),
        ("instance_group { kind: KIND_GPU } instance_group { kind: KIND_CPU }", GPU, "KIND_CPU and KIND_GPU"),
        ("instance_group { gpus: [0, 1] }", GPU, r"names GPUs \[0, 1\]"),
        ("instance_group { gpus: [2] }", GPU, "names GPU 2; there are 2"),
        ('parameters { key: "gpu_mem_limit" value { string_value: "4G" } }', GPU, "gpu_mem_limit is '4G'"),
        ('parameters { key: "arena_extend_strategy" value { string_value: "x" } }', GPU, "arena_extend_strategy is"),
    ],
)
def test_what_there_is_not_is_refused_by_name(text: str, devices: Devices, message: str) -> None:
    """A model that asks for a device or an option that there is not says which."""
    with pytest.raises(WrongModelError, match=message):
        plan(config(text), devices)


def test_this_machine_is_looked_at() -> None:
    """What is found has a GPU only where ONNX Runtime and the driver both have one; `cpu` looks for none."""
    found = providers.here("auto", 0, 0)
    assert found.gpus == 0 or CUDA in ort.get_available_providers()
    asked = providers.here("cpu", 2, 1)
    assert (asked.preference, asked.gpus, asked.tensorrt) == ("cpu", 0, False)
    assert (asked.memory, asked.model_memory) == (2, 1)


class OnGpu:
    """A session of ONNX Runtime's on the CPU that says to be on a GPU, and whose memory may run out."""

    def __init__(self, model: bytes, error: str = "") -> None:
        self._session = ort.InferenceSession(model, providers=[CPU])
        self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> Sequence[str]:
        """Say what a session on a GPU says."""
        return [CUDA, CPU]

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run, or fail as ONNX Runtime does."""
        if self.error:
            raise RuntimeError(self.error)
        self._session.run_with_iobinding(binding, options)


def on_device(double: bytes, error: str = "", **options: Any) -> DeviceSession:
    """Return a device session of the model with y = x + x."""
    return DeviceSession(
        OnGpu(double, error), lambda: ort.InferenceSession(double, providers=[CPU]), device=("cpu", 0), **options
    )


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_tensors_are_bound(double: bytes) -> None:
    """A run with bound tensors gives what a plain one gives, of any layout."""
    session = on_device(double)
    (y,) = session.run(["y"], {"x": X})
    np.testing.assert_array_equal(y, 2 * X)
    (y,) = session.run(["y"], {"x": np.asfortranarray(X)})
    np.testing.assert_array_equal(y, 2 * X)
    assert not session.fell_back


def test_shapes_of_the_warm_up_are_replayed(double: bytes) -> None:
    """A captured shape has its own tensors, and each answer is the caller's own; other shapes run as ever."""
    session = on_device(double, graphs=True)
    session.capture({"x": X})
    (first,) = session.run(["y"], {"x": X + 1})
    (second,) = session.run(["y"], {"x": X + 2})
    (other,) = session.run(["y"], {"x": X[:1]})
    np.testing.assert_array_equal(first, 2 * (X + 1))
    np.testing.assert_array_equal(second, 2 * (X + 2))
    np.testing.assert_array_equal(other, 2 * X[:1])


def test_cpu_takes_over_where_memory_runs_out(
    repository: Repository, double: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The same request is answered by the CPU; the log, the statistics and the metrics tell it."""
    model = repository.models["double"]
    session = on_device(double, OUT_OF_MEMORY)
    message = infer_pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="FP32", shape=X.shape)
    request = prepare(model, "1", Framed(message, (memoryview(X.tobytes()),)), Regions())
    sessions: Any = {"1": session}
    moved = replace(request, model=replace(model, sessions=sessions))
    outcome = execution.run([moved], ort.RunOptions())
    (answer,) = outcome.answers
    assert isinstance(answer, bytes)
    raw = infer_pb.ModelInferResponse.FromString(answer).raw_output_contents[0]
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(2, 3), 2 * X)
    assert outcome.spent is not None
    assert outcome.spent.fell_back
    statistics = Statistics()
    statistics.of("double", "1").ran([2], [0], outcome.spent)
    assert 'auscult_inference_cpu_fallback_count{model="double",version="1"} 1' in metrics.render(statistics)
    assert "the CPU does it" in caplog.text


def test_volume_that_fell_back_says_so() -> None:
    """The CPU does the patches that the GPU has no memory for, and the volume is told to have needed it."""
    declaring = config("""
        max_batch_size: 1
        input { name: "image" data_type: TYPE_FP32 dims: [1, 4, 4, 4] }
        output { name: "score" data_type: TYPE_FP32 dims: [2, 4, 4, 4] }
        parameters { key: "sliding_window.roi_size" value { string_value: "4,4,4" } }
    """)
    window = declared(declaring)
    assert window
    image = np.arange(-64, 64, dtype=np.int16).reshape(1, 8, 4, 4)
    run = VolumeRun(window, {"image": image}, {"labels": None}, on_device(both_signs(), OUT_OF_MEMORY))
    assert run.advance(ort.RunOptions(), lambda: False)
    assert run.fell_back
    np.testing.assert_array_equal(run.outputs["labels"], image > 0)


@pytest.mark.parametrize(
    "text",
    [
        OUT_OF_MEMORY,
        "Available memory of 0 is smaller than requested bytes of 83886080",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size)",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_every_way_to_say_it_is_understood(double: bytes, text: str) -> None:
    """ONNX Runtime's arena, CUDA and cuDNN each have their own words."""
    session = on_device(double, text)
    assert session.run(["y"], {"x": X})[0].shape == (2, 3)
    assert session.fell_back


def test_other_failures_are_the_models(double: bytes) -> None:
    """What is no lack of memory is not tried again."""
    with pytest.raises(RuntimeError, match="CUDA failure 700: an illegal memory access"):
        on_device(double, "CUDA failure 700: an illegal memory access was encountered").run(["y"], {"x": X})


def test_models_share_a_gpus_memory(double: bytes) -> None:
    """A model whose arena is not left is refused; one that is gone gives back what it had."""
    devices = Devices(gpus=1, memory=100)
    planned = plan(config('parameters { key: "gpu_mem_limit" value { string_value: "60" } }'), devices)
    kept = opened(lambda _: OnGpu(double), planned, devices)
    with pytest.raises(
        WrongModelError, match="gpu_mem_limit of 60 bytes is not left on GPU 0: models hold 60 of 100"
    ):
        opened(lambda _: OnGpu(double), planned, devices)
    del kept
    gc.collect()
    opened(lambda _: OnGpu(double), planned, devices)

    def fails(_: Plan) -> ort.InferenceSession:
        raise WrongModelError("no")

    gc.collect()
    for _ in range(2):
        with pytest.raises(WrongModelError, match="no"):
            opened(fails, planned, devices)


def test_provider_that_does_not_start_is_told(double: bytes) -> None:
    """ONNX Runtime would go on without CUDA, unseen."""
    with pytest.raises(WrongModelError, match="cannot start CUDA"):
        opened(lambda _: ort.InferenceSession(double, providers=[CPU]), plan(config(), GPU), GPU)
    assert isinstance(
        opened(lambda _: ort.InferenceSession(double, providers=[CPU]), ON_CPU, GPU), ort.InferenceSession
    )


WARM = 'model_warmup {{ name: "two" batch_size: {} inputs {{ key: "x" value {{ data_type: TYPE_FP32 {} }} }} }}'


@pytest.mark.parametrize(
    ("size", "data", "message"),
    [
        (2, "dims: [3] zero_data: true", ""),
        (4, "dims: [3] random_data: true", ""),
        (2, 'dims: [3] input_data_file: "x"', ""),
        (0, "dims: [9]", ""),
        (5, "dims: [3] zero_data: true", "batch_size 5 is not within 1 to 4"),
        (1, "dims: [4] zero_data: true", r"FP32 of shape \[-1, 3\] is needed, given FP32 of shape \[1, 4\]"),
        (1, "dims: [3]", "one of zero_data, random_data or input_data_file"),
    ],
)
def test_warm_up_is_run_before_the_model_is_ready(  # noqa: PLR0917
    write: Callable[..., Path],
    seal: Callable[[Path], None],
    tmp_path: Path,
    double: bytes,
    size: int,
    data: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Samples are run, repeated over the batch; one that does not fit keeps the model from being served."""
    ran: list[tuple[int, ...]] = []

    class Session(ort.InferenceSession):  # type: ignore[misc]
        def run(self, names: Any, feed: Any, options: Any = None) -> Any:
            ran.append(feed["x"].shape)
            return super().run(names, feed, options)

    monkeypatch.setattr(ort, "InferenceSession", Session)
    folder = write(tmp_path / "double", DOUBLE + WARM.format(size, data), double)
    (folder / "warmup").mkdir()
    (folder / "warmup" / "x").write_bytes(np.ones(3, np.float32).tobytes())
    seal(folder)
    repository = Repository(tmp_path, threads=1)
    if message:
        with pytest.raises(AssertionError, match=message):
            assert not repository.refused, repository.refused["double"]
    else:
        assert list(repository.models) == ["double"]
    assert ran == ([] if message or not size else [(size, 3)])


def test_warm_up_captures_graphs(double: bytes) -> None:
    """On a GPU the shapes of the warm-up become CUDA graphs."""
    given = config(DOUBLE + WARM.format(2, "dims: [3] zero_data: true"))
    session = on_device(double, graphs=True)
    warm_up(given, signature(given), {}, {"1": session})
    assert list(session._captured) == [(("x", (2, 3)),)]

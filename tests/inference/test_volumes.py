"""Whole volumes through a model of patches: one request each, that pauses, ends and refuses as others do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from auscult.domain.deadline import Deadline
from auscult.inference.client import InferenceClient
from auscult.inference.execution import ModelFailedError, StoppedError
from auscult.inference.loading import Model
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import prepare
from auscult.inference.protocol import METHODS
from auscult.inference.repository import Repository
from auscult.inference.scheduler import Scheduler
from auscult.inference.shared_memory import Regions
from auscult.inference.statistics import Failure, Statistics
from auscult.inference.tensors import datatype_of
from auscult.inference.wire import Framed
from auscult.platform.errors import DeadLetter
from inference.asking import Asked, Callers
from inference.conftest import Serve, graph

CONFIG = """
max_batch_size: 2
input {{ name: "image" data_type: {} dims: [1, 4, 4, 4] }}
output {{ name: "score" data_type: {} dims: [2, 4, 4, 4] }}
parameters {{ key: "sliding_window.roi_size" value {{ string_value: "4,4,4" }} }}
parameters {{ key: "sliding_window.overlap" value {{ string_value: "0.5" }} }}
parameters {{ key: "sliding_window.mode" value {{ string_value: "gaussian" }} }}
"""
SPACING = 'parameters {{ key: "sliding_window.spacing" value {{ string_value: "2,1,1" }} }}'


def both_signs(kind: int = TensorProto.FLOAT) -> bytes:
    """Return a model whose scores are -x and x."""
    image = helper.make_tensor_value_info("image", kind, ["n", 1, 4, 4, 4])
    score = helper.make_tensor_value_info("score", kind, ["n", 2, 4, 4, 4])
    nodes = [
        helper.make_node("Neg", ["image"], ["minus"]),
        helper.make_node("Concat", ["minus", "image"], ["score"], axis=1),
    ]
    return graph(nodes, [image], [score])


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, write: Callable[..., Path]) -> Repository:
    """Return a repository of models of patches."""
    root = tmp_path_factory.mktemp("volumes")
    fp32 = CONFIG.format("TYPE_FP32", "TYPE_FP32")
    write(root / "signs", fp32, both_signs())
    write(root / "spaced", fp32 + SPACING.format(), both_signs())
    write(root / "half", CONFIG.format("TYPE_FP16", "TYPE_FP16"), both_signs(TensorProto.FLOAT16))
    made = Repository(root, threads=1)
    assert not made.refused
    return made


@pytest.fixture(scope="module")
def address(volumes: Repository, serve: Serve) -> Iterator[str]:
    """Return the address of a server of them."""
    with serve(volumes) as address:
        yield address


@pytest.fixture
def client(address: str, tmp_path: Path) -> Iterator[InferenceClient]:
    """Return a client of that server."""
    with InferenceClient(address, tmp_path) as client:
        yield client


def infer(client: InferenceClient, model: str, *outputs: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Run a model."""
    return client.infer(model, inputs, deadline=Deadline.after(30), outputs=outputs)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.float16, np.float32])
@pytest.mark.parametrize("model", ["signs", "half"])
def test_volume_goes_as_it_is(client: InferenceClient, dtype: type, model: str) -> None:
    """Volumes of any size and datatype give labels and probabilities on their own grid."""
    image = (np.arange(5 * 7 * 9) % 23 - (11 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)
    image = image.reshape(1, 5, 7, 9)
    got = infer(client, model, image=image)
    assert (got["labels"].dtype, got["probabilities"].dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(got["labels"], image > 0)
    positive = 1 / (1 + np.exp(-2 * image[0].astype(np.float32)))
    np.testing.assert_allclose(got["probabilities"][1], positive, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 9), (3, 2, 11), (4, 4, 4), (13, 4, 6)])
def test_only_what_is_asked_for_is_made(client: InferenceClient, shape: tuple[int, ...]) -> None:
    """Single slices, volumes smaller than a patch and odd sizes are whole; one output alone may be asked for."""
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    got = infer(client, "signs", "labels", image=image)
    assert list(got) == ["labels"]
    np.testing.assert_array_equal(got["labels"], image > 0)


def test_spacing_comes_with_the_request(client: InferenceClient) -> None:
    """A volume of other voxels is resampled, and its labels lie on its own voxels."""
    image = np.full((1, 6, 10, 10), -1, np.int16)
    image[:, 2:4, 3:7, 3:7] = 50
    got = infer(client, "spaced", "labels", image=image, spacing=np.array([4, 0.5, 0.5], np.float32))
    np.testing.assert_array_equal(got["labels"][0, 2, 4:6, 4:6], 1)
    assert not got["labels"][0, 5].any()
    with pytest.raises(DeadLetter, match=r"expected inputs \['image', 'spacing'\]"):
        infer(client, "spaced", image=image)


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        ("signs", {"image": np.array([[[[1, np.nan]]]], np.float32)}, "'image': there are voxels that are NaN"),
        ("signs", {"image": np.array([[[[np.inf]]]], np.float16)}, "'image': there are voxels that are NaN or inf"),
        (
            "signs",
            {"image": np.zeros((4, 4, 4), np.int16)},
            r"expected INT16 of shape \[1, -1, -1, -1\], given INT16",
        ),
        ("signs", {"image": np.zeros((2, 4, 4, 4), np.int16)}, r"given INT16 of shape \[2, 4, 4, 4\]"),
        ("signs", {"image": np.zeros((1, 4, 0, 4), np.int16)}, "at least one voxel on each axis"),
        ("signs", {"image": np.zeros((1, 4, 4, 4), np.int64)}, "expected FP32 of shape"),
        (
            "spaced",
            {"image": np.zeros((1, 1, 1, 1), np.int8), "spacing": np.array([1, 0, 1], "f4")},
            "three positive",
        ),
        ("spaced", {"image": np.zeros((1, 1, 1, 1), np.int8), "spacing": np.full(3, 1e9, "f4")}, "is it in mm"),
        ("spaced", {"image": np.zeros((1, 1, 1, 1), np.int8), "spacing": np.ones(2, "f4")}, r"FP32 of shape \[3\]"),
        (
            "spaced",
            {"image": np.zeros((1, 1, 64, 64), np.int8), "spacing": np.array([1, 1000, 1000], "f4")},
            r"a volume of \[1, 64, 64\] would take \d+ bytes of work, this machine has",
        ),
    ],
)
def test_what_is_no_volume_is_refused(
    client: InferenceClient, model: str, inputs: dict[str, NDArray[Any]], text: str
) -> None:
    """NaN, a wrong rank, channel, datatype or spacing is INVALID_ARGUMENT, with a sentence that names it."""
    with pytest.raises(DeadLetter, match=f"INVALID_ARGUMENT.*{text}"):
        infer(client, model, **inputs)


def test_clients_see_the_volume(address: str) -> None:
    """ModelMetadata and ModelConfig tell volumes of any size, without a batch."""
    with grpc.insecure_channel(address) as channel:

        def call(name: str, request: Any) -> Any:
            method = METHODS[name]
            stub = channel.unary_unary(method.path, method.encode_request, method.decode_response)
            return stub(request, timeout=30)

        told = call("ModelMetadata", pb.ModelMetadataRequest(name="spaced"))
        config = call("ModelConfig", pb.ModelConfigRequest(name="spaced")).config
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in (*told.inputs, *told.outputs)] == [
        ("image", "FP32", [1, -1, -1, -1]),
        ("spacing", "FP32", [3]),
        ("labels", "UINT8", [1, -1, -1, -1]),
        ("probabilities", "FP32", [2, -1, -1, -1]),
    ]
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [1, -1, -1, -1])
    assert config.parameters["sliding_window.roi_size"].string_value == "4,4,4"


def request(model: Model, image: NDArray[Any], **outputs: dict[str, Any]) -> pb.ModelInferRequest:
    """Return a request with the volume's description, and places for outputs."""
    message = pb.ModelInferRequest(model_name=model.name)
    message.inputs.add(name="image", datatype=datatype_of(image).name, shape=image.shape)
    for name, place in outputs.items():
        asked = message.outputs.add(name=name)
        for key, value in place.items():
            field = "string_param" if isinstance(value, str) else "int64_param"
            setattr(asked.parameters[key], field, value)
    return message


def test_labels_are_written_into_shared_memory(volumes: Repository) -> None:
    """A volume that lies in shared memory is not copied, and its labels go where the client wants them."""
    model = volumes.models["signs"]
    image = np.arange(-32, 32, dtype=np.int16).reshape(1, 4, 4, 4)
    path = Path("/dev/shm") / f"auscult_volume_{os.getpid()}"  # noqa: S108 - where Linux keeps them
    path.write_bytes(image.tobytes() + bytes(64))
    regions = Regions()
    regions.register("r", f"/{path.name}", 0, 192)

    def run(byte_size: int) -> bytes:
        place = {"shared_memory_region": "r", "shared_memory_offset": 128, "shared_memory_byte_size": byte_size}
        message = request(model, image, labels=place)
        message.inputs[0].parameters["shared_memory_region"].string_param = "r"
        message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 128
        prepared = prepare(model, "1", Framed(message, ()), regions)
        assert not prepared.feed["image"].flags.owndata
        return Scheduler(Statistics(), 1).infer(prepared)

    try:
        answer = pb.ModelInferResponse.FromString(run(64))
        assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == 64
        assert path.read_bytes()[128:] == (image > 0).astype(np.uint8).tobytes()
        with pytest.raises(Exception, match="63 bytes of shared memory region 'r' given, 64 needed"):
            run(63)
    finally:
        path.unlink()


class Session:
    """Scores batches of patches like the model; each run waits for its turn and leaves its name behind."""

    def __init__(self, runs: list[str], name: str) -> None:
        self.runs, self.name = runs, name
        self.turns = threading.Semaphore(0)
        self.started = threading.Semaphore(0)

    def run(self, _names: list[str], feed: dict[str, Any], options: Any) -> list[Any]:
        """Return the scores; fails on a 13."""
        self.runs.append(self.name)
        self.started.release()
        while not self.turns.acquire(timeout=0.01):
            if options.terminate:
                raise RuntimeError("terminated")
        if 13 in feed["image"]:
            raise RuntimeError("unlucky")
        return [np.concatenate([-feed["image"], feed["image"]], axis=1)]


class Bench:
    """A scheduler of one slot, and models on sessions as above that share a list of what ran."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.runs: list[str] = []
        self.sessions: list[Session] = []
        self.statistics = Statistics()
        self.callers = Callers(Scheduler(self.statistics, 1))

    def model(self, name: str) -> tuple[Model, Session]:
        """Return one more model and its session."""
        session: Any = Session(self.runs, name)
        self.sessions.append(session)
        return replace(self._model, name=name, sessions={"1": session}), session

    def ask(self, model: Model, depth: int, value: int = 1, priority: int = 0) -> Asked:
        """Put a volume of `depth` planes, each patch of which takes a run of its own, into the queue."""
        image = np.full((1, depth, 4, 4), value, np.int16)
        message = request(model, image, labels={})
        message.parameters["priority"].uint64_param = priority
        prepared = prepare(model, "1", Framed(message, (memoryview(image.tobytes()),)), Regions())
        return self.callers.ask(prepared)


@pytest.fixture
def drive(volumes: Repository) -> Callable[[Callable[[Bench], Any]], Bench]:
    """Return a function that runs a scenario and gives its bench."""

    def drive(scenario: Callable[[Bench], Any]) -> Bench:
        bench = Bench(volumes.models["signs"])
        try:
            scenario(bench)
        finally:
            for session in bench.sessions:
                session.turns.release(100)
            bench.callers.close()
        return bench

    return drive


def test_emergency_overtakes_between_patches(drive: Callable[..., Bench]) -> None:
    """A volume that runs pauses for what is more urgent, then goes on where it was, and loses nothing."""

    def scenario(bench: Bench) -> None:
        (research, slow), (emergency, fast) = bench.model("research"), bench.model("emergency")
        first = bench.ask(research, 8)  # three patches
        assert slow.started.acquire(timeout=30)
        other = bench.ask(research, 4)
        urgent = bench.ask(emergency, 4, priority=1)
        fast.turns.release()
        slow.turns.release()
        assert len(pb.ModelInferResponse.FromString(urgent.result()).raw_output_contents[0]) == 64
        assert bench.statistics.of("research", "1").pending >= 0
        slow.turns.release(3)
        answer = pb.ModelInferResponse.FromString(first.result())
        assert answer.raw_output_contents[0] == b"\1" * 128
        other.result()

    bench = drive(scenario)
    assert bench.runs == ["research", "emergency", "research", "research", "research"]
    numbers = bench.statistics.of("research", "1")
    assert (numbers.inferences, numbers.success.count, numbers.pending) == (2, 2, 0)


def test_client_that_is_gone_ends_its_volume(drive: Callable[..., Bench]) -> None:
    """No further patch runs for a caller that left, whether its volume runs or is paused."""

    def scenario(bench: Bench) -> None:
        (gone, slow), (emergency, fast) = bench.model("gone"), bench.model("emergency")
        first = bench.ask(gone, 8)
        assert slow.started.acquire(timeout=30)
        urgent = bench.ask(emergency, 4, priority=1)
        slow.turns.release()
        assert fast.started.acquire(timeout=30)
        first.give_up()  # paused
        second = bench.ask(gone, 8)
        fast.turns.release()
        urgent.result()
        assert slow.started.acquire(timeout=30)
        second.give_up()  # running
        with pytest.raises(StoppedError):
            second.result()

    bench = drive(scenario)
    assert bench.runs == ["gone", "emergency", "gone"]
    assert bench.statistics.of("gone", "1").failures == {Failure.CANCELED: 2}


def test_failure_of_a_patch_is_the_volumes(drive: Callable[..., Bench]) -> None:
    """A run that fails is told once, without what the volume holds."""

    def scenario(bench: Bench) -> None:
        model, session = bench.model("failing")
        session.turns.release()
        with pytest.raises(ModelFailedError, match="model 'failing' version 1 failed: unlucky"):
            bench.ask(model, 8, value=13).result()

    assert drive(scenario).runs == ["failing"]


def test_memory_of_a_volume_counts_while_it_runs(volumes: Repository) -> None:
    """What a request holds are its voxels, the sums of one patch's depth, and its results."""
    model = volumes.models["signs"]
    image = np.zeros((1, 100, 8, 8), np.int16)
    prepared = prepare(
        model, "1", Framed(request(model, image, labels={}), (memoryview(image.tobytes()),)), Regions()
    )
    assert prepared.nbytes == image.nbytes + 2 * 4 * 8 * 8 * 4 + image.size

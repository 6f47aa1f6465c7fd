"""The server as another implementation's client meets it: plain protocol messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from auscult.inference import server
from auscult.inference.execution import StoppedError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import prepare
from auscult.inference.repository import Repository
from auscult.inference.scheduler import Scheduler
from auscult.inference.shared_memory import Regions
from auscult.inference.statistics import Statistics
from auscult.inference.tensors import DATATYPES, TensorSpec
from auscult.inference.wire import Framed
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

Call = Callable[[str, Any], Any]


@pytest.fixture(scope="module")
def channel(target: str) -> Iterator[grpc.Channel]:
    """Return a channel to the server."""
    with grpc.insecure_channel(target) as channel:
        yield channel


@pytest.fixture(scope="module")
def call(channel: grpc.Channel) -> Call:
    """Return a function that calls a method with its plain message."""

    def call(method: str, request: Any) -> Any:
        stub = channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        return stub(request, timeout=30)

    return call


def typed(datatype: str, values: list[Any]) -> pb.ModelInferRequest:
    """Return a request with typed contents to the mirror of `datatype`."""
    request = pb.ModelInferRequest(model_name=f"mirror_{datatype}", id="7")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(tensor.contents, DATATYPES[datatype].contents).extend(values)
    return request


def test_server_tells_what_it_is(call: Call) -> None:
    """Liveness, readiness, name and extensions."""
    assert call("ServerLive", pb.ServerLiveRequest()).live
    assert call("ServerReady", pb.ServerReadyRequest()).ready
    metadata = call("ServerMetadata", pb.ServerMetadataRequest())
    assert metadata.name == "auscult"
    assert {"model_configuration", "model_repository", "system_shared_memory"} < set(metadata.extensions)


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [("double", "", True), ("double", "1", True), ("double", "2", False), ("broken", "", False), ("x", "", False)],
)
def test_readiness_is_per_model(call: Call, model: str, version: str, ready: bool) -> None:
    """Only a model and version that are served are ready."""
    assert call("ModelReady", pb.ModelReadyRequest(name=model, version=version)).ready is ready


def test_metadata_has_the_batch_dimension_and_the_configuration_has_not(call: Call) -> None:
    """Shapes in the metadata are those of requests; in the configuration they exclude the batch."""
    metadata = call("ModelMetadata", pb.ModelMetadataRequest(name="double"))
    assert metadata.platform == "onnxruntime_onnx"
    assert list(metadata.versions) == ["1"]
    assert metadata.inputs[0] == pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 3])
    config = call("ModelConfig", pb.ModelConfigRequest(name="double")).config
    assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("double", 4, [3])


@pytest.mark.parametrize(
    ("method", "model", "code", "details"),
    [
        ("ModelMetadata", "nobody", grpc.StatusCode.NOT_FOUND, "unknown model 'nobody'"),
        ("ModelMetadata", "broken", grpc.StatusCode.UNAVAILABLE, "is not the file that SHA256SUMS lists"),
        ("ModelConfig", "broken", grpc.StatusCode.UNAVAILABLE, "is not the file that SHA256SUMS lists"),
    ],
)
def test_model_that_is_not_served_says_why(
    call: Call, method: str, model: str, code: grpc.StatusCode, details: str
) -> None:
    """An unknown model is NOT_FOUND, a refused one UNAVAILABLE with its reason."""
    with pytest.raises(grpc.RpcError) as failure:
        call(method, getattr(pb, f"{method}Request")(name=model))
    assert failure.value.code() == code
    assert details in failure.value.details()


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [65535]),
        ("UINT32", [2**32 - 1]),
        ("UINT64", [2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-1024]),
        ("INT32", [-(2**31)]),
        ("INT64", [-(2**63)]),
        ("FP32", [0.5, -2.0]),
        ("FP64", [0.1]),
        ("BYTES", [b"solid", b""]),
    ],
)
def test_typed_contents_are_read_and_raw_contents_returned(call: Call, datatype: str, values: list[Any]) -> None:
    """Each datatype may come in its typed field; what goes out is raw, with the request's id and the run's time."""
    response = call("ModelInfer", typed(datatype, values))
    assert (response.model_name, response.model_version, response.id) == (f"mirror_{datatype}", "1", "7")
    assert response.parameters["run_ms"].double_param > 0
    (raw,) = response.raw_output_contents
    if datatype == "BYTES":
        assert raw == b"\x05\0\0\0solid\0\0\0\0"
    else:
        assert np.frombuffer(raw, DATATYPES[datatype].numpy).tolist() == values


def test_any_nonzero_byte_is_true(call: Call) -> None:
    """Raw BOOL bytes other than 0 and 1 are made 1 before they reach the model."""
    request = pb.ModelInferRequest(model_name="mirror_BOOL", raw_input_contents=[b"\x00\x02\xff"])
    request.inputs.add(name="x", datatype="BOOL", shape=[3])
    assert call("ModelInfer", request).raw_output_contents == [b"\x00\x01\x01"]


def test_only_requested_outputs_are_returned(call: Call) -> None:
    """One of two outputs is asked for, one comes."""
    request = pb.ModelInferRequest(model_name="pair")
    for name in "ab":
        request.inputs.add(name=name, datatype="FP32", shape=[2]).contents.fp32_contents.extend([1, 2])
    request.outputs.add(name="total")
    response = call("ModelInfer", request)
    assert [tensor.name for tensor in response.outputs] == ["total"]
    assert np.frombuffer(response.raw_output_contents[0], "<f4").tolist() == [2, 4]


def _wrong(**changes: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="mirror_INT8", raw_input_contents=changes.pop("raw", []))
    tensor = request.inputs.add(name="x", datatype="INT8", shape=changes.pop("shape", [2]))
    getattr(tensor.contents, changes.pop("field", "int_contents")).extend(changes.pop("values", []))
    for parameter in changes.pop("parameters", []):
        tensor.parameters[parameter].string_param = "x"
    for output in changes.pop("outputs", []):
        request.outputs.add(name=output)
    return request


@pytest.mark.parametrize(
    ("request_", "details"),
    [
        (_wrong(raw=[b"abc"]), "input 'x': 3 bytes of raw contents given, 2 expected"),
        (_wrong(raw=[b"ab", b"c"]), "2 raw_input_contents given, 1 expected"),
        (_wrong(raw=[b"ab"], values=[1, 2]), "input 'x': both raw and typed contents given"),
        (_wrong(values=[1]), "input 'x': 1 elements given, 2 expected"),
        (_wrong(values=[1, 128]), "input 'x': an element lies outside INT8's range, -128 to 127"),
        (_wrong(field="fp32_contents", values=[1, 2]), "contents in fp32_contents, but INT8 belongs in int_contents"),
        (_wrong(shape=[-2]), "expected INT8 of shape [-1], given INT8 of shape [-2]"),
        (_wrong(raw=[b"ab"], outputs=["z"]), "output 'z' is not one of the model's: ['y']"),
    ],
)
def test_wrong_contents_are_named(call: Call, request_: pb.ModelInferRequest, details: str) -> None:
    """Contents that do not fit their tensor are INVALID_ARGUMENT, with the tensor and the numbers."""
    with pytest.raises(grpc.RpcError) as failure:
        call("ModelInfer", request_)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details in failure.value.details()


def test_half_floats_must_be_raw(call: Call) -> None:
    """FP16 has no typed field; the refusal says what to send."""
    request = pb.ModelInferRequest(model_name="mirror_FP16")
    request.inputs.add(name="x", datatype="FP16", shape=[1]).contents.fp32_contents.append(1)
    with pytest.raises(grpc.RpcError, match="FP16 has no typed contents; send raw contents"):
        call("ModelInfer", request)


def test_health_service_answers(channel: grpc.Channel) -> None:
    """`grpc.health.v1` says that the server and the service are serving."""
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_request_whose_caller_is_gone_never_runs(repository: Repository) -> None:
    """Where the deadline passed while the request waited, the session is not touched."""
    model = replace(repository.models["mirror_INT8"], sessions={})
    prepared = prepare(model, "1", Framed(_wrong(values=[1, 2]), ()), Regions())
    with pytest.raises(StoppedError):
        Scheduler(Statistics(), 1).infer(prepared, expires=0)


def test_two_servers_cannot_share_an_address(repository: Repository) -> None:
    """The second server on a port refuses to start."""
    first = server.create_server(repository, "127.0.0.1:0")
    with pytest.raises(RefuseToStart, match=f"127.0.0.1:{first.port}") as refusal:
        server.create_server(repository, f"127.0.0.1:{first.port}")
    assert refusal.value.reason == "inference-address"
    first.stop(None)


def test_serving_ends_when_told(root: Path) -> None:
    """`serve` serves until its event is set."""
    stopping = threading.Event()
    settings = Settings(model_repository=root, inference_listen="127.0.0.1:0", inference_threads=1)
    serving = threading.Thread(target=server.serve, args=(settings, stopping))
    serving.start()
    stopping.set()
    serving.join(30)
    assert not serving.is_alive()


def test_server_without_a_model_refuses_to_start(tmp_path: Path) -> None:
    """A folder without models cannot be meant."""
    with pytest.raises(RefuseToStart) as refusal:
        server.serve(Settings(model_repository=tmp_path), threading.Event())
    assert refusal.value.reason == "model-repository-empty"


@pytest.mark.parametrize("control", ["explicit", "poll"])
def test_server_whose_models_come_later_starts_without_one(tmp_path: Path, control: str) -> None:
    """Where models are loaded by request or when they arrive, there may be none at the start."""
    stopping = threading.Event()
    settings = Settings.model_validate(
        {"model_repository": tmp_path, "inference_listen": "127.0.0.1:0", "inference_model_control": control}
    )
    server.serve(settings, stopping, on_ready=stopping.set)
    assert stopping.is_set()


def test_tensors_are_reshaped_as_configured(
    tmp_path: Path, write: Callable[..., Path], serve: Callable[..., Any], double: bytes
) -> None:
    """Callers see `dims`, the graph `reshape`, each request of a batch with the sizes that it came with."""
    config = """
max_batch_size: 4
dynamic_batching { }
input { name: "x" data_type: TYPE_FP32 dims: [3, 1] reshape { shape: [3] } }
output { name: "y" data_type: TYPE_FP32 dims: [1, 3] reshape { shape: [3] } }
"""
    write(tmp_path / "reshaped", config, double)
    request = pb.ModelInferRequest(model_name="reshaped")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2, 3, 1])
    tensor.contents.fp32_contents.extend(range(6))
    with serve(Repository(tmp_path, threads=1)) as address, grpc.insecure_channel(address) as channel:

        def call(method: str, asked: Any) -> Any:
            path = f"/inference.GRPCInferenceService/{method}"
            answer = getattr(pb, f"{method}Response").FromString
            return channel.unary_unary(path, type(asked).SerializeToString, answer)(asked, timeout=30)

        metadata = call("ModelMetadata", pb.ModelMetadataRequest(name="reshaped"))
        response = call("ModelInfer", request)
        tensor.shape[:] = [2, 3]
        with pytest.raises(grpc.RpcError, match=r"expected FP32 of shape \[-1, 3, 1\], given FP32 of shape \[2, 3\]"):
            call("ModelInfer", request)
    assert (metadata.inputs[0].shape, metadata.outputs[0].shape) == ([-1, 3, 1], [-1, 1, 3])
    assert response.outputs[0].shape == [2, 1, 3]
    assert np.frombuffer(response.raw_output_contents[0], "<f4").tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("shape", "reshaped", "given", "taken"),
    [
        ((-1, 4), (-1, 2, 2), (3, 4), (3, 2, 2)),
        ((-1, 1), (-1,), (3, 1), (3,)),
        ((-1, -1, 6), (-1, 1, -1, 2, 3), (2, 5, 6), (2, 1, 5, 2, 3)),
        ((1,), (), (1,), ()),
    ],
)
def test_sizes_of_any_number_keep_their_order(
    shape: tuple[int, ...], reshaped: tuple[int, ...], given: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    """There and back."""
    spec = TensorSpec("x", DATATYPES["FP32"], shape, reshaped=reshaped)
    array = np.arange(float(np.prod(given))).reshape(given)
    assert spec.to_graph(array).shape == taken
    assert np.array_equal(spec.from_graph(spec.to_graph(array)), array)

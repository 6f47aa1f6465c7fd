"""What Triton has beyond the protocol's core, as tritonclient asks for it: classification, parameters, options."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    KeepAliveOptions,
    model_config_pb2,
    service_pb2,
    service_pb2_grpc,
)

ROW = np.array([[0.25, 3, 1]], np.float32)


@pytest.fixture(scope="module")
def stub(target: str) -> Iterator[Any]:
    """Return the stub that tritonclient's own client is made of."""
    with grpc.insecure_channel(target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def fields(file: FileDescriptorProto) -> set[tuple[object, ...]]:
    """Return every field and value of a file's messages: name, number, type."""

    def of(message: DescriptorProto, path: str) -> Iterator[tuple[object, ...]]:
        for field in message.field:
            choice = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            yield path, field.name, field.number, field.type, field.type_name, field.label, choice
        for enum in message.enum_type:
            yield from ((f"{path}.{enum.name}", value.name, value.number) for value in enum.value)
        for nested in message.nested_type:
            yield from of(nested, f"{path}.{nested.name}")

    found = {entry for message in file.message_type for entry in of(message, message.name)}
    found |= {(enum.name, value.name, value.number) for enum in file.enum_type for value in enum.value}
    return found | {
        (method.name, method.input_type, method.output_type, method.client_streaming)
        for service in file.service
        for method in service.method
    }


def test_messages_are_the_same_on_the_wire() -> None:
    """Each message, field, number, type and method is Triton's, and none is missing."""
    ours = FileDescriptorSet.FromString(bytes.fromhex(os.environ["CONFORMANCE_DESCRIPTORS"]))
    for file, module in zip(ours.file, (model_config_pb2, service_pb2), strict=True):
        theirs = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(theirs)
        assert fields(file) == fields(theirs)


def test_classes_come_instead_of_numbers(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """`class_count` gives the highest elements as `value:index:label`, for each of the batch."""
    y = InferRequestedOutput("y", class_count=2)
    batch = np.concatenate([ROW, ROW[:, ::-1]])
    result = client.infer("labelled", [tensor(batch)], outputs=[y])
    assert result.as_numpy("y").tolist() == [
        [b"6.000000:1:part-solid", b"2.000000:2"],
        [b"6.000000:1:part-solid", b"2.000000:0:solid"],
    ]
    assert (result.get_output("y").datatype, list(result.get_output("y").shape)) == ("BYTES", [2, 2])
    assert client.infer("double", [tensor(ROW)], outputs=[y]).as_numpy("y").tolist() == [
        [b"6.000000:1", b"2.000000:2"]
    ]


def test_texts_have_no_classes(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """What has no order cannot be classified."""
    texts = np.array([b"a"], object)
    outputs = [InferRequestedOutput("y", class_count=1)]
    assert "BYTES has no classification" in refused(
        "INVALID_ARGUMENT", client.infer, "mirror_BYTES", [tensor(texts)], outputs=outputs
    )


def test_parameters_are_taken(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """Those of Triton's, a sequence's also where the model keeps none, and any of the caller's own."""
    options: list[dict[str, Any]] = [
        {"priority": 1, "timeout": 10_000_000},
        {"sequence_id": 42, "sequence_start": True, "sequence_end": True},
        {"sequence_id": "study", "sequence_start": True},
        {"parameters": {"site": "a", "urgent": True, "number": 3, "score": 0.5}},
    ]
    for given in options:
        assert client.infer("double", [tensor(ROW)], **given).as_numpy("y").tolist() == (2 * ROW).tolist()


@pytest.mark.parametrize(
    ("name", "parameter", "words"),
    [
        ("priority", service_pb2.InferParameter(string_param="high"), "uint64_param is expected, given string_param"),
        ("timeout", service_pb2.InferParameter(bool_param=True), "uint64_param is expected, given bool_param"),
        ("timeout", service_pb2.InferParameter(int64_param=-1), "-1 is negative"),
        ("sequence_start", service_pb2.InferParameter(int64_param=1), "bool_param is expected, given int64_param"),
        ("triton_secret", service_pb2.InferParameter(int64_param=1), "are reserved"),
    ],
)
def test_wrong_parameters_are_named(stub: Any, name: str, parameter: Any, words: str) -> None:
    """A parameter of the wrong type, or of a name that is Triton's own."""
    request = service_pb2.ModelInferRequest(model_name="double", raw_input_contents=[ROW.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.parameters[name].CopyFrom(parameter)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request, timeout=30)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"parameter '{name}': " in failure.value.details()
    assert words in failure.value.details()


def test_optional_input_may_be_left_out(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """The graph then takes its own value."""
    x = tensor(np.array([1, 2], np.float32))
    assert client.infer("optional", [x]).as_numpy("y").tolist() == [11, 22]
    offset = tensor(np.array([5, 5], np.float32), "offset")
    assert client.infer("optional", [offset, x]).as_numpy("y").tolist() == [6, 7]


def test_required_input_may_not(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """An input that is missing, and one that comes twice."""
    x = tensor(np.array([1, 2], np.float32))
    offset = tensor(np.array([5, 5], np.float32), "offset")
    assert "given ['offset']" in refused("INVALID_ARGUMENT", client.infer, "optional", [offset])
    assert "given ['x', 'x']" in refused("INVALID_ARGUMENT", client.infer, "optional", [x, x])


def test_empty_tensors_pass(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """A dimension of size zero is a size like others, but for a batch."""
    for datatype in (np.float32, np.float16, object):
        name = {np.float32: "FP32", np.float16: "FP16", object: "BYTES"}[datatype]
        result = client.infer(f"mirror_{name}", [tensor(np.empty(0, datatype))])
        assert result.as_numpy("y").shape == (0,)
    words = refused("INVALID_ARGUMENT", client.infer, "double", [tensor(np.empty((0, 3), np.float32))])
    assert "a batch of 1 to 4 is expected, given 0" in words


def test_batch_dimension_is_needed(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """A tensor of the configured shape alone, without a batch."""
    words = refused("INVALID_ARGUMENT", client.infer, "double", [tensor(ROW[0])])
    assert "input 'x': expected FP32 of shape [-1, 3], given FP32 of shape [3]" in words


def test_bf16_is_told_not_to_be_served(client: InferenceServerClient, refused: Callable[..., str]) -> None:
    """What tritonclient can send, and no model here takes."""
    x = InferInput("x", [2], "BF16")
    x.set_data_from_numpy(np.array([1, 2], ml_dtypes.bfloat16))
    words = refused("INVALID_ARGUMENT", client.infer, "mirror_FP16", [x])
    assert "expected FP16 of shape [-1], given BF16" in words


@pytest.mark.parametrize("sizes", [1, 5])
def test_wrong_count_is_named(stub: Any, sizes: int) -> None:
    """Raw contents of more or fewer bytes than the shape says."""
    request = service_pb2.ModelInferRequest(model_name="mirror_FP32", raw_input_contents=[bytes(4 * sizes)])
    request.inputs.add(name="x", datatype="FP32", shape=[3])
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request, timeout=30)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"input 'x': {4 * sizes} bytes of raw contents given, 12 expected" in failure.value.details()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(
    client: InferenceServerClient, tensor: Callable[..., Any], algorithm: str
) -> None:
    """Requests may come compressed, over a stream, too."""
    x = np.zeros(100_000, np.float32)
    result = client.infer("mirror_FP32", [tensor(x)], compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("y"), x)
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)), compression_algorithm=algorithm)
    client.async_stream_infer("mirror_FP32", [tensor(x)])
    result, error = came.get(timeout=30)
    client.stop_stream()
    assert error is None
    assert np.array_equal(result.as_numpy("y"), x)


def test_final_response_is_told(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """With `enable_empty_final_response` a request of a stream still has one response, which is the final one."""
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for _ in range(2):
        client.async_stream_infer("double", [tensor(ROW)], enable_empty_final_response=True)
    for _ in range(2):
        result, error = came.get(timeout=30)
        assert error is None
        assert result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()
    assert came.empty()


def test_stream_error_has_the_requests_id(stub: Any) -> None:
    """The id tells which of the stream's requests failed."""
    requests = [service_pb2.ModelInferRequest(model_name="nobody", id=f"{number}") for number in range(3)]
    for number, response in enumerate(stub.ModelStreamInfer(iter(requests), timeout=30)):
        assert response.infer_response.id == f"{number}"
        assert "unknown model 'nobody'" in response.error_message


def test_client_may_look_often_whether_the_server_lives(
    target: str, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """While a run keeps it waiting its pings do not end the call: its own deadline does."""
    options = KeepAliveOptions(
        keepalive_time_ms=200, keepalive_permit_without_calls=True, http2_max_pings_without_data=0
    )
    with InferenceServerClient(target, keepalive_options=options) as client:
        refused("DEADLINE_EXCEEDED", client.infer, "endless", [tensor(np.array(2**62), "n")], client_timeout=4)


def test_index_of_what_is_ready(stub: Any) -> None:
    """With `ready` there is no line of a model that is not."""
    every = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=30).models
    ready = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True), timeout=30).models
    assert {it.state for it in every} == {"READY", "UNAVAILABLE"}
    assert {it.state for it in ready} == {"READY"}
    assert [it for it in every if it.state == "READY"] == list(ready)


def test_dependents_may_be_unloaded_too(client: InferenceServerClient) -> None:
    """No model here has any; to say so is right."""
    client.unload_model("swap", unload_dependents=True)
    assert not client.is_model_ready("swap")
    client.load_model("swap")


def test_one_response_to_a_request_is_configured(client: InferenceServerClient) -> None:
    """perf_analyzer looks whether a model is decoupled before it measures."""
    config = client.get_model_config("double").config
    assert not config.model_transaction_policy.decoupled
    assert config.WhichOneof("scheduling_choice") is None
    assert client.get_model_config("double", as_json=True)["config"]["name"] == "double"


def test_whole_volume_goes_through_a_model_of_patches(client: InferenceServerClient) -> None:
    """A volume of any size and of the scanner's datatype comes back as labels; its metadata says what it takes."""
    metadata = client.get_model_metadata("patches")
    assert [(it.name, it.datatype, list(it.shape)) for it in metadata.inputs] == [("image", "FP32", [1, -1, -1, -1])]
    volume = np.arange(-500, 500, dtype=np.int16).reshape(1, 5, 10, 20)
    image = InferInput("image", volume.shape, "INT16")
    image.set_data_from_numpy(volume)
    result = client.infer("patches", [image], outputs=[InferRequestedOutput("labels")])
    assert result.as_numpy("labels").dtype == np.uint8
    np.testing.assert_array_equal(result.as_numpy("labels"), volume > 0)
    assert result.as_numpy("probabilities") is None

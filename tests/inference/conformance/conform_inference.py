"""ModelInfer and ModelStreamInfer, as tritonclient calls them."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    aio,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException

EVER = 2**62
NUMBERS = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
TYPED = {
    "BOOL": ("bool_contents", [True, False]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [65535]),
    "UINT32": ("uint_contents", [2**32 - 1]),
    "UINT64": ("uint64_contents", [2**64 - 1]),
    "INT8": ("int_contents", [-128]),
    "INT16": ("int_contents", [-1024]),
    "INT32": ("int_contents", [-(2**31)]),
    "INT64": ("int64_contents", [-(2**63)]),
    "FP32": ("fp32_contents", [0.5]),
    "FP64": ("fp64_contents", [0.1]),
}


def numpy(datatype: str) -> type:
    """Return numpy's type of a datatype."""
    from tritonclient.utils import triton_to_np_dtype

    return triton_to_np_dtype(datatype)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_raw_numbers_come_back(client: InferenceServerClient, tensor: Callable[..., Any], datatype: str) -> None:
    """What set_data_from_numpy sends, as_numpy returns."""
    x = np.array([0, 1, 1], numpy(datatype))
    result = client.infer(f"mirror_{datatype}", [tensor(x)], request_id="7")
    assert result.as_numpy("y").dtype == x.dtype
    assert result.as_numpy("y").tolist() == x.tolist()
    assert (result.get_response().id, result.get_response().model_version) == ("7", "1")


def test_texts_come_back(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """BYTES with lengths of their own, empty ones too."""
    texts = np.array([b"Lunge", b"", "肺".encode()], object)
    assert client.infer("mirror_BYTES", [tensor(texts)]).as_numpy("y").tolist() == texts.tolist()


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_are_read(target: str, datatype: str) -> None:
    """Each typed field is understood as the generated stub writes it."""
    field, values = TYPED[datatype]
    request = service_pb2.ModelInferRequest(model_name=f"mirror_{datatype}")
    put = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(put.contents, field).extend(values)
    with grpc.insecure_channel(target) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert np.frombuffer(response.raw_output_contents[0], numpy(datatype)).tolist() == values


def test_only_requested_outputs_come(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """One output of two is asked for."""
    inputs = [tensor(np.array([5, 7], np.float32), "a"), tensor(np.array([2, 3], np.float32), "b")]
    result = client.infer("pair", inputs, outputs=[InferRequestedOutput("difference")])
    assert result.as_numpy("difference").tolist() == [3, 4]
    assert result.as_numpy("total") is None


def test_versions_answer_apart(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """The latest version answers unless another one is asked for."""
    x = tensor(np.ones((1, 3), np.float32))
    assert client.infer("versions", [x]).get_response().model_version == "2"
    assert client.infer("versions", [x]).as_numpy("y").tolist() == [[4, 4, 4]]
    assert client.infer("versions", [x], model_version="1").as_numpy("y").tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("asked", "array", "code", "words"),
    [
        (("nobody", ""), np.zeros((1, 3), np.float32), "NOT_FOUND", "unknown model 'nobody'"),
        (("versions", "9"), np.zeros((1, 3), np.float32), "NOT_FOUND", "no version '9'; there are 1, 2"),
        (("broken", ""), np.zeros((1, 3), np.float32), "UNAVAILABLE", "1/model.onnx is not the file"),
        (
            ("double", ""),
            np.zeros((1, 4), np.float32),
            "INVALID_ARGUMENT",
            "input 'x': expected FP32 of shape [-1, 3]",
        ),
        (("double", ""), np.zeros((1, 3), np.int16), "INVALID_ARGUMENT", "given INT16 of shape [1, 3]"),
        (("double", ""), np.zeros((5, 3), np.float32), "INVALID_ARGUMENT", "a batch of 1 to 4 is expected, given 5"),
        (("mirror_BYTES", ""), np.array([b"\xff"], object), "INVALID_ARGUMENT", "not UTF-8"),
    ],
)
def test_wrong_request_is_named(
    client: InferenceServerClient,
    tensor: Callable[..., Any],
    refused: Callable[..., str],
    *,
    asked: tuple[str, str],
    array: Any,
    code: str,
    words: str,
) -> None:
    """Names, versions, shapes and types that do not fit get Triton's code and a sentence with what is wrong."""
    assert words in refused(code, client.infer, asked[0], [tensor(array)], asked[1])


def test_wrong_tensor_names_are_named(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """An input or output that the model has not."""
    x = np.zeros((1, 3), np.float32)
    assert "given ['z']" in refused("INVALID_ARGUMENT", client.infer, "double", [tensor(x, "z")])
    outputs = [InferRequestedOutput("z")]
    assert "output 'z'" in refused("INVALID_ARGUMENT", client.infer, "double", [tensor(x)], outputs=outputs)


def test_failing_model_is_internal(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """A model that fails while it runs says where, and not on what."""
    message = refused("INTERNAL", client.infer, "pick", [tensor(np.array(987654), "i")])
    assert "choose" in message
    assert "987654" not in message


def test_deadline_ends_the_run(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """A run without end is over when the client's time is, and the next request is answered."""
    refused("DEADLINE_EXCEEDED", client.infer, "endless", [tensor(np.array(EVER), "n")], client_timeout=0.3)
    assert client.infer("endless", [tensor(np.array(3), "n")], client_timeout=30).as_numpy("y") == 3


def test_cancellation_ends_the_run(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """A cancelled request is counted as failed, and what it ran on is free again."""
    before = client.get_inference_statistics("endless").model_stats[0].inference_stats.fail.count
    answered: queue.Queue[Any] = queue.Queue()
    call = client.async_infer(
        "endless", [tensor(np.array(EVER), "n")], lambda result, error: answered.put((result, error))
    )
    time.sleep(0.1)  # so that it is under way; were it not, it would be cancelled in the queue, which is as right
    call.cancel()
    assert answered.get(timeout=30)[1].status() == "StatusCode.CANCELLED"
    assert client.infer("endless", [tensor(np.array(3), "n")], client_timeout=30).as_numpy("y") == 3
    end = time.monotonic() + 30
    while client.get_inference_statistics("endless").model_stats[0].inference_stats.fail.count == before:
        assert time.monotonic() < end, "the cancelled request is never counted"


def test_stream_answers_in_order(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """Responses come in the order of the requests, an error among them, and each says that it is the last."""
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for number in range(40):
        x = np.full((1, 4 if number == 7 else 3), number, np.float32)
        client.async_stream_infer("double", [tensor(x)], request_id=str(number))
    for number in range(40):
        result, error = came.get(timeout=30)
        if number == 7:
            assert "expected FP32 of shape [-1, 3]" in error.message()
            continue
        assert error is None
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        assert result.as_numpy("y").tolist() == [[2 * number] * 3]
    client.stop_stream()
    assert came.empty()


def test_stream_may_end_with_a_status(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """With Triton's `triton_grpc_error` the first error is the stream's status."""
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)), headers={"triton_grpc_error": "true"})
    client.async_stream_infer("nobody", [tensor(np.zeros((1, 3), np.float32))])
    assert came.get(timeout=30)[1].status() == "StatusCode.NOT_FOUND"
    client.stop_stream(cancel_requests=True)


def test_cancelled_stream_frees_the_model(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """What a stream runs ends with it."""
    came: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: came.put((result, error)))
    for _ in range(3):
        client.async_stream_infer("endless", [tensor(np.array(EVER), "n")])
    time.sleep(0.1)  # so that they are under way; as above
    client.stop_stream(cancel_requests=True)
    assert client.infer("endless", [tensor(np.array(3), "n")], client_timeout=30).as_numpy("y") == 3


def test_asyncio_client_is_answered(target: str, tensor: Callable[..., Any]) -> None:
    """Many requests of tritonclient.grpc.aio at once, and its stream."""

    async def ask() -> None:
        async with aio.InferenceServerClient(target) as client:
            arrays = [np.full((1, 3), number, np.float32) for number in range(50)]
            results = await asyncio.gather(*(client.infer("double", [tensor(array)]) for array in arrays))
            assert [result.as_numpy("y")[0, 0] for result in results] == [2 * number for number in range(50)]

            async def requests() -> Any:
                for array in arrays[:5]:
                    yield {"model_name": "double", "inputs": [tensor(array)]}

            streamed = [result.as_numpy("y")[0, 0] async for result, _ in client.stream_infer(requests())]
            assert streamed == [0, 2, 4, 6, 8]

    asyncio.run(ask())


def test_large_tensor_passes(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """A volume of 8 MB goes there and back."""
    x = np.arange(4_000_000, dtype=np.int16)
    assert np.array_equal(client.infer("mirror_INT16", [tensor(x)]).as_numpy("y"), x)


def test_message_that_is_none_is_refused(target: str) -> None:
    """Bytes that are no message end their own call alone."""
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as failure:
            call(b"\x0a\xff", timeout=30)
        assert failure.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=30).live


def test_typed_and_raw_contents_do_not_mix(target: str) -> None:
    """A tensor that comes twice is refused."""
    request = service_pb2.ModelInferRequest(model_name="mirror_INT8", raw_input_contents=[b"ab"])
    request.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, 2])
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as failure:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "both raw and typed" in failure.value.details()


def test_requests_are_merged(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """A model with dynamic batching runs fewer times than it is asked, and each caller gets its own part."""
    before = client.get_inference_statistics("batching").model_stats[0]
    came: queue.Queue[Any] = queue.Queue()
    for number in range(24):
        x = np.full((1, 3), number, np.float32)
        client.async_infer(
            "batching", [tensor(x)], lambda result, error: came.put((result, error)), request_id=str(number)
        )
    for _ in range(24):
        result, error = came.get(timeout=30)
        assert error is None
        assert result.as_numpy("y").tolist() == [[2 * int(result.get_response().id)] * 3]
    after = client.get_inference_statistics("batching").model_stats[0]
    assert after.inference_count - before.inference_count == 24
    assert after.execution_count - before.execution_count < 24
    assert sum(batch.compute_infer.count for batch in after.batch_stats) == after.execution_count
    assert sum(batch.batch_size * batch.compute_infer.count for batch in after.batch_stats) == after.inference_count


def test_full_queue_is_unavailable(client: InferenceServerClient, tensor: Callable[..., Any]) -> None:
    """Of more requests than may wait, those beyond are refused at once; those that wait keep their place."""
    came: queue.Queue[Any] = queue.Queue()
    calls = [
        client.async_infer("limited", [tensor(np.array(EVER), "n")], lambda result, error: came.put((result, error)))
        for _ in range(6)
    ]
    # One runs, two wait.
    assert [came.get(timeout=30)[1].status() for _ in range(3)] == ["StatusCode.UNAVAILABLE"] * 3
    for call in calls:
        call.cancel()
    assert [came.get(timeout=30)[1].status() for _ in range(3)] == ["StatusCode.CANCELLED"] * 3


def test_request_times_out_in_the_queue(
    client: InferenceServerClient, tensor: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """The `timeout` parameter, in microseconds, ends the waiting where the model's policy allows it."""
    came: queue.Queue[Any] = queue.Queue()
    call = client.async_infer(
        "limited", [tensor(np.array(EVER), "n")], lambda result, error: came.put((result, error))
    )
    time.sleep(0.1)  # so that it runs first
    words = refused("UNAVAILABLE", client.infer, "limited", [tensor(np.array(3), "n")], timeout=20_000)
    assert "timed out in the queue" in words
    call.cancel()
    assert came.get(timeout=30)[1].status() == "StatusCode.CANCELLED"


def test_error_class_is_tritonclients(client: InferenceServerClient) -> None:
    """An input without data is refused by the server with the size that it expects."""
    empty = InferInput("x", [1, 3], "FP32")
    with pytest.raises(InferenceServerException, match="0 elements given, 3 expected"):
        client.infer("double", [empty])

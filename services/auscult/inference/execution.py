"""One ModelInfer request: hold it against the model's signature, run the session, make the response."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.repository import Model
from auscult.inference.tensors import TensorSpec, datatype_of, from_contents, from_raw, to_raw
from auscult.inference.wire import Framed
from auscult.platform import telemetry

_UNSUPPORTED = frozenset({"shared_memory_region", "classification"})
"""Tensor parameters that would change what a tensor holds. Others are hints, and are ignored."""


class InvalidRequestError(Exception):
    """The request does not fit the model; the text names the tensor, what is expected and what was given."""


class StoppedError(Exception):
    """The caller is gone or its deadline has passed."""


class ModelFailedError(Exception):
    """The model failed while it ran; the text names the node, not the data."""


OnEnd = Callable[[Callable[[], None]], bool]
"""Registers what is to be called when the caller is gone or its deadline passed; False where that is already so."""


def run(
    model: Model, version: str, request: Framed[pb.ModelInferRequest], on_end: OnEnd
) -> Framed[pb.ModelInferResponse]:
    """Answer `request`. InvalidRequestError, StoppedError or ModelFailedError say why there is no answer.

    When the caller ends, the run ends with the graph's current node: ONNX Runtime looks for it between nodes.
    """
    feed = _inputs(model, request)
    names = _requested(model, request.message)
    options = ort.RunOptions()
    options.log_severity_level = 4
    if not on_end(lambda: setattr(options, "terminate", True)):
        raise StoppedError("the deadline passed before the model ran")
    with telemetry.span("onnxruntime run", model=model.name, version=version):
        start = time.perf_counter()
        try:
            arrays = model.sessions[version].run(names, feed, options)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no class of their own
            if options.terminate:
                raise StoppedError("the deadline passed while the model ran") from None
            # What follows the status message may quote elements of tensors.
            where = str(error).partition(" Status Message")[0]
            raise ModelFailedError(f"model {model.name!r} version {version} failed: {where}") from None
        run_ms = (time.perf_counter() - start) * 1e3
    return _response(model, version, request.message, dict(zip(names, arrays, strict=True)), run_ms)


def _inputs(model: Model, request: Framed[pb.ModelInferRequest]) -> dict[str, NDArray[Any]]:
    """Return the request's tensors by name, checked against the model's signature."""
    tensors = request.message.inputs
    specs = {spec.name: spec for spec in model.signature.inputs}
    names = [tensor.name for tensor in tensors]
    if sorted(names) != sorted(specs):
        raise InvalidRequestError(f"model {model.name!r}: expected inputs {sorted(specs)}, given {sorted(names)}")
    if request.raw and len(request.raw) != len(tensors):
        raise InvalidRequestError(f"{len(request.raw)} raw_input_contents given, {len(tensors)} expected")
    raw: Sequence[memoryview | None] = request.raw or [None] * len(tensors)
    feed = {
        tensor.name: _input(specs[tensor.name], tensor, content) for tensor, content in zip(tensors, raw, strict=True)
    }
    if largest := model.signature.max_batch_size:
        batches = {name: array.shape[0] for name, array in feed.items()}
        if len(set(batches.values())) > 1:
            raise InvalidRequestError(f"one batch size is expected for all inputs, given {batches}")
        if (batch := next(iter(batches.values()))) > largest:
            raise InvalidRequestError(f"a batch of at most {largest} is expected, given {batch}")
    return feed


def _input(spec: TensorSpec, tensor: pb.ModelInferRequest.InferInputTensor, raw: memoryview | None) -> NDArray[Any]:
    _refuse_parameters(tensor)
    if tensor.datatype != spec.datatype.name or not spec.fits(tensor.shape):
        raise InvalidRequestError(
            f"input {spec.name!r}: expected {spec.datatype.name} of shape {list(spec.shape)}, "
            f"given {tensor.datatype} of shape {list(tensor.shape)}"
        )
    try:
        if raw is None:
            array = from_contents(tensor.contents, spec.datatype, tensor.shape)
        elif tensor.contents.ListFields():
            raise ValueError("both raw and typed contents given")  # noqa: TRY301 - told as the others are
        else:
            array = from_raw(raw, spec.datatype, tensor.shape)
        return _decoded(array) if spec.datatype.name == "BYTES" else array
    except ValueError as error:
        raise InvalidRequestError(f"input {spec.name!r}: {error}") from None


def _decoded(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of bytes as ONNX Runtime takes strings: as text."""
    try:
        texts = [item.decode() for item in array.reshape(-1)]
    except UnicodeDecodeError:
        raise ValueError("an element of BYTES is not UTF-8, which an ONNX string must be") from None
    decoded = np.empty(len(texts), np.object_)
    decoded[:] = texts
    return decoded.reshape(array.shape)


def _requested(model: Model, request: pb.ModelInferRequest) -> list[str]:
    """Return the outputs asked for, all where none are named."""
    available = [spec.name for spec in model.signature.outputs]
    for output in request.outputs:
        _refuse_parameters(output)
        if output.name not in available:
            raise InvalidRequestError(f"output {output.name!r} is not one of the model's: {available}")
    return list(dict.fromkeys(output.name for output in request.outputs)) or available


def _refuse_parameters(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> None:
    if unsupported := sorted(_UNSUPPORTED & tensor.parameters.keys()):
        raise InvalidRequestError(f"{tensor.name!r}: parameter {unsupported[0]} is not supported here")


def _response(
    model: Model, version: str, request: pb.ModelInferRequest, arrays: Mapping[str, NDArray[Any]], run_ms: float
) -> Framed[pb.ModelInferResponse]:
    response = pb.ModelInferResponse(model_name=model.name, model_version=version, id=request.id)
    response.parameters["run_ms"].double_param = run_ms
    raw = []
    for name, array in arrays.items():
        datatype = datatype_of(array)
        response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        raw.append(to_raw(array, datatype))
    return Framed(response, tuple(raw))

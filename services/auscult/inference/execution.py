"""One run of a model: the inputs of its requests merged, the session run, the outputs parted into responses."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from auscult.inference.classification import classified
from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import Prepared
from auscult.inference.shared_memory import InvalidRegionError, Place
from auscult.inference.tensors import datatype_of, to_raw
from auscult.inference.volumes import VolumeRun
from auscult.inference.wire import RESPONSE


class StoppedError(Exception):
    """The caller is gone or its deadline has passed."""


class ModelFailedError(Exception):
    """The model failed while it ran; the text names the node, not the data."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Nanoseconds that a run took for its parts, and when the model itself started, since the epoch."""

    started: int
    compute_input: int
    compute_infer: int
    compute_output: int
    fell_back: bool = False
    """Whether the CPU ran the model because the GPU's memory did not suffice."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave: for each request the encoded response or the error, and the time spent, if it ran."""

    answers: Sequence[bytes | BaseException]
    spent: Spent | None


def run(batch: Sequence[Prepared], options: ort.RunOptions) -> Outcome:
    """Run requests of one model, version and shape together.

    Setting `options.terminate` ends the run with the graph's current node: ONNX Runtime looks for it between nodes.
    """
    start = time.perf_counter_ns()
    epoch = time.time_ns()
    first = batch[0]
    alone = len(batch) == 1
    names = list(first.outputs if alone else dict.fromkeys(name for request in batch for name in request.outputs))
    feed = first.feed if alone else _merged(batch)
    merged = time.perf_counter_ns()
    session = first.model.sessions[first.version]
    try:
        arrays = session.run(names, feed, options)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no class of their own
        return Outcome([_meaning(first, error, options)] * len(batch), None)
    ran = time.perf_counter_ns()
    answers = _answers(batch, dict(zip(names, arrays, strict=True)), (ran - merged) / 1e6)
    answered = time.perf_counter_ns()
    fell_back = getattr(session, "fell_back", False)
    spent = Spent(epoch + merged - start, merged - start, ran - merged, answered - ran, fell_back)
    return Outcome(answers, spent)


def run_volume(
    request: Prepared, begun: VolumeRun | None, options: ort.RunOptions, pausing: Callable[[], bool]
) -> Outcome | VolumeRun:
    """Run a volume's patches, from where `begun` left off; the run so far is returned where it pauses."""
    window = request.model.window
    assert window is not None  # noqa: S101 - only requests of such models come here
    session = request.model.sessions[request.version]
    try:
        volume = begun or VolumeRun(window, request.feed, request.outputs, session)
    except ValueError as error:
        return Outcome([InvalidRequestError(str(error))], None)
    try:
        if not volume.advance(options, pausing):
            return volume
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no class of their own
        return Outcome([_meaning(request, error, options)], None)
    start = time.perf_counter_ns()
    answers = _answers([request], volume.outputs, volume.infer_ns / 1e6)
    answered = time.perf_counter_ns() - start
    spent = Spent(volume.started_ns, volume.patches_ns, volume.infer_ns, answered, volume.fell_back)
    return Outcome(answers, spent)


def _meaning(request: Prepared, error: Exception, options: ort.RunOptions) -> Exception:
    if options.terminate:
        return StoppedError("the deadline passed while the model ran")
    # What follows the status message may quote elements of tensors.
    where = str(error).partition(" Status Message")[0]
    return ModelFailedError(f"model {request.model.name!r} version {request.version} failed: {where}")


def _merged(batch: Sequence[Prepared]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([request.feed[name] for request in batch]) for name in batch[0].feed}


def _answers(batch: Sequence[Prepared], arrays: Mapping[str, NDArray[Any]], run_ms: float) -> list[bytes | Exception]:
    if len(batch) == 1:
        return [_answer(batch[0], arrays, run_ms)]
    answers: list[bytes | Exception] = []
    start, total = 0, sum(request.size for request in batch)
    for request in batch:
        end = start + request.size
        if any(array.shape[:1] != (total,) for array in arrays.values()):
            answers.append(
                ModelFailedError(
                    f"model {request.model.name!r} version {request.version} does not keep the batch: "
                    f"{total} went in, outputs have {sorted({array.shape[:1] for array in arrays.values()})}"
                )
            )
            continue
        answers.append(_answer(request, {name: array[start:end] for name, array in arrays.items()}, run_ms))
        start = end
    return answers


def _answer(request: Prepared, arrays: Mapping[str, NDArray[Any]], run_ms: float) -> bytes | Exception:
    try:
        return _response(request, arrays, run_ms)
    except (InvalidRequestError, ModelFailedError) as error:
        return error


def _response(request: Prepared, arrays: Mapping[str, NDArray[Any]], run_ms: float) -> bytes:
    parts = [_head(request.model.name, request.version, final=request.final), _RUN_MS, struct.pack("<d", run_ms)]
    if request.message.id:
        parts.append(pb.ModelInferResponse(id=request.message.id).SerializeToString())
    raw = []
    for name, place in request.outputs.items():
        array = arrays[name]
        if spec := request.model.signature.reshaped.get(name):
            try:
                array = spec.from_graph(array)
            except ValueError:
                raise ModelFailedError(
                    f"model {request.model.name!r}: output {name!r} of shape {list(spec.of_graph)} is declared, "
                    f"the graph gave {list(array.shape)}"
                ) from None
        if count := request.classes.get(name):
            batched = request.model.signature.max_batch_size > 0
            array = classified(array, count, request.model.labels.get(name, ()), batched=batched)
        datatype = datatype_of(array)
        content = to_raw(array, datatype)
        if place is None:
            parts.append(_output(name, datatype.name, array.shape))
        else:
            try:
                place.write(content)
            except InvalidRegionError as error:
                raise InvalidRequestError(f"output {name!r}: {error}") from None
            parts.append(_output_in(place, name, datatype.name, array.shape, content.nbytes))
            # Contents are matched to outputs by their position, so there is one, empty.
            content = memoryview(b"")
        raw.append(content)
    return RESPONSE.joined(parts, raw)


# A message may be sent in parts (Protocol Buffers, Encoding, Last One Wins): those that come again are kept.


@lru_cache(maxsize=1024)
def _head(model: str, version: str, *, final: bool) -> bytes:
    response = pb.ModelInferResponse(model_name=model, model_version=version)
    if final:
        response.parameters["triton_final_response"].bool_param = True
    return bytes(response.SerializeToString())


@lru_cache(maxsize=1024)
def _output(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    tensor = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    return bytes(pb.ModelInferResponse(outputs=[tensor]).SerializeToString())


def _output_in(place: Place, name: str, datatype: str, shape: tuple[int, ...], nbytes: int) -> bytes:
    response = pb.ModelInferResponse()
    tensor = response.outputs.add(name=name, datatype=datatype, shape=shape)
    tensor.parameters["shared_memory_region"].string_param = place.region.name
    tensor.parameters["shared_memory_byte_size"].int64_param = nbytes
    tensor.parameters["shared_memory_offset"].int64_param = place.offset
    return bytes(response.SerializeToString())


_RUN_MS = pb.ModelInferResponse(parameters={"run_ms": pb.InferParameter(double_param=0)}).SerializeToString()[:-8]
"""The parameter that tells how long the model ran, without its last field: eight bytes, the number."""

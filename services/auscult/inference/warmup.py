"""Requests that are run before a model is ready, as `model_warmup` of its `config.pbtxt` describes them.

The first run of a shape is slow: memory is taken, and on a GPU kernels are chosen and graphs captured.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from auscult.inference.config_checks import WrongModelError
from auscult.inference.device_session import DeviceSession
from auscult.inference.model_config import Signature
from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.tensors import DATATYPES, TensorSpec, from_raw

_SEED = 0
_MAX_VOXELS = 2**31


def warm_up(
    config: pb.ModelConfig,
    signature: Signature,
    files: Mapping[str, bytes],
    sessions: Mapping[str, ort.InferenceSession | DeviceSession],
) -> None:
    """Run each sample on each version; WrongModelError names one that does not fit the model or fails."""
    # As in Triton, a sample of batch size 0 is left out.
    samples = [sample for sample in config.model_warmup if sample.batch_size]
    for sample, session in itertools.product(samples, sessions.values()):
        feed = _feed(sample, signature, files)
        names = [spec.name for spec in signature.outputs]
        try:
            if isinstance(session, DeviceSession):
                session.capture(feed)
            for _ in range(sample.count or 1):
                session.run(names, feed)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no class of their own
            raise WrongModelError(f"model_warmup {sample.name!r} failed: {error}") from None


def _feed(sample: pb.ModelWarmup, signature: Signature, files: Mapping[str, bytes]) -> dict[str, NDArray[Any]]:
    def wrong(what: str) -> WrongModelError:
        return WrongModelError(f"config.pbtxt: model_warmup {sample.name!r}: {what}")

    specs = {spec.name: spec for spec in signature.inputs}
    if sample.inputs.keys() != specs.keys():
        raise wrong(f"inputs {sorted(specs)} are needed, {sorted(sample.inputs)} are given")
    largest = signature.max_batch_size
    if sample.batch_size > (largest or 1):
        raise wrong(f"batch_size {sample.batch_size} is not within 1 to {largest or 1}")
    batch = sample.batch_size if largest else None
    try:
        return {
            name: specs[name].to_graph(_tensor(specs[name], given, batch, files))
            for name, given in sample.inputs.items()
        }
    except ValueError as error:
        raise wrong(str(error)) from None


def _tensor(
    spec: TensorSpec, given: pb.ModelWarmup.Input, batch: int | None, files: Mapping[str, bytes]
) -> NDArray[Any]:
    shape = tuple(given.dims) if batch is None else (batch, *given.dims)
    name = pb.DataType.Name(given.data_type).removeprefix("TYPE_")
    if DATATYPES.get("BYTES" if name == "STRING" else name) != spec.datatype or not spec.fits(shape):
        raise ValueError(
            f"input {spec.name!r}: {spec.datatype.name} of shape {list(spec.shape)} is needed, "
            f"given {name} of shape {list(shape)}"
        )
    if np.prod(shape, dtype=float) > _MAX_VOXELS:
        raise ValueError(f"input {spec.name!r}: shape {list(shape)} is larger than any request")
    kind = given.WhichOneof("input_data_type")
    if kind == "input_data_file":
        # The file has one element of the batch, which is repeated.
        array = from_raw(memoryview(files[f"warmup/{given.input_data_file}"]), spec.datatype, tuple(given.dims))
        return np.broadcast_to(_texts(array) if spec.datatype.name == "BYTES" else array, shape).copy()
    if spec.datatype.name == "BYTES":
        return np.full(shape, "", np.object_)
    if kind == "random_data":
        random = np.random.default_rng(_SEED)
        if spec.datatype.numpy.kind == "f":
            return random.random(shape).astype(spec.datatype.numpy)
        # Of integers, which may be indices, none that is large.
        return random.integers(0, 2, shape).astype(spec.datatype.numpy)
    if kind != "zero_data":
        raise ValueError(f"input {spec.name!r}: one of zero_data, random_data or input_data_file is needed")
    return np.zeros(shape, spec.datatype.numpy)


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    texts = np.empty(array.shape, np.object_)
    texts.reshape(-1)[:] = [element.decode() for element in array.reshape(-1)]
    return texts

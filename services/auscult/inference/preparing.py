"""A ModelInfer request held against the model's signature, before it is queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.inference import volumes
from auscult.inference.classification import classes_asked
from auscult.inference.loading import Model
from auscult.inference.parameters import InvalidRequestError, check_parameters
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.shared_memory import InvalidRegionError, Place, Regions, UnknownRegionError
from auscult.inference.tensors import TensorSpec, from_contents, from_raw
from auscult.inference.wire import Framed


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A request that the model can take."""

    model: Model
    version: str
    message: pb.ModelInferRequest
    feed: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, Place | None]
    """What is asked for, in order: the place in shared memory where it goes, or None."""
    size: int
    """Elements of the batch; 1 where the model has no batch dimension."""
    final: bool = False
    """Whether the response says that it is the request's last, as those of a stream do."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """How many of the highest elements are asked for of an output, instead of the output itself."""

    @property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The inputs' shapes without the batch, None for one left out: requests that share them can run together."""
        feed = self.feed
        return tuple(feed[it.name].shape[1:] if it.name in feed else None for it in self.model.signature.inputs)

    @property
    def nbytes(self) -> int:
        """Bytes that the request holds while it waits, and while it runs over a volume."""
        own = sum(array.nbytes for array in self.feed.values())
        window = self.model.window
        return own + volumes.working_bytes(window, self.feed, self.outputs) if window else own


def prepare(
    model: Model, version: str, request: Framed[pb.ModelInferRequest], regions: Regions, *, final: bool = False
) -> Prepared:
    """Read `request`; InvalidRequestError or UnknownRegionError where it does not fit. `final`: as in Prepared."""
    asked = request.message
    if asked.parameters:
        check_parameters(asked.parameters)
    feed = _inputs(model, request, regions)
    outputs = _outputs(model, asked, regions)
    if model.window:
        try:
            volumes.check(model.window, feed, outputs)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
    size = 1
    if largest := model.signature.max_batch_size:
        sizes = {array.shape[0] for array in feed.values()} or {1}
        if len(sizes) > 1:
            batches = {name: array.shape[0] for name, array in feed.items()}
            raise InvalidRequestError(f"one batch size is expected for all inputs, given {batches}")
        (size,) = sizes
        if not 1 <= size <= largest:
            raise InvalidRequestError(f"a batch of 1 to {largest} is expected, given {size}")
    classes = {it.name: count for it in asked.outputs if (count := classes_asked(it, model.signature))}
    return Prepared(model, version, asked, feed, outputs, size, final, classes)


def _inputs(model: Model, request: Framed[pb.ModelInferRequest], regions: Regions) -> dict[str, NDArray[Any]]:
    """Return the request's tensors by name, checked against the model's signature."""
    tensors = request.message.inputs
    signature = model.window.signature_for(tensors) if model.window else model.signature
    specs = signature.by_name
    names = [tensor.name for tensor in tensors]
    # Most callers send all inputs, in the order of the configuration.
    if names != [*specs] and not _fit(names, specs):
        raise InvalidRequestError(f"model {model.name!r}: expected inputs {sorted(specs)}, given {sorted(names)}")
    places = [_place(tensor, regions) for tensor in tensors]
    sent = places.count(None)
    if request.raw and len(request.raw) != sent:
        raise InvalidRequestError(f"{len(request.raw)} raw_input_contents given, {sent} expected")
    raw = iter(request.raw)
    return {
        name: _input(specs[name], tensor, next(raw, None) if place is None else None, place, aligned=not model.window)
        for name, tensor, place in zip(names, tensors, places, strict=True)
    }


def _fit(names: list[str], specs: Mapping[str, TensorSpec]) -> bool:
    """Whether inputs of these names, in any order, are what the model takes."""
    required = {name for name, spec in specs.items() if not spec.optional}
    return required <= set(names) <= specs.keys() and len(names) == len(set(names))


def _input(
    spec: TensorSpec,
    tensor: pb.ModelInferRequest.InferInputTensor,
    raw: memoryview | None,
    place: Place | None,
    *,
    aligned: bool,
) -> NDArray[Any]:
    shape = tuple(tensor.shape)
    if tensor.datatype != spec.datatype.name or not spec.fits(shape):
        raise InvalidRequestError(
            f"input {spec.name!r}: expected {spec.datatype.name} of shape {list(spec.shape)}, "
            f"given {tensor.datatype} of shape {list(shape)}"
        )
    try:
        if place is not None:
            raw = place.read()
        if raw is None:
            array = from_contents(tensor.contents, spec.datatype, shape)
        elif tensor.HasField("contents") and tensor.contents.ListFields():
            raise ValueError("both raw and typed contents given")  # noqa: TRY301 - told as the others are
        else:
            array = from_raw(raw, spec.datatype, shape, aligned=aligned)
        return spec.to_graph(_decoded(array) if spec.datatype.name == "BYTES" else array)
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


def _outputs(model: Model, request: pb.ModelInferRequest, regions: Regions) -> dict[str, Place | None]:
    """Return the outputs asked for, all where none are named, and where they go."""
    available = model.signature.output_names
    asked: dict[str, Place | None] = {}
    for output in request.outputs:
        if (name := output.name) not in available:
            raise InvalidRequestError(f"output {name!r} is not one of the model's: {[*available]}")
        asked[name] = _place(output, regions)
    return asked or dict.fromkeys(available)


def _place(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
    regions: Regions,
) -> Place | None:
    if not tensor.parameters:
        return None
    try:
        return regions.place(tensor.parameters)
    except InvalidRegionError as error:
        raise InvalidRequestError(f"{tensor.name!r}: {error}") from None
    except UnknownRegionError as error:
        raise UnknownRegionError(f"{tensor.name!r}: {error}") from None

"""Where a graph says that its weights lie, read before ONNX Runtime sees the graph.

ONNX Runtime takes the weights of the main graph from the verified bytes that it is given. Those of subgraphs,
functions and sparse tensors it reads from disk, below the process's working folder or, by way of `..`, anywhere. So
only initializers of the main graph may have external data, and only in files of the version's folder.

The file is walked as it is on the wire (Protocol Buffers, Encoding), which takes no second copy of its weights. Field
numbers: onnx.proto.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from google.protobuf.message import DecodeError

from auscult.inference.config_checks import WrongModelError
from auscult.inference.wire import fields

_MODEL = "ModelProto"
_TENSOR = "TensorProto"
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    _MODEL: {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
}
"""By message and field number: the messages on the way to a tensor."""
_MAIN = ("GraphProto", _TENSOR)
"""The way to an initializer of the main graph."""
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_KEY, _VALUE = 1, 2
_IN_MEMORY = "_ORT_MEM_ADDR_"
"""In a location: ONNX Runtime takes the offset for an address in its process."""
_DEEPEST = 100
"""Messages in messages, as Protocol Buffers themselves limit them."""


def check_external_data(graph: bytes, path: str, folder: Collection[str]) -> None:
    """WrongModelError where a tensor's data lies elsewhere than in `folder`, the files beside the graph `path`."""
    try:
        for way, tensor in _tensors(memoryview(graph), _MODEL, ()):
            _check(tensor, path, folder, main=way == _MAIN)
    except DecodeError as error:
        raise WrongModelError(f"{path} is not an ONNX graph: {error}") from None


def _tensors(message: memoryview, kind: str, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], memoryview]]:
    """Give each tensor of a message, and the messages on the way to it."""
    if len(way) > _DEEPEST:
        raise DecodeError("its messages are nested too deeply")
    inner = _MESSAGES[kind]
    for number, content in fields(message):
        found = inner.get(number)
        if found == _TENSOR:
            yield (*way, found), content
        elif found:
            yield from _tensors(content, found, (*way, found))


def _check(tensor: memoryview, path: str, folder: Collection[str], *, main: bool) -> None:
    name, external, entries = "", False, []
    for number, content in fields(tensor):
        if number == _NAME:
            name = bytes(content).decode(errors="replace")
        elif number == _EXTERNAL_DATA:
            entries.append(dict(fields(content)))
        external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and any(content))
    if not external:
        return
    if not main:
        raise WrongModelError(
            f"{path}: tensor {name!r} is no initializer of the main graph and has its data in another file; "
            "save it within the graph"
        )
    for entry in entries:
        if bytes(entry.get(_KEY, b"")) == b"location":
            location = bytes(entry.get(_VALUE, b"")).decode(errors="replace")
            if location not in folder or _IN_MEMORY in location:
                raise WrongModelError(
                    f"{path}: tensor {name!r} has its data in {location!r}, "
                    "which is not a file of the version's folder"
                )

"""The protocol's tensors as numpy arrays, and back.

Raw contents are row-major, little-endian, without padding; an element of BYTES is a 4-byte little-endian
length and its bytes (Open Inference Protocol v2, gRPC, Tensor Data).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.inference.pb import open_inference_grpc_pb2 as pb

ANY = -1
"""A dimension of any size."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type under each of its names."""

    name: str
    """In the protocol; in a configuration the same with `TYPE_` before it."""
    onnx: str
    """In ONNX Runtime."""
    numpy: np.dtype[Any]
    contents: str
    """The field of InferTensorContents that holds it; empty where only raw contents can."""


DATATYPES = {
    datatype.name: datatype
    for datatype in (
        Datatype("BOOL", "tensor(bool)", np.dtype(np.bool_), "bool_contents"),
        Datatype("UINT8", "tensor(uint8)", np.dtype("<u1"), "uint_contents"),
        Datatype("UINT16", "tensor(uint16)", np.dtype("<u2"), "uint_contents"),
        Datatype("UINT32", "tensor(uint32)", np.dtype("<u4"), "uint_contents"),
        Datatype("UINT64", "tensor(uint64)", np.dtype("<u8"), "uint64_contents"),
        Datatype("INT8", "tensor(int8)", np.dtype("<i1"), "int_contents"),
        Datatype("INT16", "tensor(int16)", np.dtype("<i2"), "int_contents"),
        Datatype("INT32", "tensor(int32)", np.dtype("<i4"), "int_contents"),
        Datatype("INT64", "tensor(int64)", np.dtype("<i8"), "int64_contents"),
        Datatype("FP16", "tensor(float16)", np.dtype("<f2"), ""),
        Datatype("FP32", "tensor(float)", np.dtype("<f4"), "fp32_contents"),
        Datatype("FP64", "tensor(double)", np.dtype("<f8"), "fp64_contents"),
        Datatype("BYTES", "tensor(string)", np.dtype(np.object_), "bytes_contents"),
    )
}
"""BF16 is missing: numpy has no such type."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives: `shape` has the batch dimension, where there is one, and `ANY`."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    optional: bool = False
    """Whether a request may leave it out."""
    reshaped: tuple[int, ...] | None = None
    """The graph's own shape, where it is not `shape`: sizes of any number are the same, in their order."""

    @property
    def of_graph(self) -> tuple[int, ...]:
        """The shape that the graph has."""
        return self.shape if self.reshaped is None else self.reshaped

    def to_graph(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a caller's tensor as the graph takes it."""
        return array if self.reshaped is None else array.reshape(_same(array.shape, self.shape, self.reshaped))

    def from_graph(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the graph's tensor as callers are told; ValueError where it is not of the shape that it declares."""
        return array if self.reshaped is None else array.reshape(_same(array.shape, self.reshaped, self.shape))

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` is one of these."""
        if len(shape) != len(self.shape):
            return False
        for given, expected in zip(shape, self.shape, strict=True):
            if given < 0 or expected not in (ANY, given):
                return False
        return True


def _same(sizes: Sequence[int], of: Sequence[int], to: Sequence[int]) -> list[int]:
    """Return the shape `to` with the sizes of a tensor of the shape `of`."""
    free = iter([size for size, expected in zip(sizes, of, strict=True) if expected == ANY])
    return [next(free) if size == ANY else size for size in to]


def datatype_of(array: NDArray[Any]) -> Datatype:
    """Return the datatype that carries `array`; text and objects are BYTES. ValueError where there is none."""
    return _datatype_of(array.dtype)


@lru_cache(maxsize=64)
def _datatype_of(dtype: np.dtype[Any]) -> Datatype:
    if dtype.kind in "OSU":
        return DATATYPES["BYTES"]
    for datatype in DATATYPES.values():
        if datatype.numpy == dtype.newbyteorder("<"):
            return datatype
    raise ValueError(f"the protocol has no datatype for numpy's {dtype}")


def to_raw(array: NDArray[Any], datatype: Datatype) -> memoryview:
    """Return the raw contents of `array`: a view of it, unless its layout makes a copy necessary."""
    if datatype.name == "BYTES":
        elements = [_as_bytes(item) for item in array.reshape(-1)]
        return memoryview(b"".join(struct.pack("<I", len(element)) + element for element in elements))
    return np.ascontiguousarray(array, datatype.numpy).reshape(-1).view(np.uint8).data


def from_raw(raw: memoryview, datatype: Datatype, shape: Sequence[int], *, aligned: bool = True) -> NDArray[Any]:
    """Return raw contents as an array: a read-only view of them, a copy where their elements do not lie `aligned`.

    Where they lie in a message is the sender's choice; numpy takes them as they are, ONNX Runtime does not. BYTES
    give objects of type bytes. ValueError where the size is not that of `shape`.
    """
    count = math.prod(shape)
    if datatype.name == "BYTES":
        return _objects(list(_split_bytes(raw)), shape)
    if len(raw) != count * datatype.numpy.itemsize:
        raise ValueError(f"{len(raw)} bytes of raw contents given, {count * datatype.numpy.itemsize} expected")
    if datatype.name == "BOOL":
        # Any byte may come in, but numpy and ONNX Runtime rely on 0 and 1.
        return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(shape)
    array: NDArray[Any] = np.frombuffer(raw, datatype.numpy).reshape(shape)
    return array if array.flags.aligned or not aligned else array.copy()


def from_contents(contents: pb.InferTensorContents, datatype: Datatype, shape: Sequence[int]) -> NDArray[Any]:
    """Return typed contents as an array, as `from_raw`; ValueError for a wrong field, count or range."""
    if not datatype.contents:
        raise ValueError(f"{datatype.name} has no typed contents; send raw contents")
    if wrong := [field.name for field, _ in contents.ListFields() if field.name != datatype.contents]:
        raise ValueError(f"contents in {', '.join(wrong)}, but {datatype.name} belongs in {datatype.contents}")
    values = getattr(contents, datatype.contents)
    if datatype.name == "BYTES":
        return _objects(list(values), shape)
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} elements given, {math.prod(shape)} expected")
    if datatype.numpy.kind in "iu" and datatype.numpy.itemsize < 4:
        # The field is wider than the datatype: a value must not wrap around unseen.
        wide = np.array(values, np.int64)
        limits = np.iinfo(datatype.numpy)
        if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
            raise ValueError(f"an element lies outside {datatype.name}'s range, {limits.min} to {limits.max}")
        return wide.astype(datatype.numpy).reshape(shape)
    return np.array(values, datatype.numpy).reshape(shape)


def _as_bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _split_bytes(raw: memoryview) -> Iterator[bytes]:
    position = 0
    while position < len(raw):
        start = position + 4
        if start > len(raw):
            raise ValueError("raw contents end within the length of an element of BYTES")
        position = start + struct.unpack_from("<I", raw, position)[0]
        if position > len(raw):
            raise ValueError("raw contents end within an element of BYTES")
        yield bytes(raw[start:position])


def _objects(items: list[bytes], shape: Sequence[int]) -> NDArray[Any]:
    if len(items) != math.prod(shape):
        raise ValueError(f"{len(items)} elements given, {math.prod(shape)} expected")
    array = np.empty(len(items), np.object_)
    array[:] = items
    return array.reshape(shape)

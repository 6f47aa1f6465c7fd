"""ModelInfer messages with their raw tensors beside them.

A volume is tens of megabytes. Put into a protobuf message it is copied when it is set, when the message is
serialised, when it is parsed and when it is read. On the wire it is a field like any other, and protobuf lets the
fields of a message be concatenated (Encoding, Last One Wins), so here the message holds all but the tensors, which
are joined to it when sent and seen through memoryviews when received.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from auscult.inference.pb import open_inference_grpc_pb2 as pb

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Framed(Generic[M]):
    """A message and its raw contents, one per tensor; `raw` is empty where the contents are typed."""

    message: M
    raw: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class Framing(Generic[M]):
    """How `Framed[M]` is written and read: `field` and `name` are those of the message's raw contents."""

    parse: Callable[[bytes], M]
    field: int
    name: str
    copied: int = 16 * 1024
    """Bytes of a message that are sooner copied by protobuf than left where they are by us."""

    def encode(self, framed: Framed[M]) -> bytes:
        """Return the message as it goes over the wire."""
        return self.joined([framed.message.SerializeToString()], framed.raw)

    def joined(self, parts: Sequence[bytes], raw: Sequence[memoryview]) -> bytes:
        """Return an encoded message, which may be in parts, with raw contents behind it."""
        joined: list[bytes | memoryview] = [*parts]
        for one in raw:
            joined += [_varint(self.field << 3 | _BYTES), _varint(one.nbytes), one]
        return b"".join(joined)

    def decode(self, data: bytes) -> Framed[M]:
        """Read a message; its raw contents are views of `data`. DecodeError where it is not a message."""
        if len(data) < self.copied:
            message = self.parse(data)
            copies = tuple([memoryview(one) for one in getattr(message, self.name)])
            message.ClearField(self.name)
            return Framed(message, copies)
        view = memoryview(data)
        rest: list[memoryview] = []
        raw: list[memoryview] = []
        position = 0
        while position < len(view):
            tag, start = _read_varint(view, position)
            length, start = _extent(view, tag & 7, start)
            end = start + length
            if end > len(view):
                raise DecodeError("the message ends within a field")
            if tag == self.field << 3 | _BYTES:
                raw.append(view[start:end])
            else:
                rest.append(view[position:end])
            position = end
        return Framed(self.parse(b"".join(rest)), tuple(raw))


REQUEST = Framing(
    pb.ModelInferRequest.FromString, pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER, "raw_input_contents"
)
RESPONSE = Framing(
    pb.ModelInferResponse.FromString, pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER, "raw_output_contents"
)


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Give the number and the content of each field of an encoded message; DecodeError where it is none."""
    position = 0
    while position < len(message):
        tag, start = _read_varint(message, position)
        length, start = _extent(message, tag & 7, start)
        position = start + length
        # Some readers would cut a larger tag to 32 bits, and see another field than we.
        if position > len(message) or tag >= 2**32:
            raise DecodeError("a field does not fit into its message")
        yield tag >> 3, message[start:position]


def streamed(response: bytes) -> bytes:
    """Return an encoded ModelInferResponse as the ModelStreamInferResponse that carries it."""
    field = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
    return b"".join((_varint(field << 3 | _BYTES), _varint(len(response)), response))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes()
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the number at `position` and the position after it."""
    value = 0
    for index, byte in enumerate(view[position : position + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise DecodeError("the message ends within a number")


def _extent(view: memoryview, wire_type: int, position: int) -> tuple[int, int]:
    """Return how long a field's content is and where it starts."""
    if wire_type == _BYTES:
        return _read_varint(view, position)
    if wire_type == _VARINT:
        _, end = _read_varint(view, position)
        return end - position, position
    if wire_type in (_FIXED64, _FIXED32):
        return 8 if wire_type == _FIXED64 else 4, position
    raise DecodeError(f"wire type {wire_type} is not used by this protocol")

"""Joining raw tensors to a message is what protobuf would have written, and seeing them what it would have read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.tensors import DATATYPES, datatype_of, from_raw, to_raw
from auscult.inference.wire import REQUEST, RESPONSE, Framed

CONTENTS = st.lists(st.binary(max_size=300), max_size=4)

UNCOPIED = replace(REQUEST, copied=0)
"""Reads small messages as it reads large ones."""


def request(raw: list[bytes]) -> pb.ModelInferRequest:
    """Return a request with something in most of its fields."""
    message = pb.ModelInferRequest(model_name="m", id="1", raw_input_contents=raw)
    message.parameters["p"].double_param = 0.5
    message.inputs.add(name="x", datatype="INT64", shape=[2, -1]).contents.int64_contents.extend([1, -1])
    return message


@given(CONTENTS)
def test_encoding_is_protobufs(raw: list[bytes]) -> None:
    """Protobuf reads what was joined as the message with the contents in it."""
    data = REQUEST.encode(Framed(request([]), tuple(map(memoryview, raw))))
    assert pb.ModelInferRequest.FromString(data) == request(raw)


@given(CONTENTS, st.booleans())
def test_decoding_is_protobufs(raw: list[bytes], small: bool) -> None:
    """What protobuf wrote is read as the message without its contents, and the contents."""
    framed = (REQUEST if small else UNCOPIED).decode(request(raw).SerializeToString())
    assert framed.message == request([])
    assert [bytes(part) for part in framed.raw] == raw


@given(CONTENTS, CONTENTS)
def test_contents_may_lie_between_other_fields(first: list[bytes], second: list[bytes]) -> None:
    """Fields may come in any order, also fields that this version does not know."""
    unknown = bytes.fromhex("a206026869 a906 0102030405060708 ad06 01020304 a006 9601")  # field 100
    data = b"".join(pb.ModelInferResponse(raw_output_contents=[part]).SerializeToString() for part in first)
    data += unknown + pb.ModelInferResponse(model_name="m", raw_output_contents=second).SerializeToString()
    framed = replace(RESPONSE, copied=0).decode(data)
    assert framed.message.model_name == "m"
    assert [bytes(part) for part in framed.raw] == first + second


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_read_as_protobuf_reads_them(data: bytes, small: bool) -> None:
    """Bytes that protobuf refuses are refused with its error, and the others give the same contents."""
    try:
        framed = (REQUEST if small else UNCOPIED).decode(data)
    except DecodeError:
        return
    assert [bytes(part) for part in framed.raw] == list(pb.ModelInferRequest.FromString(data).raw_input_contents)


@given(st.integers(min_value=0, max_value=200))
def test_truncated_message_is_refused_or_shorter(length: int) -> None:
    """A message that was cut is never read as the whole one."""
    whole = request([bytes(150)]).SerializeToString()
    try:
        framed = UNCOPIED.decode(whole[: min(length, len(whole) - 1)])
    except DecodeError:
        return
    assert framed.raw == ()


@given(st.lists(st.text() | st.binary()), st.integers(min_value=0, max_value=7))
def test_texts_are_framed_by_their_lengths(texts: list[str | bytes], cut: int) -> None:
    """Elements of BYTES come back as they were; a cut tail is an error, not a shorter element."""
    array = np.empty(len(texts), object)
    array[:] = texts
    datatype = datatype_of(array)
    raw = to_raw(array, datatype)
    expected = [text.encode() if isinstance(text, str) else text for text in texts]
    assert list(from_raw(raw, datatype, array.shape)) == expected
    if 0 < cut <= len(raw):
        with pytest.raises(ValueError, match=r"end within|elements given"):
            from_raw(raw[:-cut], datatype, array.shape)


def test_aligned_contents_are_not_copied() -> None:
    """A tensor whose bytes lie aligned is a view of the message; elsewhere it is a copy with the same values."""
    values = np.arange(1000, dtype="<i2")
    buffer = memoryview(bytearray(b"\0" + values.tobytes() + b"\0"))
    aligned = np.frombuffer(buffer[:-2], np.uint8).ctypes.data % 2
    view, copy = buffer[aligned : aligned + 2000], buffer[1 - aligned : 2001 - aligned]
    datatype = DATATYPES["INT16"]
    assert np.shares_memory(from_raw(view, datatype, (1000,)), np.frombuffer(view, np.uint8))
    assert not np.shares_memory(from_raw(copy, datatype, (1000,)), np.frombuffer(copy, np.uint8))
    assert np.shares_memory(from_raw(copy, datatype, (1000,), aligned=False), np.frombuffer(copy, np.uint8))
    assert np.array_equal(from_raw(buffer[1:2001], datatype, (10, 100)), values.reshape(10, 100))


def test_contiguous_array_is_sent_without_a_copy() -> None:
    """The raw contents of a C-contiguous little-endian array are its own memory."""
    array = np.zeros((4, 5), np.float32)
    assert np.shares_memory(np.frombuffer(to_raw(array, DATATYPES["FP32"]), np.uint8), array)


def test_type_without_datatype_is_named() -> None:
    """Complex numbers have no datatype in the protocol."""
    with pytest.raises(ValueError, match="complex128"):
        datatype_of(np.zeros(1, complex))

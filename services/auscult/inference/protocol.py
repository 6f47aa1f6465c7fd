"""The service `inference.GRPCInferenceService`: its methods, how each message is coded, and channel options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.wire import REQUEST, RESPONSE

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
SERVICE: str = _DESCRIPTOR.full_name

LARGEST_MESSAGE = 2**31 - 1
"""Bytes, both ways, as Triton and its clients have it; gRPC's own limit of 4 MiB would refuse any volume."""

MESSAGE_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
)


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its name and the coders of its two messages."""

    name: str
    streams: bool
    """Whether both sides send as many messages as they like, or one each."""
    encode_request: Callable[[Any], bytes]
    decode_request: Callable[[bytes], Any]
    encode_response: Callable[[Any], bytes]
    decode_response: Callable[[bytes], Any]

    @property
    def path(self) -> str:
        """The HTTP/2 path that calls it."""
        return f"/{SERVICE}/{self.name}"


def _method(name: str) -> Method:
    described = _DESCRIPTOR.methods_by_name[name]
    request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
    takes: tuple[Any, Any] = (request.SerializeToString, request.FromString)
    gives: tuple[Any, Any] = (response.SerializeToString, response.FromString)
    if request is pb.ModelInferRequest:
        takes = REQUEST.encode, REQUEST.decode
    if response is pb.ModelInferResponse:
        gives = RESPONSE.encode, RESPONSE.decode
    return Method(name, described.client_streaming, *takes, *gives)


METHODS: Mapping[str, Method] = {name: _method(name) for name in _DESCRIPTOR.methods_by_name}

"""What each error is to the caller: its gRPC status, as Triton would give it, with the error's own sentence."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from auscult.inference.batching import QueueFullError, TimedOutError
from auscult.inference.execution import ModelFailedError, StoppedError
from auscult.inference.parameters import InvalidRequestError
from auscult.inference.repository import AwayError, LoadError, RefusedModelError, UnknownModelError
from auscult.inference.shared_memory import InvalidRegionError, RegionExistsError, UnknownRegionError

_LOG = logging.getLogger("auscult.inference")


class UnsupportedError(Exception):
    """The protocol has it, this server has not; the text says why."""


class NotAllowedError(Exception):
    """A setting forbids it; the text names the setting."""


_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    UnknownRegionError: grpc.StatusCode.NOT_FOUND,
    RegionExistsError: grpc.StatusCode.ALREADY_EXISTS,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRegionError: grpc.StatusCode.INVALID_ARGUMENT,
    LoadError: grpc.StatusCode.INVALID_ARGUMENT,
    AwayError: grpc.StatusCode.UNAVAILABLE,
    RefusedModelError: grpc.StatusCode.UNAVAILABLE,
    NotAllowedError: grpc.StatusCode.UNAVAILABLE,
    QueueFullError: grpc.StatusCode.UNAVAILABLE,
    TimedOutError: grpc.StatusCode.UNAVAILABLE,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    StoppedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ModelFailedError: grpc.StatusCode.INTERNAL,
}

LONGEST_DETAILS = 2000
"""Characters; gRPC refuses a status whose headers exceed 8 KiB."""


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return the status of an error; one that is not listed is INTERNAL, and told to the log alone."""
    if isinstance(error, DecodeError):
        return grpc.StatusCode.INVALID_ARGUMENT, f"the request is not this method's message: {error}"
    if code := _CODES.get(type(error)):
        return code, str(error)[:LONGEST_DETAILS]
    # Its text may quote data; where it happened does not.
    trace = "".join(traceback.format_tb(error.__traceback__))
    _LOG.error("a request failed with %s\n%s", type(error).__name__, trace)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}; the server's log says where"


def told(answer: Callable[[Any, Any], Any], decode: Callable[[bytes], Any]) -> Callable[[bytes, Any], Any]:
    """Wrap a method of one request: it gets the request decoded, its errors become statuses."""

    @functools.wraps(answer)
    def telling(request: bytes, call: Any) -> Any:
        try:
            return answer(decode(request), call)
        except Exception as error:  # noqa: BLE001 - a defect of ours must reach the caller as a status too
            return call.abort(*status(error))

    return telling

"""Asking models over the Open Inference Protocol: our own server, Triton or KServe alike."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from numpy.typing import NDArray
from opentelemetry.trace import SpanKind

from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference
from auscult.domain.model_card import InvalidCardError, ModelCard
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.protocol import MESSAGE_OPTIONS, METHODS
from auscult.inference.tensors import DATATYPES, datatype_of, from_contents, from_raw, to_raw
from auscult.inference.wire import Framed
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, RefuseToStart, Retry, TellClinician

_METADATA_TIMEOUT = 5.0
_POLL = 0.1

_OPTIONS = (
    *MESSAGE_OPTIONS,
    # gRPC's own back-off grows to two minutes; a server that restarted is wanted at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Studies must not leave for a web proxy that happens to be in the environment.
    ("grpc.enable_http_proxy", 0),
)

_FOR_EVER = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED})
"""The same request will be refused again."""


class InferenceClient:
    """Models of the server at `target` (`host:port`), with their cards from the repository folder `cards`.

    Calls may come from several threads. Close it, or use it as a context manager.
    """

    def __init__(self, target: str, cards: Path | None) -> None:
        self._cards = cards
        self._channel = grpc.insecure_channel(target, options=list(_OPTIONS))
        self._calls: Mapping[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {
            method.name: self._channel.unary_unary(
                method.path,
                request_serializer=method.encode_request,
                response_deserializer=method.decode_response,
            )
            for method in METHODS.values()
            if not method.streams
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and the calls that run on it."""
        self._channel.close()

    def infer(
        self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline, outputs: Sequence[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """Run `model` and return its `outputs`, or all, as arrays that may be read-only; BYTES are objects of bytes.

        Retry where the server or the model cannot be reached, TellClinician where the deadline passed,
        DeadLetter where the model will never take these inputs.
        """
        if deadline.expired:
            raise TellClinician("deadline-exceeded", f"no time was left to run model {model}")
        message = pb.ModelInferRequest(model_name=model)
        for name in outputs:
            message.outputs.add(name=name)
        raw = []
        for name, array in inputs.items():
            datatype = datatype_of(array)
            message.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
            raw.append(to_raw(array, datatype))
        with telemetry.span(f"infer {model}", kind=SpanKind.CLIENT) as span:
            parent = telemetry.traceparent()
            try:
                response: Framed[pb.ModelInferResponse] = self._calls["ModelInfer"](
                    Framed(message, tuple(raw)),
                    timeout=deadline.remaining,
                    metadata=(("traceparent", parent),) if parent else (),
                )
            except grpc.RpcError as error:
                raise _meaning(model, error) from None
            if "run_ms" in response.message.parameters:
                span.set_attribute("run_ms", response.message.parameters["run_ms"].double_param)
            return _outputs(model, response)

    def reference(self, model: str, deadline: Deadline | None = None) -> ModelReference:
        """Return the version that the server answers with, and its evidence and stage from the card.

        RefuseToStart where no card is known for that version: nothing may be published without one.
        """
        try:
            metadata: pb.ModelMetadataResponse = self._calls["ModelMetadata"](
                pb.ModelMetadataRequest(name=model), timeout=deadline.remaining if deadline else _METADATA_TIMEOUT
            )
        except grpc.RpcError as error:
            raise _meaning(model, error) from None
        version = max(metadata.versions, key=lambda text: (text.isdecimal() and int(text), text), default="")
        card = self._card(model)
        if card.version != version:
            raise RefuseToStart(
                "model-card-mismatch",
                f"the server answers with version {version or '(none)'} of model {model}, the card is for "
                f"{card.version}; give both the same repository",
            )
        return card.reference()

    def wait_ready(self, models: Sequence[str], timeout: float) -> None:
        """Return when the server serves all of `models`; RefuseToStart names those that it does not in time."""
        deadline = Deadline.after(timeout)
        waiting = list(models)
        while True:
            waiting = [model for model in waiting if not self._ready(model, deadline)]
            if not waiting:
                return
            if deadline.expired:
                raise RefuseToStart("model-not-ready", "; ".join(self._why_not(model) for model in waiting))
            time.sleep(min(_POLL, deadline.remaining))

    def _ready(self, model: str, deadline: Deadline) -> bool:
        try:
            response: pb.ModelReadyResponse = self._calls["ModelReady"](
                pb.ModelReadyRequest(name=model), timeout=deadline.remaining, wait_for_ready=True
            )
        except grpc.RpcError:
            return False
        return response.ready

    def _why_not(self, model: str) -> str:
        try:
            self._calls["ModelMetadata"](pb.ModelMetadataRequest(name=model), timeout=_METADATA_TIMEOUT)
        except grpc.RpcError as error:
            return str(_meaning(model, error))
        return f"model {model} became ready too late; allow more time"

    def _card(self, model: str) -> ModelCard:
        if self._cards is None:
            raise RefuseToStart(
                "model-card-missing", "no folder of model cards is known; set AUSCULT_MODEL_REPOSITORY"
            )
        path = self._cards / model / "card.yaml"
        try:
            card = _read_card(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise RefuseToStart(
                "model-card-missing", f"cannot read {path} ({type(error).__name__}); put the model's card there"
            ) from None
        except (InvalidCardError, UnicodeDecodeError) as error:
            raise RefuseToStart("model-card-invalid", f"correct {path}: {error}") from None
        if card.name != model:
            raise RefuseToStart(
                "model-card-mismatch", f"{path} is the card of {card.name}; put the model's own there"
            )
        return card


@functools.lru_cache(maxsize=256)
def _read_card(path: Path, _changed: int) -> ModelCard:
    """Read a card once for each time that it was changed: each number that is published asks for its author."""
    return ModelCard.parse(path.read_text(encoding="utf-8"))


def _outputs(model: str, response: Framed[pb.ModelInferResponse]) -> dict[str, NDArray[Any]]:
    tensors = response.message.outputs
    try:
        raw = response.raw or (None,) * len(tensors)
        return {
            tensor.name: from_contents(tensor.contents, DATATYPES[tensor.datatype], tensor.shape)
            if content is None
            else from_raw(content, DATATYPES[tensor.datatype], tensor.shape)
            for tensor, content in zip(tensors, raw, strict=True)
        }
    except (ValueError, KeyError) as error:
        raise DeadLetter(
            "inference-response-invalid", f"model {model} answered with a wrong tensor: {error}"
        ) from None


def _meaning(model: str, error: grpc.RpcError) -> AuscultError:
    """Say what happens next after a status."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TellClinician("deadline-exceeded", f"model {model} did not answer in time")
    if code == grpc.StatusCode.UNAVAILABLE:
        return Retry("inference-unavailable", f"model {model}: {details}")
    if code in _FOR_EVER:
        return DeadLetter("inference-refused", f"model {model}: {code.name}: {details}")
    return Retry("inference-failed", f"model {model}: {code.name}: {details}")

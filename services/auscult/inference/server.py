"""The inference server: the Open Inference Protocol v2 and `grpc.health.v1` over gRPC, on ONNX Runtime."""

from __future__ import annotations

import functools
import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from opentelemetry.trace import SpanKind

import auscult
from auscult.inference import execution
from auscult.inference.execution import InvalidRequestError, ModelFailedError, StoppedError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.protocol import MESSAGE_OPTIONS, METHODS, SERVICE
from auscult.inference.repository import RefusedModelError, Repository, UnknownModelError
from auscult.inference.tensors import TensorSpec
from auscult.inference.wire import Framed
from auscult.platform import telemetry
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

_LOG = logging.getLogger(__name__)

_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    UnknownModelError: grpc.StatusCode.NOT_FOUND,
    RefusedModelError: grpc.StatusCode.UNAVAILABLE,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    StoppedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ModelFailedError: grpc.StatusCode.INTERNAL,
}
"""What each error is to the caller; any other is INTERNAL, and told to the log alone."""

_LONGEST_DETAILS = 2000
"""Characters; gRPC refuses a status whose headers exceed 8 KiB."""

GRACE = 10.0
"""Seconds that running requests have to finish in when the server stops."""


class InferenceService:
    """The protocol's methods, each from its request and call context to its response."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def server_live(self, _request: pb.ServerLiveRequest, _call: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Answer that the process serves."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _request: pb.ServerReadyRequest, _call: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """Answer whether some model is served; which ones, ModelReady tells."""
        return pb.ServerReadyResponse(ready=bool(self._repository.models))

    def model_ready(self, request: pb.ModelReadyRequest, _call: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Answer whether the model is served; False also for one that is not here, as Triton does."""
        try:
            self._repository.find(request.name, request.version)
        except (UnknownModelError, RefusedModelError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def server_metadata(
        self, _request: pb.ServerMetadataRequest, _call: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name the server, its version and Triton's extension that it has."""
        return pb.ServerMetadataResponse(
            name="auscult", version=auscult.__version__, extensions=["model_configuration"]
        )

    def model_metadata(
        self, request: pb.ModelMetadataRequest, _call: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Describe a model's tensors and versions."""
        model, _ = self._repository.find(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=list(model.sessions),
            platform=model.config.platform,
            inputs=[_described(spec) for spec in model.signature.inputs],
            outputs=[_described(spec) for spec in model.signature.outputs],
        )

    def model_config(self, request: pb.ModelConfigRequest, _call: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """Return the configuration as it was read, with what it left to defaults filled in."""
        model, _ = self._repository.find(request.name, request.version)
        return pb.ModelConfigResponse(config=model.config)

    def model_infer(
        self, request: Framed[pb.ModelInferRequest], call: grpc.ServicerContext
    ) -> Framed[pb.ModelInferResponse]:
        """Run a model."""
        asked = request.message
        parent = next((str(value) for key, value in call.invocation_metadata() if key == "traceparent"), None)
        with telemetry.span("ModelInfer", parent=parent, kind=SpanKind.SERVER) as span:
            model, version = self._repository.find(asked.model_name, asked.model_version)
            span.set_attributes({"model": model.name, "version": version})
            return execution.run(model, version, request, call.add_callback)


def create_server(
    repository: Repository, address: str, threads: int = 4, *, health: HealthServicer | None = None
) -> tuple[grpc.Server, int]:
    """Return a server bound to `address`, not yet started, and its port; port 0 lets the system choose one.

    `threads`: inferences that run at once; further ones wait, unread. Liveness, metadata and health have threads of
    their own, so that they answer while all of those are busy. `health`: given by who wants to change what it says.
    RefuseToStart where the address cannot be bound.
    """
    service = InferenceService(repository)
    answers = {
        "ServerLive": _told(service.server_live),
        "ServerReady": _told(service.server_ready),
        "ModelReady": _told(service.model_ready),
        "ServerMetadata": _told(service.server_metadata),
        "ModelMetadata": _told(service.model_metadata),
        "ModelConfig": _told(service.model_config),
        "ModelInfer": _told(service.model_infer),
    }
    # gRPC has no other way to give a method threads of its own; were it ignored, runs would use the common ones.
    answers["ModelInfer"].experimental_thread_pool = ThreadPoolExecutor(threads, thread_name_prefix="infer")
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=METHODS[name].decode_request,
            response_serializer=METHODS[name].encode_response,
        )
        for name, answer in answers.items()
    }
    server = grpc.server(
        ThreadPoolExecutor(4, thread_name_prefix="grpc"),
        # Without the second option another server on the same port would share it unseen.
        options=[*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health = health or HealthServicer()
    for name in ("", SERVICE):
        health.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise RefuseToStart(
            "inference-address", f"cannot listen on {address}; is it free, and this machine's? ({error})"
        ) from None
    return server, port


def serve(settings: Settings, stopping: threading.Event, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve the repository that `settings` name until `stopping` is set, then let running requests finish."""
    repository = Repository(settings.models, settings.inference_threads)
    if not repository.models:
        raise RefuseToStart(
            "model-repository-empty",
            f"no model of {settings.models} can be served: {dict(repository.refused) or 'there is none'}",
        )
    health = HealthServicer()
    server, port = create_server(repository, settings.inference_listen, health=health)
    server.start()
    on_ready()
    _LOG.info("serving %s on port %d", ", ".join(repository.models), port)
    stopping.wait()
    health.enter_graceful_shutdown()
    server.stop(GRACE).wait()
    telemetry.flush()


def _told(answer: Callable[[Any, grpc.ServicerContext], Any]) -> Any:
    """Wrap a method so that its errors become gRPC statuses."""

    @functools.wraps(answer)
    def telling(request: Any, call: grpc.ServicerContext) -> Any:
        try:
            return answer(request, call)
        except tuple(_CODES) as error:
            call.abort(_CODES[type(error)], str(error)[:_LONGEST_DETAILS])
        except Exception as error:  # noqa: BLE001 - a defect of ours must reach the caller as a status too
            # Its text may quote data; where it happened does not.
            trace = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("%s failed with %s\n%s", answer.__name__, type(error).__name__, trace)
            call.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}; the server's log says where")

    return telling


def _described(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.name, shape=spec.shape)

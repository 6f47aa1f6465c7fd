"""The inference server: the Open Inference Protocol v2 with Triton's extensions, and `grpc.health.v1`, over gRPC."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from auscult.inference.administration import RepositoryService, SharedMemoryService
from auscult.inference.calls import Calls
from auscult.inference.inferring import InferService
from auscult.inference.metadata import MetadataService
from auscult.inference.metrics import MetricsServer
from auscult.inference.protocol import MESSAGE_OPTIONS, METHODS, SERVICE, Method
from auscult.inference.repository import Repository
from auscult.inference.scheduler import Scheduler
from auscult.inference.shared_memory import Regions
from auscult.inference.statistics import Statistics
from auscult.inference.statuses import told
from auscult.inference.tracing import LogLevels, SettingsService, Tracing
from auscult.platform import telemetry
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

_LOG = logging.getLogger("auscult.inference")

GRACE = 10.0
"""Seconds that requests have to be answered in when the server stops."""

SLOTS = 4
"""Runs that go at once."""

_POOL = "experimental_thread_pool"
"""Where gRPC looks for the threads that call a function; a method of an object could not carry it."""

_LOADS = ("RepositoryModelLoad", "RepositoryModelUnload")


CALLS = 1024
"""Calls that run models or wait for their turn, each in a thread of its own; with more, the next wait unseen."""


_PINGS = (("grpc.http2.min_ping_interval_without_data_ms", 100), ("grpc.keepalive_permit_without_calls", 1))
"""Clients may look whether we live while a long run keeps them waiting; by gRPC's default that ends their calls."""


@dataclass(frozen=True, slots=True)
class InferenceServer:
    """A server of one repository, bound to `port`."""

    port: int
    statistics: Statistics
    levels: LogLevels
    health: health.HealthServicer
    grpc: grpc.Server
    pools: Sequence[ThreadPoolExecutor]

    def start(self) -> None:
        """Answer from now on."""
        _LOG.addFilter(self.levels)
        for name in ("", SERVICE):
            self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.grpc.start()

    def stop(self, grace: float | None) -> None:
        """Take no more requests; those that it has get `grace` seconds to be answered in."""
        self.health.enter_graceful_shutdown()
        self.grpc.stop(grace).wait()
        for pool in self.pools:
            pool.shutdown()
        _LOG.removeFilter(self.levels)


def create_server(
    repository: Repository, address: str, slots: int = SLOTS, *, explicit: bool = False
) -> InferenceServer:
    """Return a server bound to `address`, not yet started; port 0 lets the system choose one.

    `slots`: runs that go at once; further requests wait in queues. `explicit`: whether callers may load and unload
    models. RefuseToStart where the address cannot be bound.
    """
    statistics, regions, tracing, levels = Statistics(), Regions(), Tracing(), LogLevels()
    for model in repository.models.values():
        for version in model.sessions:
            statistics.of(model.name, version)  # so that the metrics start from zero
    # Whatever waits in one of them, the others answer: health above all.
    asking, loading, streams, streamed = (
        ThreadPoolExecutor(threads, thread_name_prefix=name)
        for name, threads in (("ask", 4), ("load", 1), ("stream", CALLS), ("streamed", CALLS))
    )
    calls = Calls(CALLS, thread_name_prefix="infer")
    pools = {"ModelInfer": calls, "ModelStreamInfer": streams, **dict.fromkeys(_LOADS, loading)}
    services = (
        MetadataService(repository, statistics),
        InferService(repository, Scheduler(statistics, slots), statistics, regions, tracing, pool=streamed),
        RepositoryService(repository, explicit=explicit),
        SharedMemoryService(regions),
        SettingsService(repository, tracing, levels),
    )
    # Without the second option another server on the same port would share it unseen.
    server = grpc.server(asking, options=[*MESSAGE_OPTIONS, *_PINGS, ("grpc.so_reuseport", 0)])
    handlers = {name: _handler(method, services, pools.get(name)) for name, method in METHODS.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    servicer = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=asking)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise RefuseToStart(
            "inference-address", f"cannot listen on {address}; is it free, and this machine's? ({error})"
        ) from None
    return InferenceServer(port, statistics, levels, servicer, server, (asking, loading, calls, streams, streamed))


def serve(settings: Settings, stopping: threading.Event, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve the repository that `settings` name until `stopping` is set, then let running requests finish."""
    repository = Repository.of(settings)
    place = settings.model_repository or settings.models
    if not repository.models and settings.inference_model_control == "none":
        raise RefuseToStart(
            "model-repository-empty",
            f"no model of {place} can be served: {dict(repository.refused) or 'there is none'}",
        )
    explicit = settings.inference_model_control == "explicit"
    server = create_server(repository, settings.inference_listen, explicit=explicit)
    metrics = (
        MetricsServer(settings.inference_metrics_listen, server.statistics)
        if settings.inference_metrics_listen
        else None
    )
    server.start()
    on_ready()
    _LOG.info("serving %s on port %d", ", ".join(repository.models) or "no model yet", server.port)
    polls = settings.inference_model_control == "poll"
    while not stopping.wait(settings.inference_poll_seconds if polls else None):
        # The repository may be away for a moment; what was loaded goes on serving.
        try:
            repository.poll()
        except OSError as error:
            _LOG.warning("what is served stays as it is: the repository cannot be read: %s", error)
    server.stop(GRACE)
    if metrics:
        metrics.close()
    telemetry.flush()


def _handler(method: Method, services: tuple[object, ...], pool: ThreadPoolExecutor | None) -> Any:
    """Bind a method to what answers it: of the services, the one with a method of that name in snake case."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
    (answer,) = (getattr(service, name) for service in services if hasattr(service, name))
    if method.streams:
        # It reads its requests, encodes its responses and tells errors itself.
        return grpc.stream_stream_rpc_method_handler(_in_pool(answer, pool))
    # An answer of ModelInfer is encoded already: its tensors never go into a message.
    encode = None if method.name == "ModelInfer" else method.encode_response
    answering = told(answer, method.decode_request)
    vars(answering)[_POOL] = pool
    return grpc.unary_unary_rpc_method_handler(answering, response_serializer=encode)


def _in_pool(answer: Callable[..., Any], pool: ThreadPoolExecutor | None) -> Callable[..., Any]:
    """Have gRPC call `answer` in the threads of `pool`; None: in those of the server."""

    def answering(request: Any, call: Any) -> Any:
        return answer(request, call)

    vars(answering)[_POOL] = pool
    return answering

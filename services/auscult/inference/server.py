"""The inference server: the Open Inference Protocol v2 with Triton's extensions, and `grpc.health.v1`, over gRPC."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from auscult.inference.administration import RepositoryService, SharedMemoryService
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


@dataclass(frozen=True, slots=True)
class InferenceServer:
    """A server of one repository, bound to `port`. Its methods belong to the event loop that it was made in."""

    port: int
    statistics: Statistics
    scheduler: Scheduler
    levels: LogLevels
    health: Any
    grpc: grpc.aio.Server

    async def start(self) -> None:
        """Answer from now on."""
        _LOG.addFilter(self.levels)
        for name in ("", SERVICE):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self.grpc.start()

    async def stop(self, grace: float | None) -> None:
        """Take no more requests; those that it has get `grace` seconds to be answered in."""
        await self.health.enter_graceful_shutdown()
        await self.grpc.stop(grace)
        await asyncio.to_thread(self.scheduler.close)
        _LOG.removeFilter(self.levels)


async def create_server(
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
    scheduler = Scheduler(statistics, slots)
    services = (
        MetadataService(repository, statistics),
        InferService(repository, scheduler, statistics, regions, tracing),
        RepositoryService(repository, explicit=explicit),
        SharedMemoryService(regions),
        SettingsService(repository, tracing, levels),
    )
    # Without the second option another server on the same port would share it unseen.
    server = grpc.aio.server(options=[*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0)])
    handlers = {name: _handler(method, services) for name, method in METHODS.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        scheduler.close()
        raise RefuseToStart(
            "inference-address", f"cannot listen on {address}; is it free, and this machine's? ({error})"
        ) from None
    return InferenceServer(port, statistics, scheduler, levels, health, server)


def serve(settings: Settings, stopping: threading.Event, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve the repository that `settings` name until `stopping` is set, then let running requests finish."""
    repository = Repository.of(settings)
    place = settings.model_repository or settings.models
    if not repository.models:
        raise RefuseToStart(
            "model-repository-empty",
            f"no model of {place} can be served: {dict(repository.refused) or 'there is none'}",
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(repository, settings, stopping, on_ready))
    telemetry.flush()


async def _serve(
    repository: Repository, settings: Settings, stopping: threading.Event, on_ready: Callable[[], None]
) -> None:
    explicit = settings.inference_model_control == "explicit"
    server = await create_server(repository, settings.inference_listen, explicit=explicit)
    metrics = (
        MetricsServer(settings.inference_metrics_listen, server.statistics)
        if settings.inference_metrics_listen
        else None
    )
    await server.start()
    on_ready()
    _LOG.info("serving %s on port %d", ", ".join(repository.models), server.port)
    polls = settings.inference_model_control == "poll"
    while not await asyncio.to_thread(stopping.wait, settings.inference_poll_seconds if polls else None):
        # The repository may be away for a moment; what was loaded goes on serving.
        try:
            await asyncio.to_thread(repository.poll)
        except OSError as error:
            _LOG.warning("what is served stays as it is: the repository cannot be read: %s", error)
    await server.stop(GRACE)
    if metrics:
        await asyncio.to_thread(metrics.close)


def _handler(method: Method, services: tuple[object, ...]) -> Any:
    """Bind a method to what answers it: of the services, the one with a method of that name in snake case."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
    (answer,) = (getattr(service, name) for service in services if hasattr(service, name))
    if method.streams:
        # It reads its requests, encodes its responses and tells errors itself.
        return grpc.stream_stream_rpc_method_handler(answer)
    # An answer of ModelInfer is encoded in the thread that ran the model: a volume would hold up the event loop.
    encode = None if method.name == "ModelInfer" else method.encode_response
    return grpc.unary_unary_rpc_method_handler(told(answer, method.decode_request), response_serializer=encode)

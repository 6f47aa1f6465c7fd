"""The methods that run models: one request, or a stream of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from auscult.inference.loading import Model
from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import Prepared, prepare
from auscult.inference.repository import Repository
from auscult.inference.scheduler import Scheduler
from auscult.inference.shared_memory import Regions
from auscult.inference.statistics import Failure, Statistics
from auscult.inference.statuses import status
from auscult.inference.tracing import Tracing
from auscult.inference.wire import REQUEST, Framed, streamed
from auscult.platform import telemetry

_AHEAD = 64
"""Requests of one stream that are read before the first of them is answered."""

_TYPED_AT_ONCE = 4096
"""Bytes of typed contents that are read on the event loop; more would keep other callers waiting."""


class InferService:
    """Runs the models of a repository."""

    def __init__(
        self,
        repository: Repository,
        scheduler: Scheduler,
        statistics: Statistics,
        regions: Regions,
        tracing: Tracing,
    ) -> None:
        self._repository = repository
        self._scheduler = scheduler
        self._statistics = statistics
        self._regions = regions
        self._tracing = tracing

    async def model_infer(self, request: Framed[pb.ModelInferRequest], call: Any) -> bytes:
        """Run a model; the response is encoded."""
        return await self._infer(request, call, "ModelInfer")

    async def model_stream_infer(self, requests: AsyncIterator[bytes], call: Any) -> AsyncIterator[bytes]:
        """Run models for a stream of requests and give the responses, encoded, in the order of the requests.

        A request that fails gets a response with its error and leaves the others alone, unless the caller's metadata
        has `triton_grpc_error: true`: then the first error is the status that ends the stream, as with Triton.
        """
        ends = any(key == "triton_grpc_error" and value == "true" for key, value in call.invocation_metadata() or ())
        asked: asyncio.Queue[tuple[str, asyncio.Future[bytes]] | None] = asyncio.Queue(_AHEAD)
        reading = asyncio.create_task(self._read(requests, call, asked))
        running: set[asyncio.Future[bytes]] = set()
        try:
            while (item := await asked.get()) is not None:
                name, task = item
                running.add(task)
                try:
                    yield streamed(await task)
                except Exception as error:  # noqa: BLE001 - each is told to the caller
                    code, details = status(error)
                    if ends:
                        await call.abort(code, details)
                    failed = pb.ModelStreamInferResponse(error_message=details)
                    failed.infer_response.id = name
                    yield failed.SerializeToString()
                running.discard(task)
            await reading
        finally:
            reading.cancel()
            while not asked.empty():
                if left := asked.get_nowait():
                    running.add(left[1])
            for task in running:
                if not task.cancel() and not task.cancelled():
                    task.exception()  # seen, so that asyncio does not log what nobody waits for

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        call: Any,
        asked: asyncio.Queue[tuple[str, asyncio.Future[bytes]] | None],
    ) -> None:
        async for message in requests:
            try:
                request = REQUEST.decode(message)
            except DecodeError as error:
                # What follows may be anything too: the stream is read no further.
                unread: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                unread.set_exception(error)
                await asked.put(("", unread))
                break
            task = asyncio.create_task(self._infer(request, call, "ModelStreamInfer", final=True))
            try:
                await asked.put((request.message.id, task))
            except asyncio.CancelledError:
                task.cancel()
                raise
        await asked.put(None)

    async def _infer(
        self, request: Framed[pb.ModelInferRequest], call: Any, method: str, *, final: bool = False
    ) -> bytes:
        start = time.perf_counter_ns()
        asked = request.message
        model, version = self._repository.find(asked.model_name, asked.model_version)
        remaining = call.time_remaining()
        expires = math.inf if remaining is None else asyncio.get_running_loop().time() + remaining
        try:
            prepared = await self._prepare(model, version, request, final=final)
        except InvalidRequestError:
            self._statistics.of(model.name, version).failed(time.perf_counter_ns() - start, Failure.OTHER)
            raise
        parent = next((str(value) for key, value in call.invocation_metadata() or () if key == "traceparent"), None)
        if not self._tracing.wanted(model.name, traced=parent is not None):
            return await self._scheduler.infer(prepared, expires=expires)
        with telemetry.span(method, parent=parent, kind=SpanKind.SERVER, model=model.name, version=version) as span:
            return await self._scheduler.infer(prepared, expires=expires, parent=span)

    async def _prepare(
        self, model: Model, version: str, request: Framed[pb.ModelInferRequest], *, final: bool
    ) -> Prepared:
        simple = request.raw or request.message.ByteSize() < _TYPED_AT_ONCE
        if simple and not any(tensor.datatype == "BYTES" for tensor in request.message.inputs):
            return prepare(model, version, request, self._regions, final=final)
        return await asyncio.to_thread(prepare, model, version, request, self._regions, final=final)

"""The methods that run models: one request, or a stream of them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.trace import SpanKind

from auscult.inference.calls import Later, hurried
from auscult.inference.parameters import InvalidRequestError
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import prepare
from auscult.inference.repository import Repository
from auscult.inference.scheduler import OnGone, Scheduler
from auscult.inference.shared_memory import Regions, UnknownRegionError
from auscult.inference.statistics import Failure, Statistics
from auscult.inference.statuses import status
from auscult.inference.tracing import Tracing
from auscult.inference.wire import REQUEST, Framed, streamed
from auscult.platform import allocator, telemetry

_AHEAD = 64
"""Requests of one stream that are read before the first of them is answered."""


class InferService:
    """Runs the models of a repository. `pool`: has a thread for each request of a stream that is in progress."""

    def __init__(
        self,
        repository: Repository,
        scheduler: Scheduler,
        statistics: Statistics,
        regions: Regions,
        tracing: Tracing,
        *,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._repository = repository
        self._scheduler = scheduler
        self._statistics = statistics
        self._regions = regions
        self._tracing = tracing
        self._pool = pool

    def model_infer(self, request: Framed[pb.ModelInferRequest], call: Any) -> bytes:
        """Run a model; the response is encoded."""
        return self._infer(request, call, "ModelInfer", call.add_callback)

    def model_stream_infer(self, requests: Iterator[bytes], call: Any) -> Iterator[bytes]:
        """Run models for a stream of requests and give the responses, encoded, in the order of the requests.

        A request that fails gets a response with its error and leaves the others alone, unless the caller's metadata
        has `triton_grpc_error: true`: then the first error is the status that ends the stream, as with Triton.
        """
        ends = any(key == "triton_grpc_error" and value == "true" for key, value in call.invocation_metadata() or ())
        stream = _Stream(
            requests, lambda request, gone: self._infer(request, call, "ModelStreamInfer", gone, final=True)
        )
        if not call.add_callback(stream.end):
            stream.end()
        reading = threading.Thread(target=stream.read, args=(self._pool,), name="stream")
        reading.start()
        try:
            for name, task in stream:
                try:
                    yield streamed(task.result())
                except Exception as error:  # noqa: BLE001 - each is told to the caller
                    code, details = status(error)
                    if ends:
                        call.abort(code, details)
                    failed = pb.ModelStreamInferResponse(error_message=details)
                    failed.infer_response.id = name
                    yield failed.SerializeToString()
        finally:
            stream.end()

    def _infer(
        self,
        request: Framed[pb.ModelInferRequest],
        call: Any,
        method: str,
        on_gone: OnGone,
        *,
        final: bool = False,
    ) -> bytes:
        start = time.perf_counter_ns()
        asked = request.message
        model, version = self._repository.find(asked.model_name, asked.model_version)
        at_once = hurried()
        if at_once and not self._scheduler.quick(model, version):
            raise Later
        expires = time.monotonic() + call.time_remaining()
        if any(len(one) >= allocator.LARGE for one in request.raw):
            # gRPC received it in small blocks, by now freed, between which no large one of the run's fits.
            allocator.give_back_freed_memory()
        try:
            prepared = prepare(model, version, request, self._regions, final=final)
        except (InvalidRequestError, UnknownRegionError):
            with self._statistics.changing:
                self._statistics.of(model.name, version).failed(time.perf_counter_ns() - start, Failure.OTHER)
            raise
        parent = None
        for key, value in call.invocation_metadata() or ():
            if key == "traceparent":
                parent = str(value)
                break
        infer = self._scheduler.infer_at_once if at_once else partial(self._scheduler.infer, on_gone=on_gone)
        if not self._tracing.wanted(model.name, traced=parent is not None):
            return infer(prepared, expires=expires)
        with telemetry.span(method, parent=parent, kind=SpanKind.SERVER, model=model.name, version=version) as span:
            return infer(prepared, expires=expires, parent=span)


class _Stream:
    """The requests of one stream: they run side by side, and what came of each is told in their order."""

    def __init__(
        self, requests: Iterator[bytes], infer: Callable[[Framed[pb.ModelInferRequest], OnGone], bytes]
    ) -> None:
        self._requests = requests
        self._infer = infer
        self._ahead = threading.Semaphore(_AHEAD)
        self._ended = threading.Event()
        self._active: dict[object, Callable[[], None]] = {}
        self._asked: queue.SimpleQueue[tuple[str, Future[bytes]] | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[tuple[str, Future[bytes]]]:
        """Give each request's id and what comes of it."""
        while item := self._asked.get():
            yield item
            self._ahead.release()

    def read(self, pool: ThreadPoolExecutor) -> None:
        """Start the requests as they come, `_AHEAD` at most before the first of them is told."""
        try:
            for message in self._requests:
                self._ahead.acquire()
                if self._ended.is_set():
                    break
                try:
                    request = REQUEST.decode(message)
                except DecodeError as error:
                    # What follows may be anything too: the stream is read no further.
                    unread: Future[bytes] = Future()
                    unread.set_exception(error)
                    self._asked.put(("", unread))
                    break
                self._asked.put((request.message.id, pool.submit(self._run, request)))
        except grpc.RpcError:
            pass  # the caller is gone: `end` was called
        finally:
            self._asked.put(None)

    def end(self) -> None:
        """Give up what is in progress."""
        self._ended.set()
        self._ahead.release()
        for give_up in list(self._active.values()):
            give_up()

    def _run(self, request: Framed[pb.ModelInferRequest]) -> bytes:
        mark = object()

        def on_gone(give_up: Callable[[], None]) -> bool:
            self._active[mark] = give_up
            return not self._ended.is_set()

        try:
            return self._infer(request, on_gone)
        finally:
            self._active.pop(mark, None)

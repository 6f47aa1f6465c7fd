"""Which request runs when: one place decides for all models, so that an urgent request overtakes whatever waits.

Everything here happens on the event loop; only the runs themselves happen in threads. A request leaves the queue when
its caller is gone or its deadline passes, and is never run then; a run is ended once none of its callers is left.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from weakref import WeakKeyDictionary

import onnxruntime as ort
from opentelemetry.trace import Span

from auscult.inference import execution
from auscult.inference.batching import Queue, QueueFullError, TimedOutError, Waiting
from auscult.inference.execution import ModelFailedError, Outcome, StoppedError
from auscult.inference.loading import Model
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import Prepared
from auscult.inference.statistics import Failure, Statistics
from auscult.inference.volumes import VolumeRun
from auscult.platform import telemetry

HELD = 4 * 2**30
"""Bytes of inputs that all requests may hold together; with more, one burst could end the process for all."""

Part = tuple[Sequence[Waiting], Outcome]
"""Requests that ran together, and what came of it."""


class Scheduler:
    """Runs requests in `slots` threads, most urgent first, merged into batches where the model says so.

    `held`: bytes of inputs that requests may hold together. Made and used within one event loop.
    """

    def __init__(self, statistics: Statistics, slots: int, held: int = HELD) -> None:
        self._statistics = statistics
        self._slots = self._free = slots
        self._may_hold, self._holds = held, 0
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="infer")
        self._arrivals = count()
        # A model that is replaced takes its queues with it once its last request is answered.
        self._queues: WeakKeyDictionary[Model, dict[str, Queue]] = WeakKeyDictionary()
        self._busy: set[Queue] = set()
        self._volumes: dict[Waiting, Queue] = {}
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """End the threads; what runs is waited for."""
        if self._timer:
            self._timer.cancel()
        self._pool.shutdown()

    async def infer(self, request: Prepared, *, expires: float = math.inf, parent: Span | None = None) -> bytes:
        """Return the encoded response once the request's turn has come.

        `expires`: the caller's deadline, on the event loop's clock; a cancelled caller cancels the call. Errors:
        QueueFullError, TimedOutError, StoppedError, ModelFailedError and those of `execution`.
        """
        loop = asyncio.get_running_loop()
        queue = self._queue(request)
        numbers = self._statistics.of(request.model.name, request.version)
        asked = request.message.parameters
        level = queue.level(_number(asked, "priority"))
        waiting = Waiting(
            request, loop.create_future(), level, next(self._arrivals), loop.time(), expires, parent=parent
        )
        start = time.perf_counter_ns()
        holds = request.nbytes
        try:
            self._make_sure_of(holds)
            queue.admit(waiting)
        except QueueFullError:
            numbers.failed(time.perf_counter_ns() - start, Failure.REJECTED)
            raise
        self._holds += holds
        numbers.pending += 1
        if timeout := queue.timeout(level, _number(asked, "timeout")):
            waiting.timer = loop.call_later(timeout / 1e6, self._time_out, queue, waiting)
        self._busy.add(queue)
        try:
            self._dispatch()
            answer = await waiting.answer
        except BaseException as error:
            numbers.failed(time.perf_counter_ns() - start, _reason(error))
            raise
        else:
            numbers.success.add(time.perf_counter_ns() - start)
            return answer
        finally:
            self._leave(queue, waiting)
            self._holds -= holds

    def _make_sure_of(self, holds: int) -> None:
        if self._holds and self._holds + holds > self._may_hold:
            raise QueueFullError(f"the requests in progress hold {self._holds} bytes; try later")

    def _queue(self, request: Prepared) -> Queue:
        queues = self._queues.setdefault(request.model, {})
        if request.version not in queues:
            queues[request.version] = Queue(request.model.config, self._slots)
        return queues[request.version]

    def _dispatch(self) -> None:
        """Start what can be started now, and set the timer for what cannot yet."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        now = asyncio.get_running_loop().time()
        while self._free:
            again = math.inf
            best: tuple[Queue, Sequence[Waiting]] | None = None
            for queue in self._busy:
                if queue.running >= queue.instances or not queue.waiting:
                    continue
                batch, until = queue.batch(now)
                if not batch:
                    again = min(again, until)
                elif best is None or batch[0].order < best[1][0].order:
                    best = queue, batch
            if best is None:
                if again < math.inf:
                    self._timer = asyncio.get_running_loop().call_at(again, self._dispatch)
                break
            self._start(*best, now)
        if self._volumes:
            self._make_way()

    def _make_way(self) -> None:
        """Let volumes that run pause where something more urgent waits for their places."""
        for queue in self._busy:
            full = queue.running >= queue.instances
            if not queue.waiting or (self._free and not full):
                continue
            order = queue.waiting[0].order
            less = [it for it, own in self._volumes.items() if it.order > order and (own is queue or not full)]
            if less:
                max(less, key=lambda waiting: waiting.order).pausing = True

    def _start(self, queue: Queue, batch: Sequence[Waiting], now: float) -> None:
        for waiting in batch:
            self._leave(queue, waiting)
        for waiting in batch:
            if waiting.expires <= now and not waiting.answer.done():
                waiting.answer.set_exception(StoppedError("the deadline passed before the model ran"))
        if not (batch := [waiting for waiting in batch if not waiting.answer.done()]):
            return
        options = ort.RunOptions()
        options.log_severity_level = 4
        for waiting in batch:
            waiting.answer.add_done_callback(partial(_end_unwanted, batch, options))
        if batch[0].request.model.window:
            batch[0].pausing = False
            self._volumes[batch[0]] = queue
        self._free -= 1
        queue.running += 1
        run = asyncio.get_running_loop().run_in_executor(self._pool, _run, batch, options)
        run.add_done_callback(partial(self._finish, queue, batch, now))

    def _finish(
        self, queue: Queue, batch: Sequence[Waiting], started: float, run: asyncio.Future[list[Part]]
    ) -> None:
        self._free += 1
        queue.running -= 1
        self._volumes.pop(batch[0], None)
        failure = run.exception()
        parts: list[Part] = run.result() if failure is None else [(batch, Outcome([failure] * len(batch), None))]
        request = batch[0].request
        if not parts and not batch[0].answer.done():
            queue.resume(batch[0])
            self._busy.add(queue)
            self._statistics.of(request.model.name, request.version).pending += 1
        for part, outcome in parts:
            if outcome.spent:
                self._statistics.of(request.model.name, request.version).ran(
                    [waiting.request.size for waiting in part],
                    [int((started - waiting.since) * 1e9) for waiting in part],
                    outcome.spent,
                )
            for waiting, answer in zip(part, outcome.answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, BaseException):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
        self._dispatch()

    def _time_out(self, queue: Queue, waiting: Waiting) -> None:
        if queue.delays(waiting.level):
            queue.delay(waiting)
            self._dispatch()
        elif not waiting.answer.done():
            waiting.answer.set_exception(TimedOutError("the request timed out in the queue"))

    def _leave(self, queue: Queue, waiting: Waiting) -> None:
        """Take a request out of the queue, if it is still in it."""
        if waiting not in queue.waiting:
            return
        queue.waiting.remove(waiting)
        self._statistics.of(waiting.request.model.name, waiting.request.version).pending -= 1
        if waiting.timer:
            waiting.timer.cancel()
        if not queue.waiting:
            self._busy.discard(queue)


def _run(batch: Sequence[Waiting], options: ort.RunOptions) -> list[Part]:
    """Run a batch. Where it fails each request is run apart, so that one cannot spoil the others'.

    Nothing is returned for a volume that pauses.
    """
    first = batch[0]
    if first.request.model.window:
        came = execution.run_volume(first.request, first.volume, options, lambda: first.pausing)
        if isinstance(came, VolumeRun):
            first.volume = came
            return []
        outcome, first.volume = came, None
    else:
        outcome = execution.run([waiting.request for waiting in batch], options)
    if len(batch) > 1 and any(isinstance(answer, ModelFailedError) for answer in outcome.answers):
        return [part for waiting in batch for part in _run([waiting], options)]
    if spent := outcome.spent:
        for waiting in batch:
            if waiting.parent is not None:
                telemetry.record(
                    "onnxruntime run",
                    spent.started / 1e9,
                    (spent.started + spent.compute_infer) / 1e9,
                    parent=waiting.parent,
                    model=waiting.request.model.name,
                    version=waiting.request.version,
                )
    return [(batch, outcome)]


def _end_unwanted(batch: Sequence[Waiting], options: ort.RunOptions, _answer: asyncio.Future[bytes]) -> None:
    if all(waiting.answer.cancelled() for waiting in batch):
        options.terminate = True


def _number(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Return a parameter that clients send as one of several numbers; 0 where it is not given."""
    if name not in parameters:
        return 0
    given = parameters[name]
    return max(0, int(given.uint64_param or given.int64_param))


def _reason(error: BaseException) -> Failure:
    if isinstance(error, (asyncio.CancelledError, StoppedError)):
        return Failure.CANCELED
    if isinstance(error, TimedOutError):
        return Failure.REJECTED
    return Failure.BACKEND if isinstance(error, ModelFailedError) else Failure.OTHER

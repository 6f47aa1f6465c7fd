"""Which request runs when: one place decides for all models, so that an urgent request overtakes whatever waits.

A request waits in the thread that was called for it, and a batch runs in the thread of its first request: a small
model's request never changes threads. A request leaves the queue when its caller is gone or its deadline passes, and
is never run then; a run is ended once none of its callers is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from weakref import WeakKeyDictionary

import onnxruntime as ort
from opentelemetry.trace import Span

from auscult.inference import execution
from auscult.inference.batching import Queue, QueueFullError, Run, TimedOutError, Waiting
from auscult.inference.calls import Later
from auscult.inference.execution import ModelFailedError, Outcome, Spent, StoppedError
from auscult.inference.loading import Model
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import Prepared
from auscult.inference.statistics import Failure, Statistics
from auscult.inference.volumes import VolumeRun
from auscult.platform import telemetry

HELD = 4 * 2**30
"""Bytes of inputs that all requests may hold together; with more, one burst could end the process for all."""

QUICK_NS = 200_000
"""Nanoseconds of a run that may keep all other calls waiting."""

OnGone = Callable[[Callable[[], None]], bool]
"""Takes what to call when the caller is gone; says whether it is still there."""

Part = tuple[Sequence[Waiting], Outcome]
"""Requests that ran together, and what came of it."""


class Scheduler:
    """Lets requests run, `slots` batches at once, most urgent first, merged where the model says so.

    `held`: bytes of inputs that requests may hold together. Calls may come from any thread.
    """

    def __init__(self, statistics: Statistics, slots: int, held: int = HELD) -> None:
        self._statistics = statistics
        self._slots = self._free = slots
        self._may_hold, self._holds = held, 0
        self._arrivals = count()
        # The queues change together with the numbers that are told of them.
        self._changing = statistics.changing
        # A model that is replaced takes its queues with it once its last request is answered.
        self._queues: WeakKeyDictionary[Model, dict[str, Queue]] = WeakKeyDictionary()
        self._busy: set[Queue] = set()
        self._volumes: dict[Waiting, Queue] = {}

    def quick(self, model: Model, version: str) -> bool:
        """Whether requests for the model are answered so quickly that they may run in gRPC's own thread."""
        return model.bounded and 0 < self._statistics.of(model.name, version).recent_ns < QUICK_NS

    def infer(
        self,
        request: Prepared,
        *,
        expires: float = math.inf,
        parent: Span | None = None,
        on_gone: OnGone = lambda _give_up: True,
    ) -> bytes:
        """Return the encoded response once the request's turn has come.

        `expires`: the caller's deadline, on `time.monotonic`.
        Errors: QueueFullError, TimedOutError, StoppedError, ModelFailedError and those of `execution`.
        """
        numbers = self._statistics.of(request.model.name, request.version)
        asked = request.message.parameters
        start, now = time.perf_counter_ns(), time.monotonic()
        holds = request.nbytes
        with self._changing:
            queue = self._queue(request)
            level = queue.level(_number(asked, "priority"))
            waiting = Waiting(request, level, next(self._arrivals), now, expires, parent)
            try:
                self._make_sure_of(holds)
                queue.admit(waiting)
            except QueueFullError:
                numbers.failed(time.perf_counter_ns() - start, Failure.REJECTED)
                raise
            self._holds += holds
            numbers.pending += 1
            self._busy.add(queue)
            self._dispatch()
        try:
            if not on_gone(partial(self._give_up, queue, waiting)):
                self._give_up(queue, waiting)
            self._see_through(queue, waiting, queue.timeout(level, _number(asked, "timeout")) / 1e6)
        finally:
            with self._changing:
                self._leave(queue, waiting)
                self._holds -= holds
                waiting.run = None  # it holds the request too: a circle would keep both until they are collected
                ns = time.perf_counter_ns() - start
                if isinstance(waiting.answer, bytes):
                    numbers.success.add(ns)
                else:
                    numbers.failed(ns, _reason(waiting.answer))
        if isinstance(waiting.answer, bytes):
            return waiting.answer
        assert waiting.answer is not None  # noqa: S101 - it is answered, or an error went by
        raise waiting.answer

    def infer_at_once(self, request: Prepared, *, expires: float = math.inf, parent: Span | None = None) -> bytes:
        """Return the encoded response as `infer` does; Later where the request has to wait, or must not run.

        With its place free and nobody before it there is no turn to wait for: it passes by the queue.
        """
        start = time.perf_counter_ns()
        holds = request.nbytes
        with self._changing:
            queue = self._queue(request)
            full = not self._free or queue.running >= queue.instances
            if full or queue.waiting or queue.patience or request.model.window or expires <= time.monotonic():
                raise Later
            if self._holds and self._holds + holds > self._may_hold:
                raise Later
            self._holds += holds
            self._free -= 1
            queue.running += 1
        try:
            outcome = execution.run((request,), _options())
        except Exception as error:  # noqa: BLE001 - the caller is told, by `statuses`
            outcome = Outcome((error,), None)
        (answer,) = outcome.answers
        with self._changing:
            self._holds -= holds
            self._free += 1
            queue.running -= 1
            numbers = self._statistics.of(request.model.name, request.version)
            if outcome.spent:
                numbers.ran((request.size,), (0,), outcome.spent)
            ns = time.perf_counter_ns() - start
            if isinstance(answer, bytes):
                numbers.success.add(ns)
            else:
                numbers.failed(ns, _reason(answer))
            if self._busy:
                self._dispatch()
        if outcome.spent and parent is not None:
            _record(outcome.spent, request, parent)
        if isinstance(answer, bytes):
            return answer
        raise answer

    def _make_sure_of(self, holds: int) -> None:
        if self._holds and self._holds + holds > self._may_hold:
            raise QueueFullError(f"the requests in progress hold {self._holds} bytes; try later")

    def _queue(self, request: Prepared) -> Queue:
        queues = self._queues.setdefault(request.model, {})
        if request.version not in queues:
            queues[request.version] = Queue(request.model.config, self._slots)
        return queues[request.version]

    def _see_through(self, queue: Queue, waiting: Waiting, timeout: float) -> None:
        """Return once the request is answered; run what it is the first of."""
        while True:
            answered = waiting.answer is not None
            if run := waiting.leads:
                waiting.leads = None
                self._finish(queue, run, _ran(run))
            elif answered:
                return
            else:
                self._await_turn(queue, waiting, timeout)

    def _await_turn(self, queue: Queue, waiting: Waiting, timeout: float) -> None:
        """Return once the request is answered, or is the first of a run."""
        dues = [(waiting.since + queue.patience, self._dispatch)] if queue.patience else []
        if timeout and not waiting.delayed:
            dues.append((waiting.since + timeout, partial(self._time_out, queue, waiting)))
        for due, act in sorted(dues, key=lambda it: it[0]):
            if waiting.asleep.acquire(timeout=max(0.0, due - time.monotonic())):
                return
            with self._changing:
                act()
        waiting.asleep.acquire()

    def _dispatch(self) -> None:
        """Start what can be started now. What waits for company is looked at again by its own thread."""
        now = 0.0
        while self._free and self._busy:
            now = now or time.monotonic()
            best: tuple[Queue, Sequence[Waiting]] | None = None
            for queue in self._busy:
                if queue.running >= queue.instances or not queue.waiting:
                    continue
                batch = queue.batch(now)
                if batch and (best is None or batch[0].order < best[1][0].order):
                    best = queue, batch
            if best is None:
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
            if waiting.expires <= now:
                waiting.settle(StoppedError("the deadline passed before the model ran"))
        if not (batch := [waiting for waiting in batch if waiting.answer is None]):
            return
        run = Run(batch, _options(), now)
        for waiting in batch:
            waiting.run = run
        if batch[0].request.model.window:
            batch[0].pausing = False
            self._volumes[batch[0]] = queue
        self._free -= 1
        queue.running += 1
        batch[0].leads = run
        batch[0].wake()

    def _finish(self, queue: Queue, run: Run, parts: list[Part]) -> None:
        with self._changing:
            self._free += 1
            queue.running -= 1
            self._volumes.pop(run.batch[0], None)
            request = run.batch[0].request
            if not parts and run.batch[0].answer is None:
                queue.resume(run.batch[0])
                self._busy.add(queue)
                self._statistics.of(request.model.name, request.version).pending += 1
            for part, outcome in parts:
                if outcome.spent:
                    self._statistics.of(request.model.name, request.version).ran(
                        [waiting.request.size for waiting in part],
                        [int((run.started - waiting.since) * 1e9) for waiting in part],
                        outcome.spent,
                    )
                for waiting, answer in zip(part, outcome.answers, strict=True):
                    waiting.settle(answer)
            self._dispatch()

    def _time_out(self, queue: Queue, waiting: Waiting) -> None:
        if waiting.run or waiting.answer is not None:
            return
        if queue.delays(waiting.level):
            queue.delay(waiting)
            self._dispatch()
        else:
            self._leave(queue, waiting)
            waiting.settle(TimedOutError("the request timed out in the queue"))

    def _give_up(self, queue: Queue, waiting: Waiting) -> None:
        """Answer nobody: the caller is gone. A run that has no caller left is ended."""
        if waiting.answer is not None:
            return
        with self._changing:
            self._leave(queue, waiting)
            waiting.settle(StoppedError("the caller is gone"))
            if waiting.run and all(other.answer is not None for other in waiting.run.batch):
                waiting.run.options.terminate = True

    def _leave(self, queue: Queue, waiting: Waiting) -> None:
        """Take a request out of the queue, if it is still in it."""
        if waiting not in queue.waiting:
            return
        queue.waiting.remove(waiting)
        self._statistics.of(waiting.request.model.name, waiting.request.version).pending -= 1
        if not queue.waiting:
            self._busy.discard(queue)


def _ran(run: Run) -> list[Part]:
    """Run a batch; whatever goes wrong is the answer of its requests."""
    try:
        return _run(run.batch, run.options)
    except Exception as error:  # noqa: BLE001 - each caller is told, by `statuses`
        return [(run.batch, Outcome([error] * len(run.batch), None))]


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
                _record(spent, waiting.request, waiting.parent)
    return [(batch, outcome)]


def _options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = 4
    return options


def _record(spent: Spent, request: Prepared, parent: Span) -> None:
    telemetry.record(
        "onnxruntime run",
        spent.started / 1e9,
        (spent.started + spent.compute_infer) / 1e9,
        parent=parent,
        model=request.model.name,
        version=request.version,
        **({"fell_back": True} if spent.fell_back else {}),
    )


def _number(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    """Return a parameter that clients send as one of several numbers; 0 where it is not given."""
    if name not in parameters:
        return 0
    given = parameters[name]
    return max(0, int(given.uint64_param or given.int64_param))


def _reason(error: BaseException | None) -> Failure:
    if isinstance(error, StoppedError):
        return Failure.CANCELED
    if isinstance(error, TimedOutError):
        return Failure.REJECTED
    return Failure.BACKEND if isinstance(error, ModelFailedError) else Failure.OTHER

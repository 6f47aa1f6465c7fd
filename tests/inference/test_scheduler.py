"""Which request runs when, with a session whose runs the test ends itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from auscult.inference.batching import Queue, QueueFullError, TimedOutError
from auscult.inference.calls import Later
from auscult.inference.execution import ModelFailedError, StoppedError
from auscult.inference.loading import Model
from auscult.inference.pb import model_config_pb2
from auscult.inference.pb import open_inference_grpc_pb2 as pb
from auscult.inference.preparing import Prepared, prepare
from auscult.inference.repository import Repository
from auscult.inference.scheduler import Scheduler
from auscult.inference.shared_memory import Regions
from auscult.inference.statistics import Failure, Statistics
from auscult.inference.wire import Framed
from inference.asking import Asked, Callers


class Session:
    """Doubles its input as the model would; each run waits for its turn and leaves its input behind."""

    def __init__(self) -> None:
        self.inputs: list[list[float]] = []
        self.turns = threading.Semaphore(0)
        self.started = threading.Semaphore(0)

    def run(self, names: list[str], feed: dict[str, Any], options: Any) -> list[Any]:
        """Return `x + x`; fails on a 13."""
        self.inputs.append(feed["x"][:, 0].tolist())
        self.started.release()
        while not self.turns.acquire(timeout=0.01):
            if options.terminate:
                raise RuntimeError("terminated")
        if 13 in feed["x"]:
            raise RuntimeError("unlucky")
        return [feed["x"] * 2 for _ in names]


class Bench:
    """A scheduler of one slot, a model with a session of the above, and a clock-free way to drive them."""

    def __init__(self, model: Model, batching: str) -> None:
        self.session = Session()
        self._original = model
        self.model = self.another(batching)
        self.statistics = Statistics()
        self.scheduler = Scheduler(self.statistics, 1)
        self.callers = Callers(self.scheduler)

    def close(self) -> None:
        """Let all that waits run."""
        self.session.turns.release(100)
        self.callers.close()

    def another(self, batching: str) -> Model:
        """Return one more model on the same session."""
        config = model_config_pb2.ModelConfig()
        config.CopyFrom(self._original.config)
        text_format.Merge(batching, config)
        sessions: Any = {"1": self.session}
        return replace(self._original, config=config, sessions=sessions)

    def ask(
        self, *values: float, model: Model | None = None, options: Mapping[str, Any] | None = None, **parameters: int
    ) -> Asked:
        """Put a request with a batch of `values` into the queue."""
        return self.callers.ask(self.request(*values, model=model, **parameters), **options or {})

    def request(self, *values: float, model: Model | None = None, **parameters: int) -> Prepared:
        """Return a request with a batch of `values`."""
        x = np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)
        message = pb.ModelInferRequest()
        for name, value in parameters.items():
            message.parameters[name].uint64_param = value
        message.inputs.add(name="x", datatype="FP32", shape=x.shape)
        raw = (memoryview(x.tobytes()),)
        return prepare(model or self.model, "1", Framed(message, raw), Regions())

    def occupied(self) -> Asked:
        """Return a request that runs, so that whatever comes now has to wait."""
        first = self.ask(0)
        assert self.session.started.acquire(timeout=30)
        return first

    @property
    def numbers(self) -> Any:
        """What was counted."""
        return self.statistics.of("double", "1")


Drive = Callable[[str, Callable[[Bench], None]], Bench]


@pytest.fixture
def drive(repository: Repository) -> Drive:
    """Return a function that runs a scenario with a `dynamic_batching` and gives the bench for questions."""

    def drive(batching: str, scenario: Callable[[Bench], None]) -> Bench:
        bench = Bench(repository.models["double"], batching)
        try:
            scenario(bench)
        finally:
            bench.close()
        return bench

    return drive


def results(asked: Sequence[Asked]) -> list[bytes]:
    """Return the responses of all."""
    return [one.result() for one in asked]


def values(answer: bytes) -> list[float]:
    """Return the first column of a response."""
    raw = pb.ModelInferResponse.FromString(answer).raw_output_contents[0]
    column: list[float] = np.frombuffer(raw, np.float32).reshape(-1, 3)[:, 0].tolist()
    return column


def test_waiting_requests_are_merged_and_parted(drive: Drive) -> None:
    """Requests that wait run together up to the largest batch; each gets its own part."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        rest = [bench.ask(1, 2), bench.ask(3), bench.ask(4), bench.ask(5)]
        bench.session.turns.release(3)
        assert values(first.result()) == [0]
        assert [values(task.result()) for task in rest] == [[2, 4], [6], [8], [10]]

    bench = drive("dynamic_batching { }", scenario)
    assert bench.session.inputs == [[0], [1, 2, 3, 4], [5]]
    assert (bench.numbers.inferences, bench.numbers.executions, bench.numbers.success.count) == (6, 3, 5)
    assert {size: times.compute_infer.count for size, times in bench.numbers.batches.items()} == {1: 2, 4: 1}


def test_without_dynamic_batching_each_runs_apart(drive: Drive) -> None:
    """Nothing is merged where the configuration does not say so."""

    def scenario(bench: Bench) -> None:
        tasks = [bench.ask(1), bench.ask(2)]
        bench.session.turns.release(2)
        results(tasks)

    assert drive("", scenario).session.inputs == [[1], [2]]


def test_preferred_size_runs_at_once_and_others_wait(drive: Drive) -> None:
    """Two of a preferred size run before their delay is over; a third waits for it."""

    def scenario(bench: Bench) -> None:
        tasks = [bench.ask(1), bench.ask(2), bench.ask(3)]
        bench.session.turns.release(1)
        results(tasks[:2])
        assert bench.numbers.pending == 1
        assert not tasks[2].answer.done()
        tasks[2].give_up()

    batching = "dynamic_batching { preferred_batch_size: [2] max_queue_delay_microseconds: 600000000 }"
    assert drive(batching, scenario).session.inputs == [[1, 2]]


def test_delay_ends_the_waiting(drive: Drive) -> None:
    """A request that found no company runs alone after the delay."""

    def scenario(bench: Bench) -> None:
        bench.session.turns.release(1)
        assert values(bench.ask(7).result()) == [14]

    batching = "dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 1000 }"
    assert drive(batching, scenario).session.inputs == [[7]]


def test_urgent_request_overtakes_of_its_model_and_of_others(drive: Drive) -> None:
    """Level 1 runs before level 3 that came earlier, and before the requests of a model without levels."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        other = bench.another("")
        tasks = [
            first,
            bench.ask(1, model=other),
            bench.ask(2, priority=3),
            bench.ask(3),
            bench.ask(4, priority=1),
            bench.ask(5, priority=99),
        ]
        bench.session.turns.release(6)
        results(tasks)

    levels = "max_batch_size: 1 dynamic_batching { priority_levels: 3 default_priority_level: 2 }"
    assert drive(levels, scenario).session.inputs == [[0], [4], [3], [5], [2], [1]]


def test_cancelled_request_never_runs(drive: Drive) -> None:
    """A caller that goes while its request waits takes it along; one that runs is ended."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        second, third = bench.ask(1), bench.ask(2)
        assert bench.numbers.pending == 2
        second.give_up()
        first.give_up()  # the session is never told to go on: it ends because nobody wants its answer
        assert bench.session.started.acquire(timeout=30)
        bench.session.turns.release()
        assert values(third.result()) == [4]

    bench = drive("", scenario)
    assert bench.session.inputs == [[0], [2]]
    assert bench.numbers.failures == {Failure.CANCELED: 2}
    assert bench.numbers.pending == 0


def test_request_that_may_not_wait_is_left_to_another_thread(drive: Drive) -> None:
    """Where a run is in its way it leaves no trace in the queue or in the numbers."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        with pytest.raises(Later):
            bench.scheduler.infer_at_once(bench.request(1))
        bench.session.turns.release(3)
        first.result()
        with pytest.raises(Later):
            bench.scheduler.infer_at_once(bench.request(1), expires=time.monotonic())
        assert values(bench.scheduler.infer_at_once(bench.request(2))) == [4]
        with pytest.raises(ModelFailedError):
            bench.scheduler.infer_at_once(bench.request(13))
        bench.session.turns.release()
        assert values(bench.ask(3).result()) == [6]

    bench = drive("", scenario)
    assert bench.session.inputs == [[0], [2], [13], [3]]
    assert (bench.numbers.success.count, bench.numbers.executions, bench.numbers.pending) == (3, 3, 0)
    assert bench.numbers.failures == {Failure.BACKEND: 1}


def test_expired_request_never_runs(drive: Drive) -> None:
    """A deadline that passed in the queue is told, and the session is not touched."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        late = bench.ask(1, options={"expires": time.monotonic()})
        bench.session.turns.release()
        first.result()
        with pytest.raises(StoppedError):
            late.result()

    assert drive("", scenario).session.inputs == [[0]]


def test_failure_in_a_batch_stays_with_its_request(drive: Drive) -> None:
    """When a merged run fails its requests run apart: one is told, the others are answered."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        good, bad, fine = bench.ask(1), bench.ask(13), bench.ask(2)
        bench.session.turns.release(5)
        first.result()
        assert (values(good.result()), values(fine.result())) == ([2], [4])
        with pytest.raises(ModelFailedError):
            bad.result()

    bench = drive("dynamic_batching { }", scenario)
    assert bench.session.inputs == [[0], [1, 13, 2], [1], [13], [2]]
    assert bench.numbers.failures == {Failure.BACKEND: 1}


def test_queue_has_a_limit_by_level(drive: Drive) -> None:
    """A level's queue that is full refuses; another level's takes."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        waits, refused, urgent = bench.ask(1), bench.ask(2), bench.ask(3, priority=1)
        with pytest.raises(QueueFullError, match="1 requests wait, which is its max_queue_size"):
            refused.result()
        bench.session.turns.release(3)
        results([first, waits, urgent])

    bench = drive(
        "max_batch_size: 1 dynamic_batching { priority_levels: 2 default_priority_level: 2 "
        "priority_queue_policy { key: 2 value { max_queue_size: 1 } } }",
        scenario,
    )
    assert bench.numbers.failures == {Failure.REJECTED: 1}


def test_priority_does_not_go_around_the_limit(drive: Drive) -> None:
    """Where a model has no levels, its one queue has one limit, whatever priorities are asked for."""

    def scenario(bench: Bench) -> None:
        first = bench.occupied()
        waits, refused = bench.ask(1, priority=2), bench.ask(2, priority=1)
        with pytest.raises(QueueFullError, match="1 requests wait"):
            refused.result()
        bench.session.turns.release(2)
        results([first, waits])

    drive("max_batch_size: 1 dynamic_batching { default_queue_policy { max_queue_size: 1 } }", scenario)


@pytest.mark.parametrize("action", ["REJECT", "DELAY"])
def test_timeout_in_the_queue_rejects_or_delays(drive: Drive, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """A request that waited too long is refused, or put behind those that have not."""

    def scenario(bench: Bench) -> None:
        late_is_delayed = threading.Event()
        delay = Queue.delay
        monkeypatch.setattr(Queue, "delay", lambda *given: (delay(*given), late_is_delayed.set()))
        first = bench.occupied()
        late, patient = bench.ask(1, timeout=1), bench.ask(2)
        if action == "REJECT":
            with pytest.raises(TimedOutError):
                late.result()
        else:
            assert late_is_delayed.wait(30)
        bench.session.turns.release(3)
        results([first, patient, *([late] if action == "DELAY" else [])])

    policy = f"default_queue_policy {{ timeout_action: {action} allow_timeout_override: true }}"
    inputs = drive(f"max_batch_size: 1 dynamic_batching {{ {policy} }}", scenario).session.inputs
    assert inputs == ([[0], [2]] if action == "REJECT" else [[0], [2], [1]])


def test_memory_of_all_requests_is_limited(repository: Repository) -> None:
    """A request beyond what may be held together is refused; alone it may be as large as it is."""
    bench = Bench(repository.models["double"], "")
    bench.callers.scheduler = Scheduler(bench.statistics, 1, held=20)
    try:
        first = bench.occupied()
        with pytest.raises(QueueFullError, match="hold 12 bytes"):
            bench.ask(1).result()
        bench.session.turns.release(2)
        first.result()
        assert values(bench.ask(1, 2).result()) == [2, 4]
    finally:
        bench.close()

"""A queue's order, limits and batches, as the model's `dynamic_batching` configures them. No clock, no threads."""

from __future__ import annotations

import _thread
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnxruntime as ort
from opentelemetry.trace import Span

from auscult.inference.pb import model_config_pb2 as pb
from auscult.inference.preparing import Prepared
from auscult.inference.volumes import VolumeRun

UNASKED = 2**31
"""The level of a request that asks for no priority, of a model that has no levels: behind all that ask."""


class QueueFullError(Exception):
    """More requests wait than is allowed; the text says for what."""


class TimedOutError(Exception):
    """The request waited longer than the model's queue policy allows."""


@dataclass(slots=True, eq=False)
class Run:
    """A batch whose turn has come; the thread that waits for the first of its requests runs it."""

    batch: Sequence[Waiting]
    options: ort.RunOptions
    started: float


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue. Times are those of `time.monotonic`, in seconds."""

    request: Prepared
    level: int
    arrival: int
    """A number that grows from request to request."""
    since: float
    expires: float
    """When its caller's deadline passes."""
    parent: Span | None = None
    """The span that waits, if the request is traced."""
    delayed: bool = False
    """Timed out, and put behind all that have not."""
    volume: VolumeRun | None = field(default=None, repr=False)
    """What was done of a volume before it paused."""
    pausing: bool = False
    """Whether its volume is to pause after the patches that run, for something more urgent."""
    answer: bytes | BaseException | None = None
    run: Run | None = None
    """What it is part of, once its turn has come."""
    leads: Run | None = None
    """What its thread is to run."""
    asleep: _thread.LockType = field(default_factory=_thread.allocate_lock, repr=False)
    """Held while its thread has nothing to do."""

    def __post_init__(self) -> None:
        self.asleep.acquire()

    def wake(self) -> None:
        """Let its thread look again."""
        if self.asleep.locked():
            self.asleep.release()

    def settle(self, answer: bytes | BaseException) -> None:
        """Answer it, once."""
        if self.answer is None:
            self.answer = answer
            self.wake()

    @property
    def order(self) -> tuple[bool, int, int]:
        """What is least runs first."""
        return self.delayed, self.level, self.arrival


class Queue:
    """The requests that wait for one version of a model, first the one to run first.

    `slots`: runs that the server allows at once.
    """

    def __init__(self, config: pb.ModelConfig, slots: int) -> None:
        self._batching = config.dynamic_batching
        self._batches = config.HasField("dynamic_batching") and config.max_batch_size > 0
        self._largest = config.max_batch_size
        self._patience = self._batching.max_queue_delay_microseconds / 1e6 if self._batches else 0
        self._limits = self._batching.HasField("default_queue_policy") or bool(self._batching.priority_queue_policy)
        configured = sum(group.count or 1 for group in config.instance_group)
        self.instances = 1 if self._batching.preserve_ordering else configured or (1 if self._batches else slots)
        self.running = 0
        self.waiting: list[Waiting] = []

    def level(self, asked: int) -> int:
        """Return the level of a request that asks for priority `asked`; 0 or too many are the default's."""
        levels = self._batching.priority_levels
        if not levels:
            return asked or UNASKED
        return asked if 1 <= asked <= levels else self._batching.default_priority_level

    def timeout(self, level: int, asked: int) -> int:
        """Return after how many microseconds a request that asks for `asked` times out in the queue; 0: never."""
        if not self._limits:
            return 0
        policy = self._policy(level)
        allowed = policy.default_timeout_microseconds
        if policy.allow_timeout_override and asked and (not allowed or asked < allowed):
            return asked
        return int(allowed)

    @property
    def patience(self) -> float:
        """Seconds that a request waits for company in its batch."""
        return self._patience

    def delays(self, level: int) -> bool:
        """Whether a request that times out is put behind the others, rather than refused."""
        return self._policy(level).timeout_action == pb.ModelQueuePolicy.DELAY

    def admit(self, waiting: Waiting) -> None:
        """Put a request into the queue; QueueFullError where as many of its level wait as may."""
        limit = self._limits and self._policy(waiting.level).max_queue_size
        levels = self._batching.priority_levels  # without any, what is asked for makes no queue of its own
        if limit and sum(not levels or other.level == waiting.level for other in self.waiting) >= limit:
            name = waiting.request.model.name
            raise QueueFullError(f"model {name!r}: {limit} requests wait, which is its max_queue_size; try later")
        insort(self.waiting, waiting, key=lambda item: item.order)

    def resume(self, waiting: Waiting) -> None:
        """Put a volume that paused back to where it belongs; it had its turn, so no limit holds for it."""
        insort(self.waiting, waiting, key=lambda item: item.order)

    def delay(self, waiting: Waiting) -> None:
        """Put a request that timed out behind all that have not."""
        self.waiting.remove(waiting)
        waiting.delayed = True
        insort(self.waiting, waiting, key=lambda item: item.order)

    def batch(self, now: float) -> Sequence[Waiting]:
        """Return the requests to run now, if any. They stay in the queue."""
        head = self.waiting[0]
        if not self._batches or (len(self.waiting) == 1 and not self._patience):
            return [head]
        together, sizes = [], []
        size = 0
        for waiting in self._alike(head):
            if size + waiting.request.size > self._largest:
                break
            size += waiting.request.size
            together.append(waiting)
            sizes.append(size)
        for preferred in sorted(self._batching.preferred_batch_size, reverse=True):
            if preferred in sizes:
                return together[: sizes.index(preferred) + 1]
        # Another of the head's shape that no longer fits in says that waiting would not make the batch larger.
        full = size == self._largest or len(together) < sum(1 for _ in self._alike(head))
        until = min(waiting.since for waiting in together) + self._patience
        return together if full or until <= now else []

    def _alike(self, head: Waiting) -> Iterator[Waiting]:
        """Give the requests that can run together with the head, in order."""
        shapes = head.request.shapes
        for waiting in self.waiting:
            if waiting.request.shapes == shapes:
                yield waiting
            elif self._batching.preserve_ordering:
                return

    def _policy(self, level: int) -> pb.ModelQueuePolicy:
        policies: Mapping[int, pb.ModelQueuePolicy] = self._batching.priority_queue_policy
        return policies.get(level, self._batching.default_queue_policy)

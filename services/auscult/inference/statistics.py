"""What was counted about each version of each model: the numbers of ModelStatistics and of the metrics."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from auscult.inference.execution import Spent

_LONG_NS = 1_000_000
"""More counts as this in `recent_ns`: one run during which the machine was busy says little about the model."""


class Failure(StrEnum):
    """Why a request got no answer, as Triton's metrics tell it apart."""

    REJECTED = "REJECTED"
    """Not queued, or timed out in the queue."""
    CANCELED = "CANCELED"
    """The caller was gone, or its deadline had passed."""
    BACKEND = "BACKEND"
    """The model failed."""
    OTHER = "OTHER"
    """The request did not fit the model."""


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count it, with its time."""
        self.count += count
        self.ns += ns * count


@dataclass(slots=True)
class RunTimes:
    """The parts of runs."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def add(self, spent: Spent, count: int = 1) -> None:
        """Count a run, once for each of its `count` requests."""
        self.compute_input.add(spent.compute_input, count)
        self.compute_infer.add(spent.compute_infer, count)
        self.compute_output.add(spent.compute_output, count)


@dataclass(slots=True)
class VersionStatistics:
    """One version's numbers since the server started; reloading the model does not set them back."""

    last_inference_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    requests: RunTimes = field(default_factory=RunTimes)
    """Each run counts once for each request in it."""
    batches: defaultdict[int, RunTimes] = field(default_factory=lambda: defaultdict(RunTimes))
    """Each run counts once, by its size."""
    failures: Counter[Failure] = field(default_factory=Counter)
    pending: int = 0
    """Requests that wait now."""
    fallbacks: int = 0
    """Runs on the CPU because the GPU's memory did not suffice."""
    recent_ns: int = 0
    """How long the model itself ran of late: an average in which each run counts an eighth. 0: it never ran."""

    def ran(self, sizes: Sequence[int], queued_ns: Sequence[int], spent: Spent) -> None:
        """Count a run of requests with batches of `sizes` that waited `queued_ns`."""
        self.executions += 1
        self.fallbacks += spent.fell_back
        ns = min(spent.compute_infer, _LONG_NS)
        self.recent_ns = max(1, (7 * self.recent_ns + ns) // 8) if self.recent_ns else ns
        self.inferences += sum(sizes)
        self.last_inference_ms = spent.started // 1_000_000
        self.batches[sum(sizes)].add(spent)
        self.requests.add(spent, len(sizes))
        for ns in queued_ns:
            self.queue.add(ns)

    def failed(self, ns: int, reason: Failure) -> None:
        """Count a request that got no answer."""
        self.fail.add(ns)
        self.failures[reason] += 1


class Statistics:
    """All versions' numbers, by model and version; read from any thread, changed by whichever holds `changing`."""

    def __init__(self) -> None:
        self.changing = threading.Lock()
        self._versions: dict[tuple[str, str], VersionStatistics] = {}

    def of(self, model: str, version: str) -> VersionStatistics:
        """Return a version's numbers, from now on counted."""
        if (numbers := self._versions.get((model, version))) is None:
            numbers = self._versions[model, version] = VersionStatistics()
        return numbers

    def all(self) -> list[tuple[str, str, VersionStatistics]]:
        """Return every version's numbers, ordered by model and version."""
        return [(*key, numbers) for key, numbers in sorted(self._versions.copy().items())]

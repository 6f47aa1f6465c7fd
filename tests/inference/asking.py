"""Asking a scheduler from threads, as the server does, with each request in its queue before the next is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from auscult.inference.preparing import Prepared
from auscult.inference.scheduler import Scheduler


@dataclass
class Asked:
    """A request that was put into the queue, or refused."""

    answer: Future[bytes]
    calls: Sequence[Callable[[], None]]
    """What to call when its caller is gone."""

    def give_up(self) -> None:
        """Be gone."""
        for call in self.calls:
            call()

    def result(self) -> bytes:
        """Return the response, or raise what came of it."""
        return self.answer.result(30)


class Callers:
    """Threads that wait for a scheduler's answers."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._pool = ThreadPoolExecutor(16)

    def close(self) -> None:
        """Wait until all are answered."""
        self._pool.shutdown()

    def ask(self, request: Prepared, **options: Any) -> Asked:
        """Put a request into the queue."""
        queued = threading.Event()
        calls: list[Callable[[], None]] = []

        def on_gone(call: Callable[[], None]) -> bool:
            calls.append(call)
            queued.set()
            return True

        answer = self._pool.submit(self.scheduler.infer, request, on_gone=on_gone, **options)
        answer.add_done_callback(lambda _: queued.set())
        assert queued.wait(30)
        return Asked(answer, calls)

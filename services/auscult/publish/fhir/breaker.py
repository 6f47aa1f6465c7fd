"""A circuit breaker for one server: while it fails it is left alone, and who asks is told when to come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from auscult.platform.errors import Retry

FAILURES = 5
"""In a row, after which the server is left alone."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds that it is left alone: doubled after each probe that fails."""


class Breaker:
    """Closed: requests pass. Open: they are refused. After the pause one passes as a probe, the others wait for it.

    Threads may share it. `clock`: seconds that never go back.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self._probing = False

    def enter(self) -> None:
        """Pass, or Retry (`fhir-suspended`) with the seconds until the next probe."""
        with self._lock:
            left = self._until - self._clock()
            if left <= 0 and not (self._failures >= FAILURES and self._probing):
                self._probing = self._failures >= FAILURES
                return
            after = left if left > 0 else FIRST_PAUSE
        raise Retry(
            "fhir-suspended",
            f"{self._name} failed {FAILURES} times in a row or asked us to wait; it is asked again in {after:.0f} s",
            after=after,
        )

    def succeeded(self) -> None:
        """Close: the server answered, be it with a refusal."""
        with self._lock:
            self._failures, self._pause, self._until, self._probing = 0, FIRST_PAUSE, 0.0, False

    def failed(self, after: float | None = None) -> None:
        """Count a failure; `after`: seconds for which the server itself asked not to be asked."""
        with self._lock:
            self._failures += 1
            self._probing = False
            if self._failures >= FAILURES:
                self._until = self._clock() + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            if after:
                self._until = max(self._until, self._clock() + after)

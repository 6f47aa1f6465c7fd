"""Each token is good for one call, on whichever replica it arrives.

A claim is published before its call is answered, and stands when it comes back on the topic: one partition
has one order, in which the first claim of a token wins everywhere. Claims that wait are published together, so
a busy replica writes no more often than the bus takes. While the bus cannot be reached a token is still refused
for the second time by the replica that saw it, and by the others once it is back: hooks answer, and the
difference is logged (see docs/security.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import queue
import threading
import time
import uuid
from dataclasses import dataclass

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.events import TOKENS_USED, TokensUsed
from auscult.bus.topics import TOKENS
from auscult.platform.errors import AuscultError

PATIENCE = 0.15
"""Seconds a call waits for its claim to come back."""
POLL = 0.2
PAUSE = 0.5
KEPT = 60.0
"""Seconds a token is remembered beyond its end, for clocks that differ."""
MOST = 500
"""Claims in one event."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[bool]

    def tell(self, first: bool) -> None:  # noqa: FBT001 - the answer itself
        self.loop.call_soon_threadsafe(self._settle, first)

    def _settle(self, first: bool) -> None:  # noqa: FBT001
        if not self.answer.done():
            self.answer.set_result(first)


class ReplayGuard:
    """Remembers used tokens until they expire, together with all other replicas."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._replica = uuid.uuid4().hex
        self._mine: dict[str, float] = {}
        """Tokens seen here, with their end; the event loop's."""
        self._taken: dict[str, float] = {}
        """Tokens on the topic, with their end; the follower's."""
        self._waiting: dict[str, _Waiting] = {}
        self._claims: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._pruned = self._cleared = time.time()
        self._threads = [
            threading.Thread(target=self._publish, name="token-claims", daemon=True),
            threading.Thread(target=self._follow, name="token-follower", daemon=True),
        ]

    @property
    def ready(self) -> bool:
        """Whether all tokens that were used before this replica started are known."""
        return self._ready.is_set()

    def start(self) -> None:
        """Begin to follow the other replicas."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads."""
        self._stop.set()
        self._claims.put(None)
        for thread in self._threads:
            thread.join()

    async def first(self, jti: str, expires: float) -> bool:
        """Return whether this is the first use of the token `jti`, which is good until `expires` (epoch seconds)."""
        key = hashlib.sha256(jti.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        if key in self._mine:
            return False
        self._mine[key] = expires
        self._prune()
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting[key] = _Waiting(loop, answer)
        self._claims.put((key, expires))
        try:
            async with asyncio.timeout(PATIENCE):
                return bool(await answer)
        except TimeoutError:
            _log.warning("a token was checked by this replica alone: the bus did not answer in time")
            return True
        finally:
            self._waiting.pop(key, None)

    def _prune(self) -> None:
        now = time.time()
        if now - self._pruned > KEPT:
            self._pruned = now
            self._mine = {key: end for key, end in self._mine.items() if end > now - KEPT}

    def _publish(self) -> None:
        while True:
            batch = self._batch()
            if batch is None:
                return
            event = CloudEvent.of(TOKENS_USED, "/auscult/cds-hooks", TokensUsed(self._replica, batch))
            while not self._stop.is_set():
                try:
                    self._bus.publish(TOKENS, event, key="tokens")
                    break
                except AuscultError as problem:
                    _log.warning("used tokens could not be told to the other replicas (%s)", problem.reason)
                    self._stop.wait(PAUSE)

    def _batch(self) -> dict[str, float] | None:
        """Wait for a claim, and take what came with it; None at the end."""
        batch: dict[str, float] = {}
        claim = self._claims.get()
        while claim is not None:
            batch[claim[0]] = claim[1]
            if len(batch) == MOST or self._claims.empty():
                return batch
            claim = self._claims.get()
        return None

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                with self._bus.tail(TOKENS) as tail:
                    while not self._stop.is_set():
                        if tail.caught_up:
                            self._ready.set()
                        if delivery := tail.poll(POLL):
                            self._take(delivery.event.payload(TokensUsed))
            except AuscultError as problem:
                _log.warning("used tokens of other replicas are read again in %.1f s (%s)", PAUSE, problem.reason)
            self._stop.wait(PAUSE)

    def _take(self, used: TokensUsed) -> None:
        now = time.time()
        for key, end in used.tokens.items():
            first = key not in self._taken
            if first and end > now - KEPT:
                self._taken[key] = end
            if used.replica == self._replica and (waiting := self._waiting.get(key)):
                waiting.tell(first)
        if now - self._cleared > KEPT:
            self._cleared = now
            self._taken = {key: end for key, end in self._taken.items() if end > now - KEPT}

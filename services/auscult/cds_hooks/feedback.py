"""Feedback on cards, to the bus: what was accepted or overridden, and on which models' words.

No patient, no user and no free text goes there. The same outcome has the same key however often it is sent, so that
it counts once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Sequence

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.events import FEEDBACK as EVENT
from auscult.bus.events import CardFeedback
from auscult.bus.topics import FEEDBACK
from auscult.cds_hooks.request import Feedback
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust.gate import Caller
from auscult.platform.errors import AuscultError, Refused

PATIENCE = 0.3
"""Seconds an EHR waits until its feedback is on the bus; then it is told that it was taken."""
PAUSE = 0.5
MOST_WAITING = 10_000
"""Outcomes that wait for a bus that is away; above, the EHR is asked to come again."""
LAST_SECONDS = 5.0
"""At the end of the process, from which on nothing is tried again: what then waits is given up, visibly."""
OTHER = "other"
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,63}")
"""What is kept of a reason: a code. Anything else could be a sentence."""
_log = logging.getLogger(__name__)


class FeedbackDesk:
    """Takes outcomes from event loops; a thread brings them to the bus."""

    def __init__(self, bus: Bus, store: CardStore) -> None:
        self._bus = bus
        self._store = store
        self._waiting: queue.Queue[tuple[CardFeedback, asyncio.Event, asyncio.AbstractEventLoop] | None]
        self._waiting = queue.Queue(MOST_WAITING)
        self._stop = threading.Event()
        self._last = math.inf
        """When nothing is tried again (monotonic seconds)."""
        self._thread = threading.Thread(target=self._publish, name="feedback", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def close(self) -> None:
        """Publish what waits, and end."""
        self._last = time.monotonic() + LAST_SECONDS
        self._stop.set()
        self._waiting.put(None)
        self._thread.join()

    async def take(self, caller: Caller, items: Sequence[Feedback]) -> None:
        """Return when `items` are on the bus, or wait for it; Refused (429) where too many do."""
        loop = asyncio.get_running_loop()
        done = [asyncio.Event() for _ in items]
        try:
            for item, each in zip(items, done, strict=True):
                self._waiting.put_nowait((self._told(caller, item), each, loop))
        except queue.Full:
            raise Refused(
                "feedback-waits", "feedback cannot be kept at this moment; send it again", status=429
            ) from None
        try:
            async with asyncio.timeout(PATIENCE):
                for each in done:
                    await each.wait()
        except TimeoutError:
            _log.warning("feedback waits for the bus")

    def _told(self, caller: Caller, item: Feedback) -> CardFeedback:
        known = self._store.basis(item.card)
        # Of another tenant's card a client learns and says nothing.
        basis = known[1] if known and known[0] == caller.tenant else None
        return CardFeedback(
            tenant=caller.tenant,
            client=caller.name,
            card=item.card if _CODE.fullmatch(item.card) else OTHER,
            outcome=item.outcome,
            at=item.at.isoformat(),
            reason=_reason(item),
            suggestions=tuple(each.id for each in item.accepted_suggestions or () if _CODE.fullmatch(each.id)),
            pathway=basis.pathway if basis else "",
            models=tuple(f"{name} {version}" for name, version in basis.models) if basis else (),
            sex=basis.sex if basis else "",
            age_band=basis.age_band if basis else "",
        )

    def _publish(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            told, done, loop = waiting
            event = CloudEvent.of(EVENT, "/auscult/cds-hooks", told)
            while time.monotonic() < self._last:
                try:
                    self._bus.publish(FEEDBACK, event, key=_key(told))
                    break
                except AuscultError as problem:
                    _log.warning("feedback waits for the bus (%s)", problem.reason)
                    time.sleep(PAUSE)
            else:
                _log.error("feedback of one card is lost: the bus is away and the process ends")
                continue
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)


def _reason(item: Feedback) -> str:
    _, code = item.reason
    return code if not code or _CODE.fullmatch(code) else OTHER


def _key(told: CardFeedback) -> str:
    said = "|".join((told.tenant, told.card, told.outcome, told.at, told.reason, *told.suggestions))
    return hashlib.sha256(said.encode()).hexdigest()[:32]

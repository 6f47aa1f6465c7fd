"""Reads what changed by asking the FHIR server: `_lastUpdated`, `_history`, or a subscription's `$events`.

For servers without subscriptions, for notifications that say nothing, for gaps in their numbers, and for operators.
What is to be asked is an event: one replica asks, again after a failure, and it is parked where it is hopeless.
Each search has a durable mark in the server's own time. Searches overlap, because a server may show a resource after
a younger one, and give several one instant; what was told in the overlap is remembered and not told again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.events import FetchWanted, MarkSet
from auscult.bus.topics import FETCHES
from auscult.listen.marks import Marks, instant
from auscult.listen.notifications import Change, Own, notification
from auscult.listen.record import Record, Watch, announce, event_id
from auscult.platform.errors import DeadLetter, Refused, Retry
from auscult.platform.settings import Settings

GROUP = "fhir-poll"
PAGE = 200
"""Resources in a page."""
MOST_AT_ONCE = 50 * PAGE
"""Resources after which the mark is moved, so that a long way is not gone twice."""
MOST_SEEN = 20_000
"""Events that are remembered; beyond, the oldest may be told twice."""

_log = logging.getLogger(__name__)


def want(bus: Bus, tenant: str, watch: Watch, *, since: str = "", subscription: str = "", first: int = 0) -> None:
    """Ask for a fetch, durably. Asking again for the same, before it was done, is one fetch. Raises Retry."""
    wanted = FetchWanted(tenant, watch.criteria, since, subscription, first, watch.topic)
    event = CloudEvent.of(events.FETCH_WANTED, f"/{tenant}/listen/fhir-poll", wanted)
    bus.publish(FETCHES, event, key=f"{tenant}|{watch.name}|{since}|{first or ''}")


class Poller:
    """Handles fetches. `own`: which references are the server's."""

    def __init__(self, settings: Settings, bus: Bus, record: Record, marks: Marks, own: Own) -> None:
        self._tenant = settings.tenant
        self._overlap = timedelta(seconds=settings.fhir_poll_overlap)
        self._history = settings.fhir_poll_history
        self._bus = bus
        self._record = record
        self._marks = marks
        self._own = own

    def begin(self, watch: Watch) -> None:
        """Set the first mark of a search at what the server holds now. Raises Retry where it cannot say."""
        if self._marks.get(_mark(watch)) is not None:
            return
        found = [
            _updated(resource)
            for entries in self._record.entries(f"{_joined(watch.criteria)}_sort=-_lastUpdated&_count=1")
            for resource in _resources(entries, watch.kind)
        ][:1]
        self._marks.set(_mark(watch), MarkSet(high=found[0] if found else ""))

    def handle(self, delivery: Delivery) -> None:
        """Tell what a fetch finds; another tenant's is left to its own. Raises Retry and DeadLetter."""
        wanted = delivery.event.payload(FetchWanted)
        if wanted.tenant != self._tenant:
            return
        watch = Watch(wanted.criteria, wanted.topic)
        if wanted.subscription and self._missed_events(wanted):
            return
        if wanted.since:
            since, seen, more = self._tell(watch, wanted.since, frozenset())
            while more:
                since, seen, more = self._tell(watch, since, frozenset(seen))
            return
        mark = self._marks.get(_mark(watch)) or MarkSet()
        if mark.asked and instant(delivery.event.time) < instant(mark.asked):
            return  # A search that began after this was wanted has found what it would find.
        while True:
            asked = datetime.now(UTC).isoformat()
            high, seen, more = self._tell(watch, mark.high, frozenset(mark.seen))
            mark = MarkSet(high, 0, tuple(seen[-MOST_SEEN:]), asked)
            self._marks.set(_mark(watch), mark)
            if not more:
                return

    def _tell(self, watch: Watch, since: str, seen: frozenset[str]) -> tuple[str, list[str], bool]:
        """Announce what changed since an instant; return the new mark, and whether there is more behind it."""
        start = instant(since) - self._overlap if since else None
        found: list[tuple[datetime, str, str]] = []
        ascending = True
        for change, updated in self._changes(watch, start):
            identity = event_id(self._tenant, change, updated)
            if identity not in seen:
                announce(self._bus, self._tenant, "fhir-poll", change, updated)
            ascending = ascending and (not found or found[-1][0] <= instant(updated))
            found.append((instant(updated), updated, identity))
            if len(found) >= MOST_AT_ONCE and ascending and found[-1][0] - self._overlap > found[0][0]:
                return self._marked(found, since, seen, more=True)
        return self._marked(found, since, seen, more=False)

    def _marked(
        self, found: list[tuple[datetime, str, str]], since: str, seen: frozenset[str], *, more: bool
    ) -> tuple[str, list[str], bool]:
        if not found:
            return since, sorted(seen), more
        newest, high, _ = max(found)
        # What was seen before and is not found again has left the overlap, or the record.
        return high, [identity for when, _, identity in sorted(found) if when >= newest - self._overlap], more

    def _changes(self, watch: Watch, start: datetime | None) -> Iterator[tuple[Change, str]]:
        """Yield what a search or a history finds, with the server's instant of each change."""
        since = start.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if start else ""
        if self._history and "?" not in watch.criteria:
            place = f"{watch.kind}/_history?_count={PAGE}" + (f"&_since={since}" if since else "")
            yield from self._history_of(place)
            return
        place = f"{_joined(watch.criteria)}_sort=_lastUpdated&_count={PAGE}" + (
            f"&_lastUpdated=ge{since}" if since else ""
        )
        for entries in self._record.entries(place):
            for resource in _resources(entries, watch.kind):
                yield from self._change(resource)

    def _history_of(self, place: str) -> Iterator[tuple[Change, str]]:
        """Yield each resource's newest version: the histories of servers begin with the newest."""
        newest: dict[str, tuple[Change, str]] = {}
        for entries in self._record.entries(place):
            for entry in entries:
                request, resource = entry.get("request"), entry.get("resource")
                if isinstance(resource, dict):
                    for change, updated in self._change(resource):
                        newest.setdefault(change.reference, (change, updated))
                elif isinstance(request, dict) and request.get("method") == "DELETE":
                    response = entry.get("response")
                    told = str(response.get("lastModified", "")) if isinstance(response, dict) else ""
                    try:
                        reference, version = self._own.place(request.get("url"))
                    except Refused as problem:
                        _log.warning("a deletion in the history is passed over: %s", problem)
                        continue
                    newest.setdefault(reference, (Change(reference, version, deleted=True), told))
        yield from sorted(newest.values(), key=lambda one: instant(one[1]))

    def _change(self, resource: dict[str, Any]) -> Iterator[tuple[Change, str]]:
        try:
            change = self._own.change(resource)
        except Refused as problem:
            _log.warning("a resource that the FHIR server found is passed over: %s", problem)
            return
        yield change, _updated(resource)

    def _missed_events(self, wanted: FetchWanted) -> bool:
        """Ask for a subscription's missed events; False where the server does not have them any more, or at all."""
        place = f"Subscription/{wanted.subscription}/$events?eventsSinceNumber={wanted.first}&content=id-only"
        numbers: set[int] = set()
        try:
            for entries in self._record.entries(place):
                told = notification({"resourceType": "Bundle", "type": "history", "entry": entries}, self._own)
                numbers.update(told.numbers)
                for change in told.changes:
                    token = f"{wanted.subscription}|{change.number}"
                    announce(self._bus, self._tenant, "fhir-poll", change, token)
        except (DeadLetter, Refused) as problem:
            _log.info("missed events of a subscription cannot be had, the search looks for them: %s", problem)
            return False
        return wanted.first in numbers

    def tick(self, every: dict[Watch, float], stop: threading.Event) -> None:
        """Ask for each watch's search, now and then at its interval in seconds, until `stop` is set."""
        due = dict.fromkeys(every, 0.0)
        now = 0.0
        while every:
            for watch in [one for one, when in due.items() if when <= now]:
                try:
                    self.begin(watch)
                    want(self._bus, self._tenant, watch)
                except (Retry, DeadLetter) as problem:
                    _log.warning("a search cannot be asked for, it is tried again: %s", problem)
                due[watch] = now + every[watch]
            pause = min(due.values()) - now
            if stop.wait(pause):
                return
            now += pause


def _mark(watch: Watch) -> str:
    return f"search|{Watch(watch.criteria).name}"


def _updated(resource: dict[str, Any]) -> str:
    meta = resource.get("meta")
    return str(meta.get("lastUpdated", "")) if isinstance(meta, dict) else ""


def _joined(criteria: str) -> str:
    """Return the search as the beginning of a URL; HAPI insists on `%7C` for `|`."""
    kind, _, parameters = criteria.partition("?")
    return f"{kind}?{quote(parameters, safe='%=&,:+$*')}&" if parameters else f"{kind}?"


def _resources(entries: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """Yield the matches of a search, without what the server added."""
    for entry in entries:
        resource, search = entry.get("resource"), entry.get("search")
        added = isinstance(search, dict) and search.get("mode", "match") != "match"
        if isinstance(resource, dict) and resource.get("resourceType") == kind and not added:
            yield resource

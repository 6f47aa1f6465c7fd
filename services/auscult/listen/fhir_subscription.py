"""The endpoint that FHIR servers notify: R4 rest-hooks and topic-based subscriptions (Backport IG).

A rest-hook with a payload type is a PUT to `/<name>/<Type>/<id>` (DELETE where a resource was deleted), one without
is an empty POST; topic-based notifications are POSTs of a Bundle. Each is answered when what it says is on the bus,
durably: a sender that is not answered with 200 tells it again, and what is told twice has the same event's id.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auscult.bus.contract import Bus
from auscult.bus.events import MarkSet
from auscult.listen.fhir_poll import want
from auscult.listen.marks import Marks
from auscult.listen.notifications import Change, Notification, Own, decoded, missed, notification
from auscult.listen.record import Watch, announce
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, Refused, RefuseToStart, Retry

PATH = "/fhir-notifications"
LARGEST = 8 * 2**20
"""Bytes of a body: a notification with a page of whole resources, and no more."""
LATER = 5
"""Seconds after which a sender may try again while the bus is away."""

_log = logging.getLogger(__name__)


class Secrets:
    """The secrets that senders may show, one a line in a file, read when it changes; the first is registered."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = 0.0
        self._digests: tuple[bytes, ...] = ()
        self.first = ""
        self.refresh()

    def refresh(self) -> None:
        """Read the file where it changed; RefuseToStart where it holds no secret of 16 characters or more."""
        try:
            changed = self._file.stat().st_mtime
            if changed == self._read_at:
                return
            lines = [line.strip() for line in self._file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            lines = []
        if not lines or any(len(line) < 16 or not line.isascii() for line in lines):
            raise RefuseToStart(
                "notify-secret-invalid",
                "AUSCULT_FHIR_NOTIFY_SECRET_FILE needs one or more lines of at least 16 ASCII characters",
            )
        self.first, self._read_at = lines[0], changed
        self._digests = tuple(_digest(f"Bearer {line}") for line in lines)

    def knows(self, header: str) -> bool:
        """Whether an Authorization header shows one of them; takes as long for each wrong one."""
        shown = _digest(header)
        return True in [hmac.compare_digest(shown, known) for known in self._digests]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


@dataclass
class Desk:
    """What the endpoint works with."""

    tenant: str
    bus: Bus
    marks: Marks
    own: Own
    watches: dict[str, Watch]
    secrets: Secrets
    _numbers: dict[str, int] = field(default_factory=dict)
    """Highest event number by watch: of those that were told here since the start, or anywhere before it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _kept: dict[str, int] = field(default_factory=dict)

    def take(self, changes: Sequence[Change], token: str) -> None:
        """Announce each change. Raises Retry."""
        for change in changes:
            announce(self.bus, self.tenant, "fhir-subscription", change, f"{token}|{change.number}")

    def note(self, watch: Watch, told: Notification) -> None:
        """Announce what a topic-based subscription told, and ask for what it did not tell before. Raises Retry."""
        self.take(told.changes, told.subscription)
        last = self._last(watch)
        gap = missed(last, told.numbers, told.so_far)
        if gap is not None:
            _log.warning("subscription %s: event %d and perhaps others never came; they are fetched", watch.name, gap)
            want(self.bus, self.tenant, watch, subscription=told.subscription, first=gap)
        elif len(told.changes) < len(told.numbers):
            want(self.bus, self.tenant, watch)  # An empty payload: the search says what it was.
        if told.status in {"error", "off"}:
            _log.warning("subscription %s: the server says that it is in %s; it is repaired", watch.name, told.status)
        with self._lock:
            highest = max([last or 0, told.so_far or 0, *told.numbers])
            self._numbers[watch.name] = max(highest, self._numbers.get(watch.name, 0))

    def _last(self, watch: Watch) -> int | None:
        with self._lock:
            if watch.name in self._numbers:
                return self._numbers[watch.name]
        mark = self.marks.get(f"subscription|{watch.name}")
        return mark.number if mark else None

    def keep(self) -> None:
        """Make the numbers durable that changed since the last call. Raises Retry."""
        with self._lock:
            changed = {name: number for name, number in self._numbers.items() if self._kept.get(name) != number}
        for name, number in changed.items():
            self.marks.set(f"subscription|{name}", MarkSet(number=number))
            self._kept[name] = number

    def keep_until(self, stop: threading.Event) -> None:
        """Make the numbers durable each second, and a last time when `stop` is set."""
        with suppress(Retry):  # Now, so that no notification waits for the marks to be read.
            for watch in self.watches.values():
                self._last(watch)
        while True:
            ended = stop.wait(1)
            try:
                self.secrets.refresh()
                self.keep()
            except AuscultError as problem:
                _log.warning("the endpoint's state is not kept: %s", problem)
            if ended:
                return


def create_app(desk: Desk, *more: Route) -> Starlette:
    """Return the endpoint. `more`: what is served beside it."""

    def route(path: str, handler: Callable[[Desk, Request, Watch], object], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            with telemetry.span(
                f"FHIR notification {method}", parent=request.headers.get("traceparent"), kind=SpanKind.SERVER
            ):
                watch = _admitted(desk, request)
                body = await _body(request)
                request.state.body = body
                await run_in_threadpool(handler, desk, request, watch)
                return Response(status_code=200)

        return Route(path, endpoint, methods=[method])

    return Starlette(
        routes=[
            route(f"{PATH}/{{name}}", _told, "POST"),
            route(f"{PATH}/{{name}}/{{type}}/{{id}}", _resource, "PUT"),
            route(f"{PATH}/{{name}}/{{type}}/{{id}}", _deleted, "DELETE"),
            *more,
        ],
        exception_handlers={Refused: _refused, Retry: _later, HTTPException: _http_error, 500: _failed},
    )


def _admitted(desk: Desk, request: Request) -> Watch:
    """Return the watch that is told about; Refused (401, 404)."""
    if not desk.secrets.knows(request.headers.get("authorization", "")):
        raise Refused("sender-unknown", "show the secret that the subscription was registered with", status=401)
    watch = desk.watches.get(request.path_params["name"])
    if watch is None:
        raise Refused("subscription-unknown", "no such subscription is configured here", status=404)
    return watch


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise Refused("body-too-long", f"a notification has at most {LARGEST} bytes", status=413)
    return bytes(body)


def _told(desk: Desk, request: Request, watch: Watch) -> None:
    body: bytes = request.state.body
    if not body.strip():
        want(desk.bus, desk.tenant, watch)
        return
    resource = decoded(body)
    if resource.get("resourceType") == "Bundle":
        desk.note(watch, notification(resource, desk.own))
    else:
        desk.take([desk.own.change(resource)], _token(body))


def _resource(desk: Desk, request: Request, _: Watch) -> None:
    body: bytes = request.state.body
    place = desk.own.place("{type}/{id}".format_map(request.path_params))[0]
    if not body.strip():
        desk.take([Change(place)], str(time.time_ns()))
        return
    change = desk.own.change(decoded(body))
    if change.reference != place:
        raise Refused("fhir-malformed", "the resource is not the one that the URL names", status=400)
    desk.take([change], _token(body))


def _deleted(desk: Desk, request: Request, _: Watch) -> None:
    place = desk.own.place("{type}/{id}".format_map(request.path_params))[0]
    desk.take([Change(place, deleted=True)], "deleted")


def _token(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _outcome(status: int, text: str) -> Response:
    issue = {"severity": "error", "code": "invalid" if status < 500 else "transient", "diagnostics": text}
    content = msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]})
    headers = (
        {"retry-after": str(LATER)} if status == 503 else {"www-authenticate": "Bearer"} if status == 401 else {}
    )
    return Response(content, status, headers, "application/fhir+json")


def _refused(_: Request, problem: Exception) -> Response:
    _log.warning("a notification was refused: %s", problem)
    return _outcome(cast("Refused", problem).status, str(problem))


def _later(_: Request, problem: Exception) -> Response:
    _log.warning("a notification could not be kept, its sender is told to send it again: %s", problem)
    return _outcome(503, "the notification could not be kept; send it again")


def _http_error(_: Request, problem: Exception) -> Response:
    error = cast("HTTPException", problem)
    return _outcome(error.status_code, error.detail)


def _failed(_: Request, __: Exception) -> Response:
    return _outcome(500, "the notification failed; the service's log says more")

"""The endpoints of CDS Hooks 2.0.1 as an ASGI application: discovery, services, feedback."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import msgspec
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from auscult.cds_hooks import vendors
from auscult.cds_hooks.answering import answer, answer_at_once, deadline
from auscult.cds_hooks.feedback import FeedbackDesk
from auscult.cds_hooks.prefetch import Prefetch
from auscult.cds_hooks.replies import Header, Reply, outcome
from auscult.cds_hooks.request import read_feedback, read_hook
from auscult.cds_hooks.services import Answer, Call, Registry, Service
from auscult.cds_hooks.trust.gate import Caller, Gate, TooMany
from auscult.cds_hooks.trust.tokens import Unauthorised
from auscult.platform import telemetry
from auscult.platform.errors import Refused

ROOT = "cds-services"
BODY_SECONDS = 5.0
"""Within which a request has to be here: a connection that says nothing is not kept for ever."""
BODY_LIMIT = 2 * 2**20
"""Bytes. Orders and prefetched searches of a large record stay below it."""
_SLOW = frozenset({b"traceparent", b"origin"})
"""Headers of what is answered as part of a trace, or to a browser."""
_KINDS = frozenset({"application/json", "application/fhir+json"})
_log = logging.getLogger(__name__)

Headers = Mapping[bytes, bytes]


class DisconnectedError(Exception):
    """The client went away before it had sent its request."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Answers everything below `/cds-services`."""

    registry: Registry
    gate: Gate
    feedback: FeedbackDesk | None
    http: httpx.AsyncClient
    in_card: bool = True
    """Whether a card says what is missing, else an OperationOutcome."""
    immediate: Mapping[bytes, Service] = field(init=False)
    """What `at_once` may answer, by path: nothing where a call has to show who it comes from."""

    def __post_init__(self) -> None:
        found = {f"/{ROOT}/{one.id}".encode(): one for one in self.registry.all if one.immediate and self.gate.anyone}
        object.__setattr__(self, "immediate", found)

    def at_once(self, path: bytes, headers: Sequence[Header], body: bytes) -> Reply | None:
        """Answer a call of a service that needs nothing but memory; None where it takes more: ask `__call__`."""
        service, caller, named = self.immediate.get(path), self.gate.anyone, dict(headers)
        if service is None or caller is None or not _SLOW.isdisjoint(named):
            return None
        try:
            _check_kind(named)
            call = self._call(service, caller, body, time.time())
            return _reply(answer_at_once(service, call, in_card=self.in_card), call)
        except Exception as problem:  # noqa: BLE001 - an EHR gets an answer whatever happens
            return self._problem(problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what goes wrong is answered, too."""
        try:
            reply = await self._answer(scope, receive)
        except DisconnectedError:
            return
        except Exception as problem:  # noqa: BLE001 - an EHR gets an answer whatever happens
            reply = self._problem(problem)
        await reply.send(send, head=scope["method"] == "HEAD")

    def _problem(self, problem: Exception) -> Reply:
        """Return what is answered where there is no answer."""
        match problem:
            case Unauthorised():
                # Why is counted here and told to nobody who has no token.
                self.gate.refused[problem.reason] += 1
                _log.info("a call was not let in (%s)", problem.reason)
                return Reply(status=401, headers=((b"www-authenticate", b"Bearer"),))
            case TooMany():
                wait = str(math.ceil(problem.after)).encode()
                return outcome(problem.status, str(problem), (b"retry-after", wait))
            case Refused():
                return outcome(problem.status, str(problem))
        # Without its text, which may quote the request.
        _log.error("a request failed (%s)", type(problem).__name__)
        return outcome(500, "the service failed; its log says more")

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        started = time.time()
        method = scope["method"]
        match [part for part in scope["path"].split("/") if part]:
            case [_]:
                allowed = b"GET, HEAD, OPTIONS"
                if method in {"GET", "HEAD"}:
                    return Reply(self.registry.discovery)
            case [_, name] | [_, name, "feedback"]:
                allowed = b"POST, OPTIONS"
                if method == "POST":
                    return await self._called(scope, receive, name, started)
            case _:
                raise Refused("path-unknown", "there is nothing here; see GET /cds-services", status=404)
        if method == "OPTIONS":
            return Reply(status=204, headers=((b"allow", allowed),))
        return outcome(405, f"send one of {allowed.decode()}", (b"allow", allowed))

    async def _called(self, scope: Scope, receive: Receive, name: str, started: float) -> Reply:
        """Answer a POST, as part of the caller's trace where there is one: most calls are not worth a trace."""
        answering = self._feedback if scope["path"].rstrip("/").endswith("/feedback") else self._hook
        headers: Headers = dict(scope["headers"])
        parent = headers.get(b"traceparent")
        if parent is None:
            return await answering(scope, receive, headers, name, started)
        title = answering.__name__.strip("_")
        with telemetry.span(title, parent=parent.decode("latin-1"), kind=SpanKind.SERVER):
            return await answering(scope, receive, headers, name, started)

    async def _admit(self, scope: Scope, name: str) -> tuple[Service, Caller]:
        """Return the service that is called and who calls it."""
        caller = self.gate.anyone or await self.gate.admit(Request(scope), name)
        service = self.registry.get(name)
        if service is None:
            raise Refused("service-unknown", "there is no such service here; see GET /cds-services", status=404)
        return service, caller

    async def _hook(self, scope: Scope, receive: Receive, headers: Headers, name: str, started: float) -> Reply:
        """Answer with cards. Nothing found is an empty list; what cannot be said is a card that says so."""
        service, caller = await self._admit(scope, name)
        call = self._call(service, caller, await _body(receive, headers), started)
        answered = await answer(service, call, in_card=self.in_card)
        if (span := trace.get_current_span()).is_recording():
            span.update_name(f"hook {call.hook}")
            span.set_attribute("cards", len(answered.cards))
        return _reply(answered, call)

    def _call(self, service: Service, caller: Caller, body: bytes, started: float) -> Call:
        """Read a call; Refused (400) where it is none, Unauthorised where it names another's FHIR server."""
        called = read_hook(body, service.hooks)
        base = caller.fhir_server(called.fhir_server)
        return Call(
            called.hook,
            called.patient,
            called.context,
            Prefetch(
                service.prefetch,
                called.prefetch or {},
                called.context,
                base,
                called.fhir_authorization,
                self.http,
            ),
            caller,
            deadline(service, started),
            called.extension if isinstance(called.extension, dict) else {},
        )

    async def _feedback(self, scope: Scope, receive: Receive, headers: Headers, name: str, _started: float) -> Reply:
        """Take outcomes. Comments go nowhere: they may say anything about a patient."""
        _, caller = await self._admit(scope, name)
        items = read_feedback(await _body(receive, headers))
        if self.feedback:
            await self.feedback.take(caller, items)
        outcomes = Counter(item.outcome for item in items)
        _log.info("feedback: %d accepted, %d overridden", outcomes["accepted"], outcomes["overridden"])
        return Reply()


def _reply(answered: Answer, call: Call) -> Reply:
    """Return an answer as it is sent to its caller's EHR."""
    answered = vendors.adapt(answered, call.caller)
    body = b'{"cards":[' + b",".join(answered.cards) + b"]"
    if answered.system_actions:
        body += b',"systemActions":' + msgspec.json.encode(answered.system_actions)
    return Reply(body + b"}")


def _check_kind(headers: Headers) -> None:
    """Refused (415) where a body is none that we read."""
    kind, _, parameters = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(' "')
    if kind.strip() not in _KINDS or charset not in {"", "utf-8", "utf8", "us-ascii"}:
        raise Refused("content-type-unexpected", "send JSON in UTF-8 as content-type: application/json", status=415)


async def _body(receive: Receive, headers: Headers) -> bytes:
    """Return the body of a POST; Refused (408, 413, 415) where it is none that we read."""
    _check_kind(headers)
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > BODY_LIMIT:
        raise _too_long()
    body, more, end = bytearray(), True, asyncio.get_running_loop().time() + BODY_SECONDS
    while more:
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise Refused("body-too-slow", f"send a request within {BODY_SECONDS:g} s", status=408) from None
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_LIMIT:
            raise _too_long()
    return bytes(body)


def _too_long() -> Refused:
    return Refused("body-too-long", f"a request has at most {BODY_LIMIT} bytes", status=413)

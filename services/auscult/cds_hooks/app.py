"""The HTTP service: CDS Hooks 2.0.1 discovery, hooks and feedback, and the evidence pages."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import httpx
import msgspec
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from auscult.cds_hooks import evidence
from auscult.cds_hooks.answering import answer
from auscult.cds_hooks.feedback import FeedbackDesk
from auscult.cds_hooks.prefetch import Prefetch
from auscult.cds_hooks.request import read_feedback, read_hook
from auscult.cds_hooks.services import Call, Registry, Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.stored import stored
from auscult.cds_hooks.trust.gate import Caller, Gate, TooMany
from auscult.cds_hooks.trust.tokens import Unauthorised
from auscult.domain.deadline import Deadline
from auscult.domain.model_card import InvalidCardError
from auscult.platform import telemetry
from auscult.platform.errors import Refused
from auscult.platform.settings import Settings

BODY_LIMIT = 2 * 2**20
"""Bytes. Orders and prefetched searches of a large record stay below it."""
ISSUE_TYPES = {404: "not-found", 405: "not-supported", 413: "too-long", 500: "exception"}
"""FHIR IssueType by HTTP status; the others are `invalid`."""
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_log = logging.getLogger(__name__)


def create_app(
    store: CardStore,
    settings: Settings,
    cards_folder: Path,
    gate: Gate | None = None,
    services: Sequence[Service] = (),
    *,
    feedback: FeedbackDesk | None = None,
) -> Starlette:
    """Return the application. `cards_folder`: the model repository, whose `card.yaml` files the pages show.

    `gate`: who may call; by default one made from the settings, which remembers used tokens nowhere.
    `services`: those of the pathways, beside the one that shows what was found.
    `feedback`: where outcomes go; by default they are only counted in the log.
    """
    gate = gate or Gate(settings)
    desk = Desk(Registry((stored(store), *services)), gate, feedback)
    return Starlette(
        routes=[
            Route("/cds-services/{service}", partial(_hook, desk), methods=["POST"]),
            Route("/cds-services/{service}/feedback", partial(_feedback, desk), methods=["POST"]),
            Route("/cds-services", partial(_discovery, desk)),
            Route("/models/{name}", partial(_model, store, cards_folder)),
            Route("/healthz", _live),
            Route("/readyz", partial(_ready, store)),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=settings.hooks_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "traceparent", "tracestate"],
            )
        ],
        exception_handlers={
            Unauthorised: partial(_unauthorised, gate),
            TooMany: _too_many,
            Refused: _refused,
            HTTPException: _http_error,
            500: _failed,
        },
    )


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, HEADERS, "application/json")


@dataclass(frozen=True, slots=True)
class Desk:
    """What the endpoints share."""

    registry: Registry
    gate: Gate
    feedback: FeedbackDesk | None = None
    http: httpx.AsyncClient = field(
        # Neither redirects nor the environment's proxies: a token goes to the registered server alone.
        default_factory=partial(httpx.AsyncClient, follow_redirects=False, trust_env=False)
    )

    async def admit(self, request: Request) -> tuple[Service, Caller]:
        """Return the service that is called and who calls it."""
        name = request.path_params["service"]
        caller = await self.gate.admit(request, name)
        service = self.registry.get(name)
        if service is None:
            raise Refused("service-unknown", "there is no such service here; see GET /cds-services", status=404)
        return service, caller


async def _discovery(desk: Desk, _: Request) -> Response:
    return _json(desk.registry.discovery)


async def _hook(desk: Desk, request: Request) -> Response:
    """Answer with cards. Nothing found is an empty list; what cannot be said is a card that says so."""
    started = time.time()
    with telemetry.span("hook", parent=request.headers.get("traceparent"), kind=SpanKind.SERVER) as span:
        service, caller = await desk.admit(request)
        called = read_hook(await _body(request), service.hooks)
        span.update_name(f"hook {called.hook}")
        base = caller.fhir_server(called.fhir_server)
        prefetch = Prefetch(
            service.prefetch, called.prefetch or {}, called.context, base, called.fhir_authorization, desk.http
        )
        deadline = Deadline(started + service.budget)
        call = Call(called.hook, called.patient, called.context, prefetch, caller, deadline)
        answered = await answer(service, call)
        span.set_attribute("cards", len(answered.cards))
        body = b'{"cards":[' + b",".join(answered.cards) + b"]"
        if answered.system_actions:
            body += b',"systemActions":' + msgspec.json.encode(answered.system_actions)
        return _json(body + b"}")


async def _feedback(desk: Desk, request: Request) -> Response:
    """Take outcomes to the bus. Comments are not kept: they may say anything about a patient."""
    with telemetry.span("feedback", parent=request.headers.get("traceparent"), kind=SpanKind.SERVER) as span:
        _, caller = await desk.admit(request)
        items = read_feedback(await _body(request))
        if desk.feedback:
            await desk.feedback.take(caller, items)
        outcomes = Counter(item.outcome for item in items)
        span.set_attributes(dict(outcomes))
        _log.info("feedback: %d accepted, %d overridden", outcomes["accepted"], outcomes["overridden"])
        return Response(status_code=200, headers=HEADERS)


async def _body(request: Request) -> bytes:
    """Return the body of a POST; Refused (413, 415) where it is none that we read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("content-type-unexpected", "send JSON with content-type: application/json", status=415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT:
            raise Refused("body-too-long", f"a request has at most {BODY_LIMIT} bytes", status=413)
    return bytes(body)


def _model(store: CardStore, folder: Path, request: Request) -> Response:
    """Return the evidence page; a plain function, which Starlette runs beside the event loop: it reads a file."""
    name = request.path_params["name"]
    status = 200
    try:
        card, known = evidence.find(folder, name), store.model(name)
        if card is not None:
            html = evidence.page(card, request.query_params.get("version", ""))
        elif known is not None:
            html = evidence.reference_page(known)
        else:
            html = evidence.message_page("No such model", "This site has no model of this name.")
            status = 404
    except InvalidCardError as problem:
        _log.error("the card of the model %s cannot be read: %s", name, problem)
        html = evidence.message_page(
            "The model's card cannot be read", "Tell the operator: the log says what to correct."
        )
        status = 500
    return HTMLResponse(html, status, {**HEADERS, "content-security-policy": evidence.CONTENT_SECURITY_POLICY})


async def _live(_: Request) -> Response:
    return _json(b'{"live":true}')


async def _ready(store: CardStore, _: Request) -> Response:
    ready = store.ready
    return _json(msgspec.json.encode({"ready": ready, "skipped": store.skipped}), 200 if ready else 503)


def _outcome(status: int, text: str) -> Response:
    """Return an error as FHIR OperationOutcome."""
    issue = {"severity": "error", "code": ISSUE_TYPES.get(status, "invalid"), "diagnostics": text}
    return _json(msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]}), status)


def _unauthorised(gate: Gate, _: Request, problem: Exception) -> Response:
    """Answer with a bare 401: why is counted here and told to nobody who has no token."""
    reason = cast("Unauthorised", problem).reason
    gate.refused[reason] += 1
    _log.info("a call was not let in (%s)", reason)
    return Response(None, 401, {**HEADERS, "www-authenticate": "Bearer"})


def _too_many(_: Request, problem: Exception) -> Response:
    error = cast("TooMany", problem)
    response = _outcome(error.status, str(error))
    response.headers["retry-after"] = str(math.ceil(error.after))
    return response


def _refused(_: Request, problem: Exception) -> Response:
    # Starlette's type of a handler is for any exception; it calls each with its own.
    return _outcome(cast("Refused", problem).status, str(problem))


def _http_error(_: Request, problem: Exception) -> Response:
    error = cast("HTTPException", problem)
    response = _outcome(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


def _failed(_: Request, __: Exception) -> Response:
    return _outcome(500, "the service failed; its log says more")

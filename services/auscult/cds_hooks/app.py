"""The HTTP service: CDS Hooks 2.0.1 discovery, patient-view and feedback, and the evidence pages.

A hook is answered from memory: read the request, look up, join bytes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import cast

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
from auscult.cds_hooks.card import LOADING
from auscult.cds_hooks.request import HOOK, read_feedback, read_hook
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust.gate import Gate, TooMany
from auscult.cds_hooks.trust.tokens import Unauthorised
from auscult.domain.model_card import InvalidCardError
from auscult.platform import telemetry
from auscult.platform.errors import Refused
from auscult.platform.settings import Settings

SERVICE = "auscult-patient-view"
BODY_LIMIT = 2**20
"""Bytes. A Patient with photographs left out is a few KB; nothing else is asked for."""
DISCOVERY = msgspec.json.encode(
    {
        "services": [
            {
                "hook": HOOK,
                "id": SERVICE,
                "title": "Auscult imaging findings",
                "description": (
                    "What Auscult's models found in this patient's images, with model, version, time and evidence. "
                    "Answered from results that were computed when the images arrived."
                ),
                "prefetch": {"patient": "Patient/{{context.patientId}}"},
            }
        ]
    }
)
ISSUE_TYPES = {404: "not-found", 405: "not-supported", 413: "too-long", 500: "exception"}
"""FHIR IssueType by HTTP status; the others are `invalid`."""
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_log = logging.getLogger(__name__)


def create_app(store: CardStore, settings: Settings, cards_folder: Path, gate: Gate | None = None) -> Starlette:
    """Return the application. `cards_folder`: the model repository, whose `card.yaml` files the pages show.

    `gate`: who may call; by default one made from the settings, which remembers used tokens nowhere.
    """
    gate = gate or Gate(settings)
    return Starlette(
        routes=[
            Route("/cds-services/{service}", partial(_patient_view, store, gate), methods=["POST"]),
            Route("/cds-services/{service}/feedback", partial(_feedback, gate), methods=["POST"]),
            Route("/cds-services", _discovery),
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


async def _discovery(_: Request) -> Response:
    return _json(DISCOVERY)


async def _patient_view(store: CardStore, gate: Gate, request: Request) -> Response:
    """Answer with the patient's cards. Nothing found is an empty list; not known yet is a card that says so."""
    with telemetry.span(f"hook {HOOK}", parent=request.headers.get("traceparent"), kind=SpanKind.SERVER) as span:
        caller = await gate.admit(request, request.path_params["service"])
        called = read_hook(await _body(request))
        caller.fhir_server(called.fhir_server)
        # Before the look-up: what was loading when the answer began may be missing from it.
        loading = () if store.ready else (LOADING,)
        cards = loading + store.cards(caller.tenant, called.patient)
        span.set_attribute("cards", len(cards))
        return _json(b'{"cards":[' + b",".join(cards) + b"]}")


async def _feedback(gate: Gate, request: Request) -> Response:
    """Count outcomes in the log. Comments and reasons are not kept: they may say anything about a patient."""
    with telemetry.span("feedback", parent=request.headers.get("traceparent"), kind=SpanKind.SERVER) as span:
        await gate.admit(request, request.path_params["service"])
        outcomes = Counter(item.outcome for item in read_feedback(await _body(request)))
        span.set_attributes(dict(outcomes))
        _log.info("feedback: %d accepted, %d overridden", outcomes["accepted"], outcomes["overridden"])
        return Response(status_code=200, headers=HEADERS)


async def _body(request: Request) -> bytes:
    """Return the body of a POST to our service; Refused (404, 413, 415) where it is not one."""
    if request.path_params["service"] != SERVICE:
        raise Refused("service-unknown", "there is no such service here; see GET /cds-services", status=404)
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

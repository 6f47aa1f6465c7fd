"""The HTTP service: CDS Hooks 2.0.1 discovery, hooks and feedback, and the pages beside them."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import cast

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from auscult.cds_hooks import evidence, openapi
from auscult.cds_hooks.endpoints import ROOT, Endpoints
from auscult.cds_hooks.feedback import FeedbackDesk
from auscult.cds_hooks.replies import HEADERS, outcome
from auscult.cds_hooks.services import Registry, Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.stored import stored
from auscult.cds_hooks.trust.gate import Gate
from auscult.domain.model_card import InvalidCardError
from auscult.platform.settings import Settings

_log = logging.getLogger(__name__)


def create_app(
    store: CardStore,
    settings: Settings,
    cards_folder: Path,
    gate: Gate | None = None,
    *,
    services: Sequence[Service] = (),
    feedback: FeedbackDesk | None = None,
) -> Front:
    """Return the application. `cards_folder`: the model repository, whose `card.yaml` files the pages show.

    `gate`: who may call; by default one made from the settings, which remembers used tokens nowhere.
    `services`: those of the pathways, beside the one that shows what was found.
    `feedback`: where outcomes go; by default they are only counted in the log.
    """
    gate = gate or Gate(settings)
    registry = Registry((stored(store), *services), versions=settings.hooks_service_version)
    # Neither redirects nor the environment's proxies: a token goes to the registered server alone.
    http = httpx.AsyncClient(follow_redirects=False, trust_env=False, verify=_tls())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gate.fetch_keys()
        async with http:
            yield

    pages = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/openapi.json", partial(_described, openapi.describe(registry, settings.hooks_public_url))),
            Route("/models/{name}", partial(_model, store, cards_folder)),
            Route("/healthz", _live),
            Route("/readyz", partial(_ready, store, gate)),
        ],
        exception_handlers={HTTPException: _http_error, 500: _failed},
    )
    endpoints = Endpoints(
        registry,
        gate,
        feedback,
        http,
        in_card=settings.hooks_incomplete == "card",
    )
    front = Front(endpoints, pages)
    front.browsers = CORSMiddleware(
        front.route,
        allow_origins=settings.hooks_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Authorization", "Content-Type", "traceparent", "tracestate"],
        expose_headers=["Retry-After"],
    )
    return front


@cache
def _tls() -> ssl.SSLContext:
    """Return the trusted authorities: to load them takes longer than a call may."""
    return httpx.create_ssl_context(trust_env=False)


class Front:
    """Sends requests of CDS Hooks the short way, past the pages' router, and past CORS where no browser asks."""

    browsers: ASGIApp

    def __init__(self, endpoints: Endpoints, pages: ASGIApp) -> None:
        self.endpoints = endpoints
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the pages' start and end."""
        if scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"]):
            await self.browsers(scope, receive, send)
        else:
            await self.route(scope, receive, send)

    async def route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whoever asks."""
        if scope["type"] == "http" and (scope["path"] + "/").startswith(f"/{ROOT}/"):
            await self.endpoints(scope, receive, send)
        else:
            await self._pages(scope, receive, send)


def _json(content: bytes, status: int = 200) -> Response:
    return Response(content, status, HEADERS, "application/json")


async def _described(content: bytes, _: Request) -> Response:
    return _json(content)


def _model(store: CardStore, folder: Path, request: Request) -> Response:
    """Return the evidence page; a plain function, which Starlette runs beside the event loop: it reads a file."""
    name = request.path_params["name"]
    status = 200
    try:
        card, known, off = evidence.find(folder, name), store.model(name), store.switches.off((name,))
        if card is not None:
            html = evidence.page(card, request.query_params.get("version", ""), off)
        elif known is not None:
            html = evidence.reference_page(known, off)
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


async def _ready(store: CardStore, gate: Gate, _: Request) -> Response:
    ready = store.ready and gate.ready
    return _json(msgspec.json.encode({"ready": ready, "skipped": store.skipped}), 200 if ready else 503)


def _outcome(status: int, text: str) -> Response:
    return _json(outcome(status, text).body, status)


def _http_error(_: Request, problem: Exception) -> Response:
    error = cast("HTTPException", problem)
    response = _outcome(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


def _failed(_: Request, __: Exception) -> Response:
    return _outcome(500, "the service failed; its log says more")

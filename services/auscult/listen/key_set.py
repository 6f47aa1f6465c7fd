"""Our public keys at a URL, so that an authorization server which knows it follows each change of keys by itself.

SMART App Launch 2.2, "Asymmetric authentication": the client's jwks_uri. Nobody has to show a secret: none is served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PLACE = "/.well-known/jwks.json"
FRESH = 300
"""Seconds for which a reader may keep the set; it asks anew where it meets a kid that it does not know."""

_log = logging.getLogger(__name__)


def served_keys(read: Callable[[], dict[str, Any]]) -> Route:
    """Return the route that serves the JWK set that `read` returns at that moment; 503 where it raises ValueError."""

    async def keys(_: Request) -> Response:
        try:
            content = msgspec.json.encode(await run_in_threadpool(read))
        except ValueError as problem:
            _log.warning("our public keys cannot be served: %s", problem)
            return Response(status_code=503, headers={"retry-after": "5", "cache-control": "no-store"})
        headers = {"cache-control": f"public, max-age={FRESH}"}
        return Response(content, headers=headers, media_type="application/jwk-set+json")

    return Route(PLACE, keys, methods=["GET"])

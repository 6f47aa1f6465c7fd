"""A FHIR R4 server in memory, for the demo and the tests. It is no product.

Nothing is kept, nobody is asked who they are, and it knows only the interactions and search parameters that
Auscult uses: use a real server for data. It refuses what a real one refuses: resources that are not valid,
references to what is not there, search parameters that it does not know. Handlers never await between reading
and writing, so each request is atomic.
"""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from auscult.publish.fhir.sandbox_store import Json, Problem, Store, location

BASE = "/fhir"


def create_app() -> Starlette:
    """Return the server, empty, under `/fhir`."""
    store = Store()

    async def root(request: Request) -> Response:
        return _answer(200, store.bundle(await _body(request), _base(request)))

    async def resource_type(request: Request) -> Response:
        kind = request.path_params["type"]
        if request.method == "GET":
            return _answer(200, store.searchset(kind, list(request.query_params.multi_items()), _base(request)))
        resource = await _body(request)
        status, stored = store.post(kind, resource, request.headers.get("if-none-exist"))
        return _answer(status, stored, Location=f"{_base(request)}/{location(stored)['location']}")

    async def instance(request: Request) -> Response:
        place = "{type}/{id}".format_map(request.path_params)
        if request.method == "GET":
            return _answer(200, store.get(place))
        status, stored = store.put(place, await _body(request))
        return _answer(status, stored)

    return Starlette(
        routes=[
            Route(f"{BASE}/metadata", _metadata),
            Route(BASE, root, methods=["POST"]),
            Route(f"{BASE}/", root, methods=["POST"]),
            Route(f"{BASE}/{{type}}", resource_type, methods=["GET", "POST"]),
            Route(f"{BASE}/{{type}}/{{id}}", instance, methods=["GET", "PUT"]),
        ],
        exception_handlers={Problem: _refuse},
    )


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{BASE}"


async def _body(request: Request) -> Json:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise Problem(400, "structure", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Problem(400, "structure", "the body is not a resource")
    return body


def _answer(status: int, body: Json, **headers: str) -> Response:
    return JSONResponse(body, status, headers=headers, media_type="application/fhir+json")


async def _refuse(_: Request, problem: Exception) -> Response:
    if not isinstance(problem, Problem):
        raise problem
    return _answer(problem.status, problem.outcome)


async def _metadata(_: Request) -> Response:
    interactions = [{"code": code} for code in ("transaction", "batch")]
    return _answer(
        200,
        {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": "2026-01-01",
            "kind": "instance",
            "implementation": {"description": "Auscult's FHIR sandbox: for demonstrations and tests, not for data"},
            "fhirVersion": "4.0.1",
            "format": ["json"],
            "rest": [{"mode": "server", "interaction": interactions}],
        },
    )

"""An EHR as the services see it: a FHIR server on loopback that keeps what it was asked, and calls of its hooks."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from starlette.types import ASGIApp

from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.services import Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust.gate import Caller, Gate
from auscult.platform.settings import Settings
from cds_hooks_schema import checked

PATIENT = {"resourceType": "Patient", "id": "42", "gender": "female", "birthDate": "1960-05-01"}
CONTEXTS: dict[str, dict[str, Any]] = {
    "patient-view": {},
    "encounter-start": {"encounterId": "e1"},
    "encounter-discharge": {"encounterId": "e1"},
    "order-select": {"selections": [], "draftOrders": {"resourceType": "Bundle", "entry": []}},
    "order-sign": {"draftOrders": {"resourceType": "Bundle", "entry": []}},
    "order-dispatch": {"performer": "Organization/o", "dispatchedOrders": ["ServiceRequest/1"]},
    "appointment-book": {"appointments": {"resourceType": "Bundle"}},
    "problem-list-item-create": {"conditions": {"resourceType": "Bundle"}},
    "allergyintolerance-create": {"allergyIntolerances": {"resourceType": "Bundle"}},
}
"""What each hook's context has beyond user and patient."""


def bundle(*resources: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a searchset."""
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": each} for each in resources]} | more


def request(hook: str = "patient-view", context: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a call of `hook` for patient 42; `context` adds to its smallest context."""
    base = {"userId": "Practitioner/abc", "patientId": "42"} | CONTEXTS[hook]
    return {
        "hook": hook,
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": base | (context or {}),
    } | more


class FhirServer:
    """Answers what is in `answers` by path and query: JSON, or (status, headers, body)."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        """Path and query, and the authorization header."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("authorization", "")))
                given = server.answers.get(self.path.removeprefix("/r4/"), (404, {}, b""))
                status, headers, content = (
                    given if isinstance(given, tuple) else (200, {}, json.dumps(given).encode())
                )
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._http.server_address[1]}/r4"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class OpenGate(Gate):
    """Lets everyone in as `caller`."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(Settings())
        self._open = caller


class Ehr:
    """Calls services as `caller`, several calls at once where they are given together."""

    def __init__(self, store: CardStore, *services: Service, caller: Caller | None = None, **settings: Any) -> None:
        gate = OpenGate(caller) if caller else None
        self.app: ASGIApp = create_app(store, Settings(**settings), Path(), gate, services=services)

    def ask(self, service: str, *requests: dict[str, Any], **more: Any) -> list[httpx.Response]:
        """POST `requests` to `service` at once, and return the answers."""

        async def send() -> list[httpx.Response]:
            async with (
                self._lifespan(),
                httpx.AsyncClient(transport=self._transport(), base_url="http://h") as client,
            ):
                calls = (client.post(f"/cds-services/{service}", json=each, **more) for each in requests)
                return [checked(answer) for answer in await asyncio.gather(*calls)]

        return asyncio.run(send())

    def _transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(self.app, raise_app_exceptions=False)

    def _lifespan(self) -> Lifespan:
        return Lifespan(self.app)


class Lifespan:
    """Starts and stops an application, as a server does: what it holds open is closed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(
            self._app({"type": "lifespan", "asgi": {"version": "3.0"}}, self._told.get, self._heard.put)  # type: ignore[arg-type]
        )
        await self._told.put({"type": "lifespan.startup"})
        await self._heard.get()

    async def __aexit__(self, *_: object) -> None:
        await self._told.put({"type": "lifespan.shutdown"})
        await self._task

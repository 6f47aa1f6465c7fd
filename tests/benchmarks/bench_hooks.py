"""CDS Hooks: how soon a card is there when a chart is opened."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.factory import open_bus
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.store import CardStore
from auscult.domain.codes import DIAMETER
from auscult.domain.finding import Measurement, MeasurementGroup
from auscult.entrypoints.demo.processes import demo_settings, running
from auscult.pathways.lung_nodule import PATHWAY
from auscult.pathways.pathway import Found
from auscult.platform.settings import Settings
from benchmarks.processes import elsewhere, http, http_json
from benchmarks.table import OURS
from fhir_samples import MEASURES, finding, result

HTTP = "CDS Hooks: patient-view over HTTP"
APP = "CDS Hooks: patient-view, the application alone"
PATH = "/cds-services/auscult-patient-view"
REQUEST = json.dumps(
    {
        "hook": "patient-view",
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"userId": "Practitioner/1", "patientId": "p1"},
    }
).encode()
HEADERS = {"content-type": "application/json"}


def some_card(settings: Settings) -> Settings:
    """Put a result with a card of patient p1 on the bus that `settings` name, in a home that is not there yet."""
    settings.home.mkdir()
    mean = MeasurementGroup("mean-diameter", DIAMETER, MEASURES, (Measurement("mean-diameter", DIAMETER, 7.3, "mm"),))
    nodule = finding("nodule-1", groups=(*finding("nodule-1").groups, mean))
    found = result(nodule, card=PATHWAY.card(Found((nodule,))))
    with closing(open_bus(settings.bus)) as bus:
        bus.publish(FINDINGS, CloudEvent.of(events.RESULT, "/default/pathways", found), key="study")
    return settings


@pytest.fixture(scope="module")
def settings(disk: Path, models: Path) -> Settings:
    """Return the settings of a service whose bus holds a result with a card."""
    return some_card(demo_settings(disk / "hooks", models, {}))


@pytest.fixture(scope="module")
def ehr(settings: Settings) -> Iterator[httpx.Client]:
    """Return a client of the running service, which has the card."""
    with (
        running(settings, ("cds-hooks",)) as services,
        httpx.Client(base_url=settings.hooks_public_url, headers=HEADERS) as client,
    ):
        assert list(services.wait_ready(("cds-hooks",))) == ["cds-hooks"]
        while not client.post(PATH, content=REQUEST).json().get("cards"):
            time.sleep(0.05)
        yield client


@pytest.fixture(scope="module")
def answer(ehr: httpx.Client) -> dict[str, Any]:
    """Return what the hook answers."""
    told: dict[str, Any] = ehr.post(PATH, content=REQUEST).json()
    return told


class Asking:
    """Sends the request to an ASGI application and takes all of its answer, without a server."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._runner = asyncio.Runner()
        self._told: list[dict[str, Any]] = []
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"hooks"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    def __call__(self) -> None:
        """Ask once."""
        self._told.clear()
        self._runner.run(self._app(dict(self._scope), self._receive, self._send))
        assert self._told[0]["status"] == 200

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": REQUEST, "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        self._told.append(message)


def test_over_http(measure: Callable[..., Any], ehr: httpx.Client) -> None:
    """As an EHR asks that keeps its connection."""
    measure(HTTP, OURS, lambda: ehr.post(PATH, content=REQUEST).content, rounds=300)


def test_over_http_bare(measure: Callable[..., Any], answer: dict[str, Any]) -> None:
    """The peer: a Starlette endpoint that reads the request's JSON and answers with the same card."""
    with (
        elsewhere(http, http_json, answer) as line,
        httpx.Client(base_url=f"http://127.0.0.1:{line.recv()}", headers=HEADERS) as client,
    ):
        measure(
            HTTP, "Starlette alone, the same JSON", lambda: client.post(PATH, content=REQUEST).content, rounds=300
        )


def test_application(measure: Callable[..., Any], settings: Settings) -> None:
    """Without a network: what is ours of an answer."""
    store, stop = CardStore(settings.hooks_public_url), threading.Event()
    with closing(open_bus(settings.bus)) as bus:
        follower = threading.Thread(target=store.follow, args=(bus, stop))
        follower.start()
        try:
            while not store.cards("default", "Patient/p1"):
                time.sleep(0.05)
            with closing(Asking(create_app(store, settings, settings.models))) as ask:
                measure(APP, OURS, ask, rounds=1000)
        finally:
            stop.set()
            follower.join()


def test_application_bare(measure: Callable[..., Any], answer: dict[str, Any]) -> None:
    """The peer: Starlette alone."""
    with closing(Asking(http_json(answer))) as ask:
        measure(APP, "Starlette alone, the same JSON", ask, rounds=1000)

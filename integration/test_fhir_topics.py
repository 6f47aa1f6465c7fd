"""Subscriptions to a topic, against a real HAPI FHIR R4 that supports the Backport IG: asked for, told, taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack.servers import hapi

from auscult.bus import events
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import RECORD
from auscult.entrypoints.demo.processes import free_port
from auscult.listen.fhir_subscription import Desk, Secrets, create_app
from auscult.listen.http_server import HttpServer
from auscult.listen.marks import Marks
from auscult.listen.notifications import Own
from auscult.listen.record import Watch
from auscult.listen.registration import Registrar
from auscult.platform.settings import Settings
from auscult.publish.fhir.client import FhirClient
from product import eventually

pytestmark = pytest.mark.timeout(400)
TOPIC = "http://auscult.test/SubscriptionTopic/observations"
R5, R4B = (
    f"http://hl7.org/fhir/{version}/StructureDefinition/extension-SubscriptionTopic" for version in ("5.0", "4.3")
)
WATCH = Watch("Observation?code=http://loinc.org|2160-0", TOPIC)


def topic() -> dict[str, Any]:
    """Return the topic as R4 has it: a Basic with R5's elements as extensions."""
    trigger = [
        {"url": "resource", "valueUri": "Observation"},
        {"url": "supportedInteraction", "valueCode": "create"},
        {"url": "supportedInteraction", "valueCode": "update"},
    ]
    filtered = [{"url": "resource", "valueUri": "Observation"}, {"url": "filterParameter", "valueString": "code"}]
    return {
        "resourceType": "Basic",
        "id": "observations",
        "code": {"coding": [{"system": "http://hl7.org/fhir/fhir-types", "code": "SubscriptionTopic"}]},
        "extension": [
            {"url": f"{R5}.url", "valueUri": TOPIC},
            {"url": f"{R4B}.resourceTrigger", "extension": trigger},
            {"url": f"{R4B}.canFilterBy", "extension": filtered},
        ],
        "modifierExtension": [{"url": f"{R5}.status", "valueCode": "active"}],
    }


def observation(identity: str, code: str) -> dict[str, Any]:
    """Return a measurement of the patient."""
    return {
        "resourceType": "Observation",
        "id": identity,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": "Patient/p1"},
    }


@dataclass(frozen=True)
class Site:
    """A record that notifies our endpoint."""

    http: httpx.Client
    bus: SqliteBus
    desk: Desk
    bodies: list[bytes]
    heard: threading.Event

    def put(self, resource: dict[str, Any]) -> None:
        """Write a resource into the record."""
        self.http.put(f"/{resource['resourceType']}/{resource['id']}", json=resource).raise_for_status()

    def told(self) -> list[str]:
        """Return what the bus was told of."""
        return [delivery.event.payload(events.RecordChanged).reference for delivery in self.bus.read(RECORD)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a HAPI with the topic."""
    with hapi(tmp_path_factory.mktemp("hapi")) as address:
        yield address


@pytest.fixture(params=["id-only", "full-resource"])
def site(request: pytest.FixtureRequest, base: str, tmp_path: Path) -> Iterator[Site]:
    """Run the endpoint, and have the registrar subscribe at the record."""
    port = free_port()
    secret = tmp_path / "secret"
    secret.write_text("a-secret-of-the-record")
    settings = Settings(
        home=tmp_path,
        fhir_notify_port=port,
        fhir_notify_url=f"http://127.0.0.1:{port}",
        fhir_subscription_payload=request.param,
    )
    bodies: list[bytes] = []
    told = threading.Event()
    with ExitStack() as ending:
        bus = ending.enter_context(closing(SqliteBus(tmp_path / "bus.db")))
        marks = ending.enter_context(Marks(bus, "site"))
        desk = Desk("site", bus, marks, Own([base]), {WATCH.name: WATCH}, Secrets(secret))
        app = create_app(desk)

        async def heard(scope: Any, receive: Any, send: Any) -> None:
            async def kept() -> Any:
                message = await receive()
                bodies.append(message.get("body", b""))
                told.set()
                return message

            await app(scope, kept, send)

        server = HttpServer(settings, heard)  # type: ignore[arg-type]
        server.start()
        ending.callback(server.stop)
        http = ending.enter_context(httpx.Client(base_url=base, timeout=60, headers={"Cache-Control": "no-cache"}))
        found = Site(http, bus, desk, bodies, told)
        found.put({"resourceType": "Patient", "id": "p1"})
        found.put(topic())
        client = ending.enter_context(FhirClient(base, 60))
        registrar = Registrar(settings, client, desk.secrets)
        assert registrar.ensure(WATCH) == "created"
        eventually(lambda: _active(http, port), "the subscription")
        assert registrar.ensure(WATCH) == "unchanged"
        yield found
        for subscription in _subscriptions(http, port):
            http.delete(f"/Subscription/{subscription['id']}")


def _subscriptions(http: httpx.Client, port: int) -> list[dict[str, Any]]:
    found = http.get("/Subscription", params={"status": "active"}).json()
    listed = [entry["resource"] for entry in found.get("entry", ())]
    return [one for one in listed if f":{port}/" in one["channel"]["endpoint"]]


def _active(http: httpx.Client, port: int) -> bool | None:
    return bool(_subscriptions(http, port)) or None


def test_a_topic_tells_of_what_the_filter_lets_through(site: Site) -> None:
    """Created and updated; what has another code is not told."""
    # HAPI looks for new topics once a minute; what changes before that is nobody's event.
    for number in range(100):
        site.put(observation("crea", "2160-0") | {"note": [{"text": str(number)}]})
        if site.heard.wait(2):
            break
    eventually(lambda: "Observation/crea" in site.told() or None, "the event")
    site.put(observation("other", "8480-6"))
    before = len(site.told())
    site.put(observation("crea", "2160-0") | {"status": "amended"})
    eventually(lambda: len(site.told()) > before or None, "the second event")
    assert set(site.told()) == {"Observation/crea"}
    assert b'"subscription"' in b"".join(site.bodies)

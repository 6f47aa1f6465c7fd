"""With a backend that hangs each hook is answered with 200 within 800 ms, and says what is missing.

It hangs in two ways: it takes a connection and says nothing, or it does not even take one (its backlog is full, so
that the kernel drops each SYN, as a firewall does).
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
import yaml
from stack.servers import Kafka

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.factory import open_bus
from auscult.bus.kafka import KafkaBus
from auscult.bus.topics import FINDINGS
from auscult.cds_hooks.server import run
from auscult.cds_hooks.trust import keys
from auscult.domain import codes
from auscult.domain.finding import Card
from auscult.domain.study import StudyRef
from auscult.inference.client import InferenceClient
from auscult.pathways.services import Tools, offered
from auscult.platform.settings import Settings
from ehr import PATIENT, bundle, request
from fhir_samples import BROCK, finding, result
from hostile_tokens import ISS, PUBLIC, RSA, KeyServer, token

# kafka-python leaves a connection that does not come about to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)

VIEW, RISK = "/cds-services/auscult-patient-view", "/cds-services/auscult-lung-nodule-risk"
ALLOWED = 0.8
"""Seconds, beyond those for which other processes kept this one from a core."""
AT_ONCE = 12
TOO_SLOW = "The answer took longer than the time that is allowed."
"""What is said where the machine was too busy to say more."""
MODELS = {
    f"A part of the system did not answer (deadline-exceeded: {said})."
    for model in ("brock_full", "brock_full_no_spiculation")
    for said in (f"model {model} did not answer in time", f"no time was left to run model {model}")
}
SOON = 60.0
PROBLEM = {
    "resourceType": "Condition",
    "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "R91.1"}]},
}


def _coded(code: Any) -> dict[str, Any]:
    return {"coding": [{"system": code.system, "code": code.code}]}


SIZE = {
    "resourceType": "Observation",
    "status": "final",
    "effectiveDateTime": "2026-01-31",
    "code": _coded(codes.TUMOR_SIZE),
    "bodySite": _coded(codes.LUNG),
    "component": [
        {"code": _coded(code), "valueQuantity": {"value": 8.0, "code": "mm"}}
        for code in (codes.LONGEST_DIAMETER, codes.OTHER_DIAMETER)
    ],
}
RECORD = {
    "patient": PATIENT,
    "sizes": bundle(SIZE),
    "conditions": bundle(),
    "relatives": bundle(),
    "smoking": bundle(),
}
"""What the risk of a recorded nodule is computed from."""


@contextmanager
def silent(*, takes: bool, port: int = 0) -> Iterator[int]:
    """Give the port of a server that says nothing; without `takes` no connection to it comes about."""
    with ExitStack() as opened, socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(1024 if takes else 0)
        while not takes:
            one = opened.enter_context(socket.socket())
            one.settimeout(0.2)
            try:
                one.connect(server.getsockname())
            except TimeoutError:
                break
        yield server.getsockname()[1]


@pytest.fixture(params=[True, False], ids=["takes connections", "drops them"])
def hung(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the port of a server that hangs."""
    with silent(takes=request.param) as port:
        yield port


def kept_waiting() -> float:
    """Return the seconds that this process's threads were ready to run and had no core (proc_schedstat)."""
    threads = (path.read_text().split() for path in Path("/proc/self/task").glob("*/schedstat"))
    return sum(int(delay) for _, delay, _ in threads) / 1e9


@pytest.fixture(autouse=True)
def _hurried_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a Kafka that hangs be given up sooner, and close the sockets that kafka-python then leaves open."""
    monkeypatch.setattr("auscult.bus.kafka._REQUEST_SECONDS", 1)
    monkeypatch.setattr("auscult.bus.kafka._DELIVERY_SECONDS", 2)
    before = {id(each) for each in sockets()}
    yield
    for each in sockets():
        if id(each) not in before:
            each.close()


def sockets() -> list[socket.socket]:
    """Return all sockets of this process."""
    return [each for each in gc.get_objects() if type(each) is socket.socket and each.fileno() >= 0]


class Site:
    """The hooks service in a thread, and an EHR that calls it."""

    def __init__(self, home: Path, bus: Bus, *, models: str = "127.0.0.1:1", **settings: Any) -> None:
        self._stop, ports = threading.Event(), Queue[int]()
        self._models = InferenceClient(models, None)
        given = Settings(hooks_port=0, home=home, hooks_public_url=PUBLIC, **settings)
        self._server = threading.Thread(
            target=run,
            args=(given, bus, self._stop, ports.put),
            kwargs={"services": lambda store: offered(Tools(store, self._models, PUBLIC))},
        )
        self._server.start()
        self.base = f"http://127.0.0.1:{ports.get(timeout=SOON)}"

    def close(self) -> None:
        """End the service."""
        self._stop.set()
        self._server.join()
        self._models.close()

    def ask(self, path: str, *calls: dict[str, Any], tokens: Callable[[], str] | None = None) -> list[Any]:
        """Send `calls` at once; hold that each is answered with 200 in time, and return the answers."""

        async def one(client: httpx.AsyncClient, call: dict[str, Any]) -> Any:
            headers = {"authorization": f"Bearer {tokens()}"} if tokens else {}
            began = time.monotonic()
            answer = await client.post(path, json=call, headers=headers)
            return answer, time.monotonic() - began

        async def send() -> list[Any]:
            async with httpx.AsyncClient(base_url=self.base, timeout=SOON) as client:
                return await asyncio.gather(*(one(client, call) for call in calls))

        before = kept_waiting()
        answers = asyncio.run(send())
        assert [answer.status_code for answer, _ in answers] == [200] * len(calls), answers[0][0].text
        assert max(took for _, took in answers) <= ALLOWED + kept_waiting() - before
        return [json.loads(answer.content or b"{}") for answer, _ in answers]

    def ready(self) -> bool:
        """Whether the service says so."""
        return httpx.get(f"{self.base}/readyz").is_success


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Return a function that starts the service on a bus, by default one that works."""
    with ExitStack() as running:

        def start(bus: Bus | None = None, **given: Any) -> Site:
            used = bus or running.enter_context(closing(open_bus(f"sqlite:{tmp_path / 'bus.db'}")))
            return running.enter_context(closing(Site(tmp_path, used, **given)))

        yield start


def registered(folder: Path, *fhir: str, **more: Any) -> Path:
    """Write the file of the one client that may call."""
    client = {"name": "north", "iss": ISS, "fhir_bases": fhir or ("https://f.org",), "algorithms": ["RS384"]} | more
    path = folder / "clients.yaml"
    path.write_text(yaml.safe_dump({"clients": [client | {"per_second": 1000}]}, default_flow_style=False))
    return path


def problem(**more: Any) -> dict[str, Any]:
    """Return a call at which a nodule is put on the problem list."""
    return request("problem-list-item-create", {"conditions": bundle(PROBLEM)}, **more)


def details(answers: list[Any]) -> set[str]:
    """Return the details of all cards, of which each answer has one."""
    assert all(len(answer["cards"]) == 1 for answer in answers)
    return {answer["cards"][0]["detail"].partition(" Results that")[0] for answer in answers}


def test_the_fhir_server_hangs(site: Callable[..., Site], hung: int) -> None:
    """What was not prefetched is named."""
    base = f"http://127.0.0.1:{hung}/r4"
    known = {key: content for key, content in RECORD.items() if key != "sizes"}
    told = site(fhir_base=base).ask(RISK, *[problem(fhirServer=base, prefetch=known)] * AT_ONCE)
    assert details(told) <= {"The record did not answer in time: sizes.", TOO_SLOW}


def test_the_model_service_hangs(site: Callable[..., Site], hung: int) -> None:
    """The model is named."""
    told = site(models=f"127.0.0.1:{hung}").ask(RISK, *[problem(prefetch=RECORD)] * AT_ONCE)
    assert details(told) <= MODELS | {TOO_SLOW}


def feedback() -> dict[str, Any]:
    """Return an outcome of a card."""
    item = {"card": "c1", "outcome": "accepted", "acceptedSuggestions": [{"id": "s1"}]}
    return {"feedback": [item | {"outcomeTimestamp": "2026-01-31T12:00:00Z"}]}


def signed(path: str) -> Callable[[], str]:
    """Return what signs a token for each call of `path`."""
    return lambda: token(RSA, "rsa", "RS384", aud=f"{PUBLIC}{path}")


def test_the_bus_hangs_from_the_start(site: Callable[..., Site], hung: int, tmp_path: Path) -> None:
    """Cards that cannot be read are said to be loading; feedback is taken; a token is good for one call here."""
    with closing(KafkaBus(f"127.0.0.1:{hung}")) as bus, closing(KeyServer()) as server:
        there = site(bus, hooks_clients=registered(tmp_path, jku=[server.url]))
        there.ask(VIEW, request(), tokens=signed(VIEW))  # the keys are fetched
        told = there.ask(VIEW, *[request()] * AT_ONCE, tokens=signed(VIEW))
        assert all("loading" in answer["cards"][0]["summary"] for answer in told)
        there.ask(f"{VIEW}/feedback", *[feedback()] * AT_ONCE, tokens=signed(VIEW))
        again = token(RSA, "rsa", "RS384")
        there.ask(VIEW, request(), tokens=lambda: again)
        assert httpx.post(there.base + VIEW, json=request(), headers={"authorization": f"Bearer {again}"}).is_error
        assert not there.ready()


def test_the_bus_hangs_later(site: Callable[..., Site], broker: Kafka, tmp_path: Path) -> None:
    """The broker's process is stopped: the cards that were read are shown, and calls and feedback are answered."""
    found = result(
        finding("nodule-1"),
        patient="Patient/hung",
        study=StudyRef("default", "1.2.77", "d"),
        card=Card("A nodule", "info", "detail", "Auscult", (BROCK,)),
    )
    with closing(KafkaBus(broker.address)) as bus, closing(KeyServer()) as server:
        bus.publish(FINDINGS, CloudEvent.of(events.RESULT, "/test", found), key=f"{found.study.key}|lung_nodule")
        there = site(bus, hooks_clients=registered(tmp_path, jku=[server.url]))
        end = time.monotonic() + SOON
        while not there.ready():
            assert time.monotonic() < end
            time.sleep(0.05)
        view = request(context={"patientId": "hung"})
        there.ask(VIEW, view, tokens=signed(VIEW))
        assert broker.process
        broker.process.send_signal(signal.SIGSTOP)
        try:
            told = there.ask(VIEW, *[view] * AT_ONCE, tokens=signed(VIEW))
            there.ask(f"{VIEW}/feedback", *[feedback()] * AT_ONCE, tokens=signed(VIEW))
        finally:
            broker.process.send_signal(signal.SIGCONT)
    assert {answer["cards"][-1]["summary"] for answer in told} == {"A nodule"}


@pytest.mark.parametrize("takes", [True, False], ids=["takes connections", "drops them"])
def test_all_hang(site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, takes: bool) -> None:
    """Keys that are old, a bus, a FHIR server and a model service: the answer names the first that was needed."""
    monkeypatch.setattr(keys, "FRESH", 0.0)
    monkeypatch.setattr(keys, "PAUSE", 0.0)
    with ExitStack() as hang:
        bus, fhir, models = (hang.enter_context(silent(takes=takes)) for _ in range(3))
        base = f"http://127.0.0.1:{fhir}/r4"
        kafka = hang.enter_context(closing(KafkaBus(f"127.0.0.1:{bus}")))
        with closing(KeyServer()) as server:
            clients = registered(tmp_path, base, jku=[server.url])
            there = site(kafka, models=f"127.0.0.1:{models}", hooks_clients=clients)
            there.ask(VIEW, request(), tokens=signed(VIEW))
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        hang.enter_context(silent(takes=takes, port=port))
        told = there.ask(RISK, *[problem(fhirServer=base)] * AT_ONCE, tokens=signed(RISK))
        record = {f"The record did not answer in time: {key}." for key in ("patient", "sizes")}
        assert details(told) <= record | {TOO_SLOW}
        whole = there.ask(RISK, *[problem(prefetch=RECORD)] * AT_ONCE, tokens=signed(RISK))
        assert details(whole) <= MODELS | {TOO_SLOW}
        there.ask(VIEW, *[request()] * AT_ONCE, tokens=signed(VIEW))

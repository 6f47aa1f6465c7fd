"""CDS Hooks under load, beside FastAPI, Starlette with msgspec, and HealthChain: one run, one client.

Server and client have a core each, as far as the machine has two. Each server answers the same patient-view with the
same card, by uvicorn with uvloop and httptools.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import pytest
import yaml
from jwt import PyJWS
from peers.processes import NotInstalledError, installed
from pytest_benchmark.fixture import BenchmarkFixture

from auscult.entrypoints.demo.processes import demo_settings, free_port, running
from auscult.platform.settings import Settings
from benchmarks.bench_hooks import HEADERS, PATH, REQUEST, some_card
from benchmarks.bench_serving import cpu_seconds
from benchmarks.processes import elsewhere, findings
from benchmarks.table import HOOKS, HOP, OURS
from hostile_tokens import EC, ISS, RSA, public, token

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
PEERS = {"Starlette, msgspec": "starlette", "FastAPI": "fastapi", "HealthChain 0.16": "healthchain"}
BELOW = {"healthchain": "/cds"}
"""Where a peer has its services."""
START_SECONDS = 60.0
CLOSED, OPEN = "8 connections, each asks when it is answered", "500/s, come what may"
LOADS = {CLOSED: (8, 4000, 0), OPEN: (32, 1500, 500)}
"""Connections, calls, and calls a second; 0: as fast as they are answered."""
INGEST = "500/s, while findings arrive as fast as the bus takes them"
KEYS = {"RS384": (RSA, "rsa"), "ES384": (EC, "ec")}
TOKENS = 2000


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]
    path: str = PATH


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process, and those that they start, on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


@contextmanager
def ours(work: Path, models: Path, **changes: Any) -> Iterator[tuple[Server, Settings]]:
    """Run the hooks service as it runs in the product."""
    settings = some_card(demo_settings(work, models, {}))
    settings = settings.model_copy(update=changes)
    with running(settings, ("cds-hooks",)) as services:
        assert list(services.wait_ready(("cds-hooks",))) == ["cds-hooks"]
        while not httpx.get(f"{settings.hooks_public_url}/readyz").is_success:
            time.sleep(0.05)
        process = services.processes["cds-hooks"].popen
        pin(process.pid, SERVER_CORE)
        yield Server(int(settings.hooks_public_url.rpartition(":")[2]), process), settings


@contextmanager
def peer(name: str, cards: Path) -> Iterator[Server]:
    """Run a peer; NotInstalledError."""
    port, python = free_port(), installed(name) / "bin" / "python"
    process = subprocess.Popen(
        [python, HERE / "hook_peers" / f"{name}_hooks.py", str(port), cards],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = Server(port, process, BELOW.get(name, "") + PATH)
        end = time.monotonic() + START_SECONDS
        while not _answers(server):
            assert process.poll() is None, f"{name} ended"
            assert time.monotonic() < end, f"{name} does not answer"
            time.sleep(0.1)
        pin(process.pid, SERVER_CORE)
        yield server
    finally:
        process.terminate()
        process.wait()


def _answers(server: Server) -> bool:
    try:
        url = f"http://127.0.0.1:{server.port}{server.path}"
        return httpx.post(url, content=REQUEST, headers=HEADERS).is_success
    except httpx.TransportError:
        return False


def measured(server: Server, load: tuple[int, int, float], tokens: list[str] | None = None) -> dict[str, float]:
    """Send the load; return the latencies in ms, calls a second, and the server's CPU in us a call."""
    call = {"path": server.path, "body": REQUEST.decode()}
    lines = [json.dumps(call | {"token": each}) for each in tokens or [""]]
    command = [sys.executable, HERE / "hook_load.py", str(server.port), *map(str, load)]
    before = cpu_seconds(server.process.pid)
    done = subprocess.run(
        command,
        input="\n".join(lines).encode(),
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
    )
    spent = cpu_seconds(server.process.pid) - before
    told = json.loads(done.stdout)
    assert told["failed"] == 0
    count = len(told["ms"])
    return {
        "p50": median(told["ms"]),
        "p99": quantiles(told["ms"], n=100)[98],
        "rate": count / told["seconds"],
        "cpu": spent * 1e6 / count,
    }


def in_turn(
    benchmark: BenchmarkFixture, load: str, servers: dict[str, Callable[[], dict[str, float]] | str], rounds: int
) -> None:
    """Measure the servers in turn, several times, and tell the medians, or what to do about one that is missing."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in servers}

    def act() -> None:
        for name, measure in servers.items():
            if callable(measure):
                taken[name].append(measure())

    benchmark.pedantic(act, rounds=rounds)
    benchmark.extra_info[HOP] = load
    benchmark.extra_info[HOOKS] = {
        name: {key: median(one[key] for one in taken[name]) for key in taken[name][0]} if callable(given) else given
        for name, given in servers.items()
    }


@pytest.fixture(scope="module")
def open_site(disk: Path, models: Path) -> Iterator[tuple[Server, Settings]]:
    """Run our service without clients, so that no call needs a token."""
    with ours(disk / "hook-load", models) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def servers(disk: Path, open_site: tuple[Server, Settings]) -> Iterator[dict[str, Server | str]]:
    """Run all servers until the module ends."""
    server, _ = open_site
    answer = httpx.post(f"http://127.0.0.1:{server.port}{PATH}", content=REQUEST, headers=HEADERS).json()
    cards = disk / "cards.json"
    cards.write_text(json.dumps({"p1": answer["cards"]}))
    with ExitStack() as stack:
        found: dict[str, Server | str] = {OURS: server}
        for name, folder in PEERS.items():
            try:
                found[name] = stack.enter_context(peer(folder, cards))
            except NotInstalledError as missing:
                found[name] = str(missing)
        yield found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("load", LOADS)
def test_patient_view(benchmark: BenchmarkFixture, servers: dict[str, Server | str], load: str) -> None:
    """The load goes to each server in turn."""
    in_turn(
        benchmark,
        load,
        {
            name: each if isinstance(each, str) else (lambda each=each: measured(each, LOADS[load]))
            for name, each in servers.items()
        },
        rounds=3 if load == CLOSED else 1,
    )


@pytest.mark.timeout(600)
def test_while_findings_arrive(benchmark: BenchmarkFixture, open_site: tuple[Server, Settings]) -> None:
    """Another process, on the client's core, publishes results; the service's store takes them."""
    server, settings = open_site
    with elsewhere(findings, settings.bus, CLIENT_CORE) as line:
        line.recv()
        in_turn(benchmark, INGEST, {OURS: lambda: measured(server, (32, 2500, 500))}, rounds=1)
        line.send("enough")
        told = line.recv()
    benchmark.extra_info[HOP] = f"{INGEST} ({told:.0f}/s)"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", KEYS)
def test_with_tokens(benchmark: BenchmarkFixture, disk: Path, models: Path, algorithm: str) -> None:
    """Each call has a token of its own, which is verified and remembered; beside it the signature alone."""
    key, kid = KEYS[algorithm]
    clients = disk / f"clients-{algorithm}.yaml"
    client = {
        "name": "ehr",
        "iss": ISS,
        "jwks": {"keys": [public(key, kid)]},
        "fhir_bases": ["https://f.example.org"],
    }
    clients.write_text(yaml.safe_dump({"clients": [client | {"per_second": 1e6}]}))
    with ours(disk / f"hook-load-{algorithm}", models, hooks_clients=clients) as (server, settings):
        tokens = [
            token(key, kid, algorithm, aud=f"{settings.hooks_public_url}{PATH}", exp=int(time.time()) + 600)
            for _ in range(TOKENS)
        ]
        signed, _, signature = tokens[0].rpartition(".")
        verify = PyJWS().get_algorithm_by_name(algorithm).verify
        raw = _decoded(signature)

        def alone() -> dict[str, float]:
            began = time.process_time()
            for _ in range(200):
                assert verify(signed.encode(), key.public_key(), raw)
            took = (time.process_time() - began) / 200
            return {"p50": took * 1e3, "p99": took * 1e3, "rate": 1 / took, "cpu": took * 1e6}

        load = (8, TOKENS, 0)
        both = {OURS: lambda: measured(server, load, tokens), "the signature alone, by cryptography": alone}
        in_turn(benchmark, f"8 connections, a token by {algorithm} with each call", both, rounds=1)


def _decoded(signature: str) -> bytes:
    return base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))

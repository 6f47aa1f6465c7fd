"""A notification: from the FHIR server's request to its event on disk, and the answer. Alone, and at 200 a second."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from auscult.listen.fhir_subscription import PATH
from benchmarks.processes import SHOWN, WATCH, elsewhere, http_echo, notified
from benchmarks.processes import http as bare
from benchmarks.table import HOP, OURS, PACED

HOPS = {
    "sqlite": "FHIR: a notification, its event on disk (SQLite)",
    "kafka": "FHIR: a notification, its event on Kafka",
}
BARE = "Starlette alone, which keeps nothing"
RATE, SECONDS, CONNECTIONS = 200, 10, 4


def observation(number: int) -> bytes:
    """Return a resource as HAPI sends it."""
    return json.dumps(
        {
            "resourceType": "Observation",
            "id": f"o{number}",
            "meta": {"versionId": "1", "lastUpdated": "2026-11-25T00:00:00.000Z"},
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0", "display": "Creatinine"}]},
            "subject": {"reference": "Patient/7"},
            "effectiveDateTime": "2026-11-25",
            "valueQuantity": {"value": 88, "unit": "umol/L", "system": "http://unitsofmeasure.org", "code": "umol/L"},
        }
    ).encode()


def put(connection: http.client.HTTPConnection, number: int) -> None:
    """Send one notification and read its answer."""
    headers = {"authorization": f"Bearer {SHOWN}", "content-type": "application/fhir+json"}
    connection.request("PUT", f"{PATH}/{WATCH.name}/Observation/o{number}", observation(number), headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200


@contextmanager
def connected(port: int) -> Iterator[http.client.HTTPConnection]:
    """Give a connection that is kept open."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        yield connection


@pytest.fixture(params=["sqlite", "kafka"])
def served(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Connection, int]]:
    """Run the endpoint on each bus; give the hop's name, the line to its process, and its port."""
    broker = os.environ.get("AUSCULT_TEST_KAFKA")
    if request.param == "kafka" and not broker:
        pytest.skip("set AUSCULT_TEST_KAFKA=host:port to measure Apache Kafka, too")
    url = f"kafka://{broker}" if request.param == "kafka" else f"sqlite:{folder / 'bus.db'}"
    with elsewhere(notified, str(folder), url) as line:
        yield HOPS[request.param], line, line.recv()


def test_notification(measure: Callable[..., Any], served: tuple[str, Connection, int]) -> None:
    """One after the other, over one connection."""
    hop, _, port = served
    with connected(port) as connection:
        numbers = iter(range(10**6))
        measure(hop, OURS, lambda: put(connection, next(numbers)), rounds=300)


@pytest.mark.parametrize("hop", HOPS.values())
def test_notification_bare(measure: Callable[..., Any], hop: str) -> None:
    """The peer: an endpoint that sends the bytes back and keeps nothing."""
    with elsewhere(bare, http_echo) as line, connected(line.recv()) as connection:
        measure(hop, BARE, lambda: post(connection, 1), rounds=300)


def at_a_rate(port: int, send: Callable[[http.client.HTTPConnection, int], None], first: int) -> list[float]:
    """Send RATE a second for SECONDS; return how many ms after it was due each was answered, sorted.

    What a queue costs is in it. `first`: the number of the first, as each is a resource of its own.
    """
    taken: list[float] = []
    began = time.perf_counter() + 0.5

    def share(own: int) -> None:
        with connected(port) as connection:
            for number in range(own, RATE * SECONDS, CONNECTIONS):
                due = began + number / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                send(connection, first + number)
                taken.append((time.perf_counter() - due) * 1e3)

    senders = [threading.Thread(target=share, args=(own,)) for own in range(CONNECTIONS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return sorted(taken)


def post(connection: http.client.HTTPConnection, number: int) -> None:
    """Send the same bytes to the endpoint that keeps nothing."""
    connection.request("POST", "/", observation(number))
    connection.getresponse().read()


@pytest.mark.timeout(300)
def test_notifications_at_a_rate(benchmark: BenchmarkFixture, served: tuple[str, Connection, int]) -> None:
    """200 a second over four connections, in turn with what keeps nothing: the machine does the same to both."""
    hop, line, port = served
    rounds: dict[str, list[dict[str, float]]] = {OURS: [], BARE: []}
    first = iter(range(0, 10**9, RATE * SECONDS))

    def spent() -> float:
        line.send("spent?")
        seconds: float = line.recv()
        return seconds

    with elsewhere(bare, http_echo) as other:
        bare_port = other.recv()

        def act() -> None:
            before = spent()
            taken = at_a_rate(port, put, next(first))
            rounds[OURS].append({**shares(taken), "cpu": (spent() - before) / len(taken) * 1e3})
            rounds[BARE].append(shares(at_a_rate(bare_port, post, 0)))

        benchmark.pedantic(act, rounds=3)
    benchmark.extra_info[HOP] = hop
    benchmark.extra_info[PACED] = {
        side: {name: median(one[name] for one in told) for name in told[0]} for side, told in rounds.items()
    } | {"load": os.getloadavg()[0]}


def shares(taken: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the longest of sorted times."""
    return {"p50": taken[len(taken) // 2], "p99": taken[int(0.99 * len(taken))], "most": taken[-1]}

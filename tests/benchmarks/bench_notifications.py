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
from typing import Any

import pytest

from auscult.listen.fhir_subscription import PATH
from benchmarks.processes import SHOWN, WATCH, elsewhere, http_echo, notified
from benchmarks.processes import http as bare
from benchmarks.table import OURS

HOPS = {
    "sqlite": "FHIR: a notification, its event on disk (SQLite)",
    "kafka": "FHIR: a notification, its event on Kafka",
}
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

        def post() -> None:
            connection.request("POST", "/", observation(1))
            connection.getresponse().read()

        measure(hop, "Starlette alone, which keeps nothing", post, rounds=300)


def test_notifications_at_a_rate(
    served: tuple[str, Connection, int], capsys: pytest.CaptureFixture[str], record_property: Callable[..., None]
) -> None:
    """At 200 a second over four connections, each from when it was due: what a queue costs is in it."""
    hop, line, port = served
    taken: list[float] = []
    began = time.perf_counter() + 0.5

    def send(first: int) -> None:
        with connected(port) as connection:
            for number in range(first, RATE * SECONDS, CONNECTIONS):
                due = began + number / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                put(connection, number)
                taken.append(time.perf_counter() - due)

    line.send("spent?")
    before = line.recv()
    senders = [threading.Thread(target=send, args=(first,)) for first in range(CONNECTIONS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    line.send("spent?")
    spent = (line.recv() - before) / len(taken)
    taken.sort()
    told = {name: taken[int(share * len(taken))] * 1e3 for name, share in (("p50", 0.5), ("p99", 0.99))}
    record_property(hop, told)
    with capsys.disabled():
        cost = f"p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms, {spent * 1e3:.2f} ms of CPU each"
        print(f"\n{hop}, {RATE}/s: {cost}")  # noqa: T201

"""FHIR: a result into the record, and whose study it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.domain.study import StudyRef
from auscult.entrypoints.demo.processes import demo_settings, running
from auscult.platform.settings import Settings
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.patients import resolve, risk_factors
from auscult.publish.fhir.resources import transaction
from auscult.publish.fhir.sink import FhirSink
from benchmarks.processes import elsewhere, fhir_at_once, http, http_echo
from benchmarks.table import OURS
from fhir_samples import IDENTITY, STUDY_UID, SYSTEMS, finding, patient, put, result

SANDBOX = "FHIR: a result into the sandbox, which validates it"
AT_ONCE = "FHIR: a result to a server that confirms at once"
PATIENT = "FHIR: patient and risk factors from the sandbox"
POST = "httpx and Starlette alone, as many bytes"
COUNT = itertools.count()


def fresh() -> tuple[Result]:
    """Return a result that no record holds yet."""
    return (result(finding("nodule-1"), study=StudyRef("default", STUDY_UID, f"{next(COUNT):064x}")),)


def write_to(base: str) -> tuple[FhirClient, FhirSink]:
    """Return a client of the server at `base` and the sink that writes there."""
    client = FhirClient(base, 10)
    return client, FhirSink(client)


@pytest.fixture(scope="module")
def sandbox(disk: Path, models: Path) -> Iterator[Settings]:
    """Run the sandbox with a patient in it; it has a process of its own."""
    settings = demo_settings(disk / "sandbox", models, {})
    with running(settings, ("fhir-sandbox",)) as services:
        assert list(services.wait_ready(("fhir-sandbox",))) == ["fhir-sandbox"]
        with httpx.Client(base_url=settings.fhir_base) as record:
            put(record, patient())
        yield settings


def test_write_to_the_sandbox(measure: Callable[..., Any], sandbox: Settings) -> None:
    """The Provenance is looked for, then everything is written in one transaction."""
    client, sink = write_to(sandbox.fhir_base)
    with closing(client):
        assert measure(SANDBOX, OURS, lambda made: sink.write(made, Deadline.after(10)), setup=fresh)


def test_write_at_once(measure: Callable[..., Any]) -> None:
    """What is ours of a write: making the resources, checking them, two requests."""
    entries = len(transaction(*fresh())["entry"])
    with elsewhere(http, fhir_at_once, entries) as line:
        client, sink = write_to(f"http://127.0.0.1:{line.recv()}/fhir")
        with closing(client):
            assert measure(AT_ONCE, OURS, lambda made: sink.write(made, Deadline.after(10)), setup=fresh)


@pytest.mark.parametrize("hop", [SANDBOX, AT_ONCE])
def test_write_bare(measure: Callable[..., Any], hop: str) -> None:
    """The peer: the same bytes posted to an endpoint that sends them back."""
    content = json.dumps(transaction(*fresh()), default=float).encode()
    with elsewhere(http, http_echo) as line, httpx.Client(base_url=f"http://127.0.0.1:{line.recv()}") as client:
        measure(hop, POST, lambda: client.post("/", content=content).content)


def test_patient(measure: Callable[..., Any], sandbox: Settings) -> None:
    """One search for the patient, one batch of searches for the risk factors."""
    with FhirClient(sandbox.fhir_base, 10) as client:

        def ask() -> None:
            risk_factors(client, resolve(client, IDENTITY, SYSTEMS).reference)

        measure(PATIENT, OURS, ask)


def test_patient_bare(measure: Callable[..., Any]) -> None:
    """The peer: a GET and a POST."""
    content = json.dumps(patient()).encode()
    with elsewhere(http, http_echo) as line, httpx.Client(base_url=f"http://127.0.0.1:{line.recv()}") as client:

        def ask() -> None:
            client.get("/")
            client.post("/", content=content)

        measure(PATIENT, "httpx and Starlette alone, two requests", ask)

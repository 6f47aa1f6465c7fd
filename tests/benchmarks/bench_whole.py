"""The whole: from the last stored instance to the answered hook, on the embedded default."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from auscult.bus.contract import Tail
from auscult.bus.events import Outcome
from auscult.bus.topics import FINDINGS, OUTCOMES
from auscult.domain.finding import Result
from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.processes import SERVICES, demo_settings, running
from auscult.entrypoints.demo.study import write_phantom
from auscult.imaging.phantom import SyntheticPatient
from benchmarks.spent import summary
from benchmarks.table import OURS, WHOLE
from product import Product

STUDIES = 7


@dataclass(frozen=True)
class Kind:
    """Phantoms that are sent: with their nodule's outline or without, and the first one's seed."""

    hop: str
    seg: bool
    seed: int


KINDS = {
    "outlined": Kind("A chest phantom with its nodule outlined in a SEG", seg=True, seed=1000),
    "plain": Kind("A chest phantom without an outline, so that the model makes one", seg=False, seed=2000),
}


@pytest.fixture(scope="module")
def product(disk: Path, models: Path) -> Iterator[Product]:
    """Run all services, each a process of its own."""
    settings = demo_settings(disk / "whole", models, {SyntheticPatient().issuer: SYSTEM})
    with running(settings) as services:
        assert sorted(services.wait_ready(SERVICES)) == sorted(SERVICES)
        product = Product(settings)
        yield product
        product.close()


def has_card(ehr: httpx.Client, patient: str, traceparent: str) -> bool:
    """Open the patient's chart; whether a card is shown."""
    request = {
        "hook": "patient-view",
        "hookInstance": str(uuid.uuid4()),
        "context": {"userId": "Practitioner/1", "patientId": patient},
    }
    answer = ehr.post("/auscult-patient-view", json=request, headers={"traceparent": traceparent})
    return bool(answer.raise_for_status().json()["cards"])


def to_the_card(product: Product, ehr: httpx.Client, tail: Tail, files: list[Path], patient: str) -> tuple[str, int]:
    """Send a study, follow it, ask the hook as soon as the result is on the bus; return traceparent and findings."""
    product.send(files)
    delivery = tail.poll(60)
    while delivery is None or delivery.topic != FINDINGS.name:
        assert delivery, "nothing came of the study within a minute"
        assert delivery.event.payload(Outcome).status == "published", delivery.event.payload(Outcome)
        delivery = tail.poll(60)
    result = delivery.event.payload(Result)
    assert result.patient == f"Patient/{patient}"
    while not has_card(ehr, patient, delivery.event.traceparent):
        time.sleep(0.002)
    return delivery.event.traceparent, len(result.findings)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_study_to_card(
    measure: Callable[..., Any],
    benchmark: BenchmarkFixture,
    product: Product,
    folder: Path,
    kind: Kind,
) -> None:
    """Phantoms one after the other; the first is not counted, as services load what they need at first use."""
    seeds = iter(range(kind.seed, kind.seed + STUDIES + 1))
    cards: list[tuple[str, int]] = []
    hooks = f"{product.settings.hooks_public_url}/cds-services"
    # An EHR keeps its connection, so one client serves all.
    with product.bus.tail(FINDINGS, OUTCOMES) as tail, httpx.Client(base_url=hooks) as ehr:
        while not tail.caught_up:
            tail.poll(1)

        def another() -> tuple[list[Path], str]:
            shutil.rmtree(folder)
            seed = next(seeds)
            write_phantom(folder, seed=seed, seg=kind.seg)
            files = sorted(folder.rglob("*.dcm"))
            product.register(f"p{seed}", str(pydicom.dcmread(files[0], stop_before_pixels=True).PatientID))
            return files, f"p{seed}"

        def run(files: list[Path], patient: str) -> None:
            cards.append(to_the_card(product, ehr, tail, files, patient))

        measure(kind.hop, OURS, run, setup=another, rounds=STUDIES, warm=1)
    traces = [product.trace(traceparent) for traceparent, _ in cards[1:]]
    benchmark.extra_info[WHOLE] = summary(traces, [found for _, found in cards[1:]])

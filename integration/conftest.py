"""The product on a real Kafka, HAPI FHIR and Orthanc, all started here and ended by pid.

Run in a network namespace of its own (`.ci/run` does), as this Orthanc listens on every interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from stack.servers import Kafka, hapi, orthanc

from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.processes import Services, demo_settings, running
from auscult.models.build import build_repository
from product import Product

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("inference", "cds-hooks", "listen", "pathways")


@dataclass(frozen=True)
class Hospital:
    """The product and the systems around it."""

    product: Product
    services: Services
    broker: Kafka
    pacs: str
    """Orthanc's REST address."""

    def archive(self, files: list[Path]) -> None:
        """Put instances into the PACS, as a modality would; it forwards the study when it is stable."""
        for path in files:
            httpx.post(f"{self.pacs}/instances", content=path.read_bytes()).raise_for_status()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Run one Kafka broker for the session."""
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.stop()


@contextmanager
def _product(home: Path, broker: Kafka, fhir: str) -> Iterator[tuple[Product, Services]]:
    models = ROOT / ".auscult" / "models"
    build_repository(models, if_changed=True)
    systems = {"": SYSTEM, "HOSPITAL": SYSTEM, "AUSCULT-PHANTOM": SYSTEM}
    settings = demo_settings(home, models, systems).model_copy(
        update={"bus_url": f"kafka://{broker.address}", "fhir_base": fhir}
    )
    with running(settings, SERVICES) as services:
        assert sorted(services.wait_ready(SERVICES)) == sorted(SERVICES)
        yield Product(settings), services


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory, broker: Kafka) -> Iterator[Hospital]:
    """Run everything until the session ends."""
    with (
        hapi(tmp_path_factory.mktemp("hapi")) as fhir,
        _product(tmp_path_factory.mktemp("home"), broker, fhir) as (product, services),
        orthanc(tmp_path_factory.mktemp("orthanc"), product.settings.dicom_port) as (pacs, _),
    ):
        yield Hospital(product, services, broker, pacs)

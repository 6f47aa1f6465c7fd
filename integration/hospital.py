"""The product between real systems: its services on a real Kafka and FHIR server, and a PACS that forwards to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from stack.servers import Kafka

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


@contextmanager
def product_on(home: Path, broker: Kafka, fhir: str) -> Iterator[tuple[Product, Services]]:
    """Run the services below `home`, on `broker` and the FHIR server at `fhir`."""
    models = ROOT / ".auscult" / "models"
    build_repository(models, if_changed=True)
    systems = {"": SYSTEM, "HOSPITAL": SYSTEM, "AUSCULT": SYSTEM}
    settings = demo_settings(home, models, systems).model_copy(
        update={"bus_url": f"kafka://{broker.address}", "fhir_base": fhir}
    )
    with running(settings, SERVICES) as services:
        assert sorted(services.wait_ready(SERVICES)) == sorted(SERVICES)
        product = Product(settings)
        yield product, services
        product.close()

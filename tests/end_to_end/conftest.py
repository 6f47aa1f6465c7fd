"""The whole product on the embedded defaults: every service a process of its own, started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.processes import SERVICES, demo_settings, running
from auscult.models.build import build_repository
from product import Product

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="package")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Run all services until this folder's tests have run."""
    models = ROOT / ".auscult" / "models"
    build_repository(models, if_changed=True)
    systems = {"": SYSTEM, "HOSPITAL": SYSTEM, "AUSCULT": SYSTEM}
    settings = demo_settings(tmp_path_factory.mktemp("home"), models, systems)
    with running(settings) as services:
        assert sorted(services.wait_ready(SERVICES)) == sorted(SERVICES)
        product = Product(settings)
        yield product
        product.close()

"""The product on a real Kafka, HAPI FHIR and Orthanc, all started here and ended by pid.

Run in a network namespace of its own (`.ci/run` does), as this Orthanc listens on every interface.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hospital import Hospital, product_on
from stack.servers import Kafka, hapi, orthanc


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Run one Kafka broker for the session."""
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory, broker: Kafka) -> Iterator[Hospital]:
    """Run everything until the session ends."""
    with (
        hapi(tmp_path_factory.mktemp("hapi")) as fhir,
        product_on(tmp_path_factory.mktemp("home"), broker, fhir) as (product, services),
        orthanc(tmp_path_factory.mktemp("orthanc"), product.settings.dicom_port) as (pacs, _),
    ):
        yield Hospital(product, services, broker, pacs)

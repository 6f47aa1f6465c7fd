"""A FHIR sandbox for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.sandbox import create_app
from fhir_samples import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Return a server whose application each test sets."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def product_client(server: Server) -> Iterator[FhirClient]:
    """Return the one client of all tests: a client is slow to make, as it reads the system's certificates."""
    with FhirClient(server.base, 5) as client:
        yield client


@pytest.fixture(scope="session")
def plain_client(server: Server) -> Iterator[httpx.Client]:
    """Return the one plain client of all tests."""
    with httpx.Client(base_url=server.base) as http:
        yield http


@pytest.fixture
def base(server: Server) -> str:
    """Return the base address of an empty sandbox."""
    server.app = create_app()
    return server.base


@pytest.fixture
def client(base: str, product_client: FhirClient) -> FhirClient:  # noqa: ARG001
    """Return the product's client on an empty sandbox."""
    return product_client


@pytest.fixture
def record(base: str, plain_client: httpx.Client) -> httpx.Client:  # noqa: ARG001
    """Return a plain HTTP client on the same server, to see and arrange what is there."""
    return plain_client

"""A listener on a port of its own, with the embedded bus and a folder as image store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from auscult.bus.sqlite import SqliteBus
from auscult.imaging.store import ImageStore
from auscult.listen.dicom_scp import DicomScp
from auscult.platform.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return the settings of a listener that settles soon."""
    return Settings(tenant="site", home=tmp_path, dicom_port=0, min_free_bytes=0, settle_seconds=0.1)


@pytest.fixture
def bus(settings: Settings) -> Iterator[SqliteBus]:
    """Return an empty bus."""
    opened = SqliteBus(settings.home / "bus.db")
    yield opened
    opened.close()


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    """Return an empty store."""
    return ImageStore(settings.images, min_free_bytes=settings.min_free_bytes)


@pytest.fixture
def port(settings: Settings, bus: SqliteBus, store: ImageStore) -> Iterator[int]:
    """Return the port of a running listener."""
    scp = DicomScp(settings, bus, store)
    yield scp.start()
    scp.stop()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return where finished spans are kept."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter

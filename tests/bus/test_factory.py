"""The URL of the bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from auscult.bus.factory import open_bus
from auscult.bus.sqlite import SqliteBus
from auscult.platform.errors import RefuseToStart


def test_sqlite_opens_a_file_and_makes_its_folder(tmp_path: Path) -> None:
    """The default of one machine works without any preparation."""
    bus = open_bus(f"sqlite:{tmp_path / 'home' / 'bus.db'}")
    bus.close()
    assert isinstance(bus, SqliteBus)
    assert (tmp_path / "home" / "bus.db").exists()


@pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")
def test_kafka_is_opened_before_it_can_be_reached() -> None:
    """A service may start before the broker; it connects at the first use."""
    open_bus("kafka://one.example:9092,two.example:9092").close()


@pytest.mark.parametrize(
    "url", ["", "sqlite:", "kafka://", "kafka://host", "kafka://a:1,", "kafka://a:1,b", "amqp://host:1", "bus.db"]
)
def test_anything_else_refuses_to_start(url: str) -> None:
    """The message says what the setting may be."""
    with pytest.raises(RefuseToStart, match="AUSCULT_BUS_URL"):
        open_bus(url)

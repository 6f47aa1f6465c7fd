"""Opens the bus that a URL names."""

from __future__ import annotations

import re

from auscult.bus.contract import Bus
from auscult.bus.sqlite import SqliteBus
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

_KAFKA = re.compile(r"kafka://([\w.-]+:\d{1,5}(?:,[\w.-]+:\d{1,5})*)/?")


def open_bus(place: Settings | str) -> Bus:
    """Open the bus of the settings; or `sqlite:PATH`, or `kafka://HOST:PORT[,HOST:PORT…]` without TLS and account.

    RefuseToStart where that cannot be.
    """
    url = place if isinstance(place, str) else place.bus
    if url.startswith("sqlite:") and url != "sqlite:":
        return SqliteBus(url.removeprefix("sqlite:"))
    if brokers := _KAFKA.fullmatch(url):
        # Loading the client takes a quarter of a second, which an embedded installation does not owe.
        from auscult.bus.kafka import KafkaBus  # noqa: PLC0415
        from auscult.bus.kafka_security import security  # noqa: PLC0415

        return KafkaBus(brokers[1], security={} if isinstance(place, str) else security(place))
    raise RefuseToStart("bus-url-invalid", "set AUSCULT_BUS_URL to sqlite:PATH or to kafka://HOST:PORT[,HOST:PORT…]")

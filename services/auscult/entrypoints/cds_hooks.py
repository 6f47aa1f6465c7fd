"""The CDS Hooks service."""

from __future__ import annotations

from auscult.bus.factory import open_bus
from auscult.cds_hooks.server import run
from auscult.entrypoints.cards import follow_cards
from auscult.entrypoints.service import ready, service

NAME = "cds-hooks"


def main() -> None:
    """Serve until SIGTERM."""
    with service(NAME) as (settings, stop):
        follow_cards(settings, stop)
        bus = open_bus(settings.bus)
        try:
            run(settings, bus, stop, on_bound=lambda _port: ready(settings, NAME))
        finally:
            bus.close()

"""The CDS Hooks service."""

from __future__ import annotations

from auscult.bus.factory import open_bus
from auscult.cds_hooks.server import run
from auscult.entrypoints.cards import follow_cards
from auscult.entrypoints.service import ready, service
from auscult.inference.client import InferenceClient
from auscult.pathways.services import Tools, offered

NAME = "cds-hooks"


def main() -> None:
    """Serve until SIGTERM."""
    with service(NAME) as (settings, stop):
        follow_cards(settings, stop)
        bus = open_bus(settings)
        try:
            with InferenceClient(settings.inference_target, settings.models) as models:
                run(
                    settings,
                    bus,
                    stop,
                    on_bound=lambda _port: ready(settings, NAME),
                    services=lambda store: offered(Tools(store, models, settings.hooks_public_url)),
                )
        finally:
            bus.close()

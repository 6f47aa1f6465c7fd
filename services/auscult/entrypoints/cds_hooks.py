"""The CDS Hooks service."""

from __future__ import annotations

import gc
import sys

from auscult.bus.factory import open_bus
from auscult.cds_hooks.server import run
from auscult.entrypoints.cards import follow_cards
from auscult.entrypoints.service import ready, service
from auscult.inference.client import InferenceClient
from auscult.pathways.services import Tools, offered
from auscult.platform.settings import Settings

NAME = "cds-hooks"
SWITCH = 0.0005
"""Seconds for which a thread that reads the bus may keep the interpreter from the one that answers; Python: 0.005."""


def main() -> None:
    """Serve until SIGTERM."""
    sys.setswitchinterval(SWITCH)
    with service(NAME) as (settings, stop):
        follow_cards(settings, stop)
        bus = open_bus(settings)
        try:
            with InferenceClient(settings.inference_target, settings.models) as models:
                run(
                    settings,
                    bus,
                    stop,
                    on_bound=lambda _port: _begin(settings),
                    services=lambda store: offered(Tools(store, models, settings.hooks_public_url)),
                )
        finally:
            bus.close()


def _begin(settings: Settings) -> None:
    """Say that the service serves. What is there by now stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    ready(settings, NAME)

"""The inference service."""

from __future__ import annotations

from auscult.entrypoints.service import ready, service
from auscult.inference.server import serve

NAME = "inference"


def main() -> None:
    """Serve until SIGTERM."""
    with service(NAME) as (settings, stop):
        serve(settings, stop, on_ready=lambda: ready(settings, NAME))

"""The inference service."""

from __future__ import annotations

from auscult.entrypoints.service import ready, service
from auscult.inference.repository import Repository
from auscult.inference.server import create_server

NAME = "inference"
GRACE = 10.0
"""Seconds that running requests have to end when the service stops."""


def main() -> None:
    """Serve until SIGTERM."""
    with service(NAME) as (settings, stop):
        repository = Repository(settings.models)
        server, _port = create_server(repository, settings.inference_listen, threads=settings.inference_threads)
        server.start()
        ready(settings, NAME)
        stop.wait()
        server.stop(GRACE).wait()

"""The inference service."""

from __future__ import annotations

import os

from auscult.entrypoints.service import ready, service

NAME = "inference"

EXPERIMENTS = "-event_engine_listener"
"""Of gRPC's, turned off: so the thread that answers small calls also reads them from the socket.

To be woken by another that reads costs a fifth of a small call's CPU time. gRPC looks at it once, when imported.
"""


def main() -> None:
    """Serve until SIGTERM."""
    os.environ.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
    from auscult.inference.server import serve  # noqa: PLC0415 - gRPC is imported here

    with service(NAME) as (settings, stop):
        serve(settings, stop, on_ready=lambda: ready(settings, NAME))

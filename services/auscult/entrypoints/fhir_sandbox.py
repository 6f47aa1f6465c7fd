"""The FHIR sandbox, for the demo alone."""

from __future__ import annotations

from urllib.parse import urlsplit

import uvicorn

from auscult.entrypoints.service import service
from auscult.publish.fhir.sandbox import create_app

NAME = "fhir-sandbox"


def main() -> None:
    """Serve until SIGTERM, at the place that AUSCULT_FHIR_BASE names."""
    with service(NAME) as (settings, _stop):
        place = urlsplit(settings.fhir_base)
        # uvicorn has signal handlers of its own and ends on SIGTERM by itself.
        uvicorn.run(
            create_app(),
            host=place.hostname or "127.0.0.1",
            port=place.port or 80,
            log_level="warning",
            access_log=False,
        )

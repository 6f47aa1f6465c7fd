"""Serves DICOMweb beside the C-STORE SCP, in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

import uvicorn

from auscult.bus.contract import Bus
from auscult.imaging.store import ImageStore
from auscult.listen.dicomweb import Dicomweb
from auscult.listen.http_bounds import BoundedProtocol
from auscult.listen.reception import Reception
from auscult.listen.tls import server_context
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept."""
GRACE = 10
"""Seconds that open requests have when the service ends."""
MOST = 64
"""Connections at one time; above it requests are answered with 503."""

_log = logging.getLogger(__name__)


class DicomwebServer:
    """Serves until `stop`. Beyond this machine only with a token, or to who shows a certificate.

    `stable_study`: as of `Dicomweb`. RefuseToStart: `tls-invalid`.
    """

    def __init__(
        self, settings: Settings, bus: Bus, store: ImageStore, stable_study: Callable[[], None] | None = None
    ) -> None:
        self._settings = settings
        self._dicomweb = Dicomweb(
            settings, store, lambda: Reception(settings.tenant, bus, store, "stow-rs"), stable_study
        )
        files = settings.dicomweb_tls_cert, settings.dicomweb_tls_key, settings.dicomweb_tls_ca
        tls = server_context(*files, setting="AUSCULT_DICOMWEB_TLS", mutual=False)
        self._scheme = "https" if tls else "http"
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._dicomweb.app(),
                access_log=False,  # a path or query carries identifiers
                log_config=None,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                http=BoundedProtocol,
                ssl_context_factory=(lambda *_: tls) if tls else None,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=GRACE,
                limit_concurrency=MOST,
            )
        )
        self._listener: socket.socket | None = None
        self._serving = threading.Thread(target=self._serve, name="dicomweb", daemon=True)

    def start(self) -> int:
        """Listen, and return the port; RefuseToStart where it cannot be had, or everybody could ask."""
        host, port = self._settings.dicomweb_host, self._settings.dicomweb_port
        known = self._settings.dicomweb_token or self._settings.dicomweb_tls_ca
        if host not in {"127.0.0.1", "::1", "localhost"} and not known:
            raise RefuseToStart(
                "dicomweb-open",
                "set AUSCULT_DICOMWEB_TOKEN, or AUSCULT_DICOMWEB_TLS_CA with _CERT and _KEY, or "
                "AUSCULT_DICOMWEB_HOST to an address of this machine alone",
            )
        try:
            self._listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
            )
        except OSError as error:
            raise RefuseToStart(
                "dicomweb-port-unavailable",
                f"cannot listen for DICOMweb ({type(error).__name__}); set AUSCULT_DICOMWEB_HOST and "
                "AUSCULT_DICOMWEB_PORT to an address of this machine that no other program uses",
            ) from None
        self._serving.start()
        port = int(self._listener.getsockname()[1])
        _log.info("listening for DICOMweb by %s on port %d", self._scheme, port)
        return port

    def stop(self) -> None:
        """End the open requests, and return when they are."""
        if self._listener is None:
            return
        self._dicomweb.stop()
        self._server.should_exit = True
        self._serving.join()
        self._listener.close()

    def _serve(self) -> None:
        if self._listener is not None:
            self._server.run(sockets=[self._listener])

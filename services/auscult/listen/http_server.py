"""Serves the notification endpoint over HTTP or HTTPS, in a thread of its own."""

from __future__ import annotations

import logging
import socket
import ssl
import threading

import uvicorn
from starlette.applications import Starlette

from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
GRACE = 5
"""Seconds that requests in progress have to end after `stop`."""
BACKLOG = 1024

_log = logging.getLogger(__name__)


class HttpServer:
    """Serves `app` on `fhir_notify_host`:`fhir_notify_port` until `stop`."""

    def __init__(self, settings: Settings, app: Starlette) -> None:
        tls = settings.fhir_notify_tls_cert
        if not tls and settings.fhir_notify_host not in LOOPBACK and not settings.fhir_notify_open:
            raise RefuseToStart(
                "notify-tls-missing",
                "notifications bear a secret and patients' data: set AUSCULT_FHIR_NOTIFY_TLS_CERT and _KEY; where "
                "something in front ends TLS, say so with AUSCULT_FHIR_NOTIFY_OPEN=true",
            )
        self._settings = settings
        self._listener = _listen(settings.fhir_notify_host, settings.fhir_notify_port)
        config = uvicorn.Config(
            app,
            access_log=False,  # a path may name a patient
            log_config=None,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=GRACE,
            backlog=BACKLOG,
            ssl_certfile=tls,
            ssl_keyfile=settings.fhir_notify_tls_key,
            ssl_ca_certs=str(settings.fhir_notify_tls_ca) if settings.fhir_notify_tls_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.fhir_notify_tls_ca else ssl.CERT_NONE,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            self._listener.close()
            raise RefuseToStart(
                "tls-invalid", f"a file of AUSCULT_FHIR_NOTIFY_TLS_… cannot be used ({type(error).__name__})"
            ) from None
        self._server = uvicorn.Server(config)
        self._serving = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="fhir-notifications", daemon=True
        )

    def start(self) -> int:
        """Serve, and return the port."""
        port: int = self._listener.getsockname()[1]
        self._serving.start()
        _log.info("listening for FHIR notifications on port %d", port)
        return port

    def stop(self) -> None:
        """End when the requests in progress are answered."""
        self._server.should_exit = True
        if self._serving.is_alive():
            self._serving.join()
        self._listener.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        raise RefuseToStart(
            "address-unusable",
            f"AUSCULT_FHIR_NOTIFY_HOST and _PORT cannot be bound ({problem.strerror}); free or change them",
        ) from None
    return listener

"""Serves the hooks over HTTP while a thread keeps the card store up to date."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial

import uvicorn

from auscult.bus.contract import Bus
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.card import SmartApp
from auscult.cds_hooks.connections import HookProtocol
from auscult.cds_hooks.feedback import FeedbackDesk
from auscult.cds_hooks.services import Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.trust.clients import LOOPBACK
from auscult.cds_hooks.trust.gate import Gate
from auscult.cds_hooks.trust.replay import ReplayGuard
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

KEEP_ALIVE = 60
"""Seconds an idle connection stays open: an EHR that calls again saves the handshake."""
GRACE = 5
"""Seconds that requests in progress have to end after `stop`."""
BACKLOG = 1024


def run(
    settings: Settings,
    bus: Bus,
    stop: threading.Event,
    on_bound: Callable[[int], None] | None = None,
    services: Callable[[CardStore], Sequence[Service]] = lambda _: (),
) -> None:
    """Serve on `hooks_host`:`hooks_port` until `stop` is set, and return when all requests are answered.

    Port 0 takes a free one; `on_bound` is told the port as soon as connections are accepted.
    RefuseToStart (`address-unusable`) where the address is taken or not ours. In the main thread SIGTERM and
    SIGINT also end it; they are raised again afterwards for the handlers that were set before.
    `services`: gives the pathways' services, which may read the store.
    """
    if not (settings.hooks_clients or settings.hooks_open or settings.hooks_host in LOOPBACK):
        raise RefuseToStart(
            "clients-missing",
            "register the EHRs that may call in AUSCULT_HOOKS_CLIENTS; where something in front of this service "
            "authenticates them, say so with AUSCULT_HOOKS_OPEN=true",
        )
    guard = ReplayGuard(bus) if settings.hooks_clients else None
    gate = Gate(settings, guard)
    listener = _listen(settings.hooks_host, settings.hooks_port)
    store = CardStore(
        settings.hooks_public_url,
        current_days=settings.hooks_current_days,
        app=SmartApp(settings.hooks_smart_app, settings.hooks_smart_label) if settings.hooks_smart_app else None,
        path=settings.hooks_snapshot or settings.home / "cards.snapshot",
    )
    feedback = FeedbackDesk(bus, store)
    app = create_app(store, settings, settings.models, gate, services=services(store), feedback=feedback)
    config = uvicorn.Config(
        app,
        http=partial(HookProtocol, app.endpoints.immediate, app.endpoints.at_once),  # type: ignore[arg-type]  # it is called, and may be any callable
        access_log=False,  # a path or query could carry an identifier
        log_config=None,
        server_header=False,
        date_header=False,  # not required of an answer that nobody may store
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    store.resume()
    saver = threading.Thread(target=store.keep_saved, args=(stop,), name="card-snapshot", daemon=True)
    follower = threading.Thread(target=store.follow, args=(bus, stop), name="card-store", daemon=True)
    ender = threading.Thread(target=_end, args=(server, stop), name="hooks-stop", daemon=True)
    if guard:
        guard.start()
    feedback.start()
    follower.start()
    saver.start()
    ender.start()
    try:
        if on_bound:
            on_bound(listener.getsockname()[1])
        server.run(sockets=[listener])
    finally:
        stop.set()
        listener.close()
        feedback.close()
        follower.join()
        saver.join()
        if guard:
            guard.close()
        ender.join()


def _end(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as problem:
        raise RefuseToStart("address-unusable", f"AUSCULT_HOOKS_HOST cannot be used: {problem.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as problem:
        listener.close()
        raise RefuseToStart(
            "address-unusable",
            f"AUSCULT_HOOKS_PORT {port} cannot be bound ({problem.strerror}); free it or choose another",
        ) from None
    return listener

"""Starts and ends what listens to the record: the notification endpoint, the poller and the HL7 v2 listener."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.routing import Route

from auscult.bus.consume import consume
from auscult.bus.contract import Bus
from auscult.bus.topics import FETCHES
from auscult.listen.fhir_poll import GROUP, Poller
from auscult.listen.fhir_subscription import Desk, Secrets, create_app
from auscult.listen.hl7v2 import Hl7Listener
from auscult.listen.http_server import HttpServer
from auscult.listen.key_set import served_keys
from auscult.listen.marks import Marks
from auscult.listen.messages import MessageStore
from auscult.listen.notifications import Own
from auscult.listen.record import Watch
from auscult.listen.registration import Registrar
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings
from auscult.publish.fhir.keys import public_keys
from auscult.publish.fhir.smart import fhir_client


def own_references(settings: Settings) -> Own:
    """Return which references are the configured FHIR server's."""
    return Own((settings.fhir_base, *settings.fhir_public_bases))


def subscribed(settings: Settings) -> list[Watch]:
    """Return what the FHIR server is asked to notify of."""
    return [Watch.parse(text, "AUSCULT_FHIR_SUBSCRIPTIONS") for text in settings.fhir_subscriptions]


def secrets_of(settings: Settings) -> Secrets:
    """Return the secrets that the FHIR server shows; RefuseToStart where there are none."""
    if settings.fhir_notify_secret_file is None:
        raise RefuseToStart(
            "notify-secret-missing",
            "set AUSCULT_FHIR_NOTIFY_SECRET_FILE: by its secret the FHIR server shows who it is",
        )
    return Secrets(settings.fhir_notify_secret_file)


@contextmanager
def listen_to_record(settings: Settings, bus: Bus, stop: threading.Event) -> Iterator[None]:
    """Take notifications, keep the subscriptions, and poll, where the settings say so. At the end `stop` is set."""
    watches = subscribed(settings)
    polled = [Watch.parse(text, "AUSCULT_FHIR_POLL") for text in settings.fhir_poll]
    served = _served(settings)
    if not watches and not polled and not served:
        yield
        return
    own = own_references(settings)
    with ExitStack() as ending:
        client = ending.enter_context(fhir_client(settings))
        marks = ending.enter_context(Marks(bus, settings.tenant))
        ending.callback(stop.set)
        poller = Poller(settings, bus, client, marks, own)
        every = dict.fromkeys(watches, settings.fhir_reconcile_seconds)
        every |= dict.fromkeys(polled, settings.fhir_poll_seconds)
        threads = [_thread("fhir-poll-clock", lambda: poller.tick(every, stop))]
        threads.append(
            _thread(
                GROUP,
                lambda: consume(
                    bus,
                    FETCHES,
                    group=settings.group(GROUP),
                    handler=poller.handle,
                    source=f"/{settings.tenant}/listen/fhir-poll",
                    max_tries=settings.max_tries,
                    stop=stop,
                ),
            )
        )
        if watches:
            secrets = secrets_of(settings)
            desk = Desk(settings.tenant, bus, marks, own, {watch.name: watch for watch in watches}, secrets)
            registrar = Registrar(settings, client, secrets)
            _serve(settings, create_app(desk, *served), ending)
            threads.append(_thread("fhir-notified", lambda: desk.keep_until(stop)))
            threads.append(_thread("fhir-subscriptions", lambda: registrar.keep(watches, stop)))
        elif served:
            _serve(settings, Starlette(routes=served), ending)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _served(settings: Settings) -> list[Route]:
    """Return what is served to whom has no secret: our public keys, where that is set."""
    if not settings.fhir_smart_serve_keys:
        return []
    if settings.fhir_smart_keys is None:
        raise RefuseToStart(
            "smart-keys-missing", "AUSCULT_FHIR_SMART_SERVE_KEYS needs AUSCULT_FHIR_SMART_KEYS: `auscult fhir keygen`"
        )
    return [served_keys(partial(public_keys, settings.fhir_smart_keys))]


def _serve(settings: Settings, app: Starlette, ending: ExitStack) -> None:
    server = HttpServer(settings, app)
    server.start()
    ending.callback(server.stop)


@contextmanager
def listen_to_messages(settings: Settings, bus: Bus) -> Iterator[None]:
    """Take HL7 v2 messages, where there is a port for them."""
    if settings.hl7_port is None:
        yield
        return
    listener = Hl7Listener(settings, bus, MessageStore(settings.messages))
    listener.start()
    try:
        yield
    finally:
        listener.stop()


def _thread(name: str, run: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=run, name=name, daemon=True)

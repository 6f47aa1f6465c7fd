"""HL7 v2 over MLLP: ADT and ORU messages in, acknowledged when they are kept and their event is on the bus.

AE says that the sender may send again, AR that it need not. Peers are known by their address, and by their
certificate where TLS asks for one. Connections, messages and silence are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import uuid
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from opentelemetry.trace import SpanKind

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.topics import RECORD
from auscult.domain.identity import NAMESPACE, pseudonym
from auscult.listen import messages
from auscult.listen.http_server import LOOPBACK
from auscult.listen.messages import Header, MessageStore, NotTaken
from auscult.listen.mllp import Framer, TooLong, framed
from auscult.listen.record import identified
from auscult.platform import telemetry
from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings

MOST_CONNECTIONS = 64
SILENCE = 600.0
"""Seconds without a byte after which a connection is closed; a block that was begun has PATIENCE."""
PATIENCE = 30.0
MOST_STRAY = 4096
"""Bytes outside of blocks after which the other side speaks no MLLP."""

_log = logging.getLogger(__name__)


class Hl7Listener:
    """Listens until `stop`, in a thread of its own."""

    def __init__(self, settings: Settings, bus: Bus, store: MessageStore) -> None:
        self._settings = settings
        self._bus = bus
        self._store = store
        self._peers = _networks(settings)
        self._tls = _tls(settings)
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._serving = threading.Thread(target=self._serve, name="hl7v2", daemon=True)
        self._bound: list[int] = []
        self._ready = threading.Event()
        self._problem: OSError | None = None

    def start(self) -> int:
        """Listen, and return the port; RefuseToStart where it cannot be had."""
        self._serving.start()
        self._ready.wait()
        if self._problem is not None:
            raise RefuseToStart(
                "hl7-port-unavailable",
                f"cannot listen for HL7 v2 ({type(self._problem).__name__}); set AUSCULT_HL7_HOST and _PORT",
            )
        _log.info("listening for HL7 v2 on port %d%s", self._bound[0], " with TLS" if self._tls else "")
        return self._bound[0]

    def stop(self) -> None:
        """Hang up; what was read to its end is answered before."""
        if self._serving.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._serving.join()

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _run(self) -> None:
        try:
            server = await asyncio.start_server(
                self._connected, self._settings.hl7_host, self._settings.hl7_port, ssl=self._tls
            )
        except OSError as error:
            self._problem = error
            self._ready.set()
            return
        self._bound.append(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stopping.wait()
        server.close()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        address = str(writer.get_extra_info("peername", ("",))[0])
        try:
            if task is None or not self._may_call(address) or len(self._open) >= MOST_CONNECTIONS:
                _log.warning(
                    "a connection for HL7 v2 was refused: its address is not in AUSCULT_HL7_PEERS, or too many"
                )
                return
            self._open.add(task)
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            _log.warning("a connection for HL7 v2 broke")
        finally:
            if task is not None:
                self._open.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer = Framer(self._settings.hl7_max_bytes)
        while (data := await self._next(reader, framer)) is not None:
            try:
                blocks = framer.feed(data)
            except TooLong as long:
                too_long = NotTaken(
                    "hl7-too-long", "the message is longer than is taken here", condition=messages.TYPE
                )
                await self._send(writer, messages.answers(_header(long.begin), too_long))
                return
            for block in blocks:
                await self._send(writer, await asyncio.to_thread(self.take, block))
            if framer.stray > MOST_STRAY:
                _log.warning("a connection for HL7 v2 brought bytes that are not MLLP, it is closed")
                return
        if framer.partial:
            _log.warning("a connection for HL7 v2 ended within a message; its sender sends it again")

    async def _next(self, reader: asyncio.StreamReader, framer: Framer) -> bytes | None:
        """Return what comes; None at the end, after silence, or where we stop."""
        reading = asyncio.ensure_future(reader.read(65536))
        stopping = asyncio.ensure_future(self._stopping.wait())
        done, pending = await asyncio.wait(
            {reading, stopping}, timeout=PATIENCE if framer.partial else SILENCE, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return (reading.result() or None) if reading in done else None

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, answers: list[bytes]) -> None:
        for answer in answers:
            writer.write(framed(answer))
        await asyncio.wait_for(writer.drain(), PATIENCE)

    def take(self, block: bytes) -> list[bytes]:
        """Keep and announce one message; return its answers."""
        header = _header(block)
        with telemetry.span("receive HL7 v2", kind=SpanKind.SERVER) as span:
            try:
                self._check(header)
                message = messages.read(block)
                self._announce(block, message)
            except NotTaken as problem:
                span.set_attribute("answer", problem.reason)
                _log.warning("an HL7 v2 message was not taken: %s", problem)
                return messages.answers(header, problem)
            except Retry as problem:
                _log.error("an HL7 v2 message could not be kept, its sender is told to send it again: %s", problem)
                again = NotTaken(problem.reason, "send it again later", condition=messages.INTERNAL, again=True)
                return messages.answers(header, again)
            return messages.answers(header, None)

    def _check(self, header: Header) -> None:
        if not header.kind:
            raise NotTaken(
                "hl7-no-header", "the message has no MSH segment that can be read", condition=messages.TYPE
            )
        if header.kind not in messages.KINDS:
            known = header.kind.partition("^")[0] in {"ADT", "ORU"}
            raise NotTaken(
                "hl7-unsupported",
                f"taken are {', '.join(sorted(messages.KINDS))}",
                condition=messages.EVENT if known else messages.WRONG_TYPE,
            )
        if header.processing not in self._settings.hl7_processing_ids:
            raise NotTaken("hl7-processing-id", "MSH-11 is not taken here", condition=messages.PROCESSING)
        if not header.control:
            raise NotTaken("hl7-no-control-id", "MSH-10 is missing", condition=messages.MISSING)

    def _announce(self, block: bytes, message: messages.Message) -> None:
        tenant, header = self._settings.tenant, message.header
        name = self._store.put(block)
        told = events.MessageReceived(tenant, name, header.kind)
        event = CloudEvent.of(
            events.MESSAGE_RECEIVED, f"/{tenant}/listen/hl7v2", told, traceparent=telemetry.traceparent()
        )
        identity = f"{tenant}|hl7v2|{header.application}|{header.facility}|{header.control}|{name}"
        first = message.identifiers[0]
        key = f"{tenant}|{pseudonym(tenant, first.value, *first.authorities)}"
        self._bus.publish(RECORD, identified(event, str(uuid.uuid5(NAMESPACE, identity))), key=key)

    def _may_call(self, address: str) -> bool:
        place = ip_address(address.partition("%")[0])
        place = getattr(place, "ipv4_mapped", None) or place
        return not self._peers or any(place in network for network in self._peers)


def _header(block: bytes) -> Header:
    try:
        return messages.header_of(block)
    except NotTaken:
        return Header()


def _networks(settings: Settings) -> list[IPv4Network | IPv6Network]:
    if not settings.hl7_peers and not settings.hl7_tls_ca and settings.hl7_host not in LOOPBACK:
        raise RefuseToStart(
            "hl7-peers-missing",
            "whoever reaches the HL7 v2 port can merge patients: list the senders in AUSCULT_HL7_PEERS, or ask for "
            "their certificates by AUSCULT_HL7_TLS_CA",
        )
    try:
        return [ip_network(peer, strict=False) for peer in settings.hl7_peers]
    except ValueError:
        raise RefuseToStart(
            "settings-invalid", "AUSCULT_HL7_PEERS: write each peer as ADDRESS or NETWORK/BITS"
        ) from None


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.hl7_tls_cert and not settings.hl7_tls_key and not settings.hl7_tls_ca:
        return None
    if not settings.hl7_tls_cert or not settings.hl7_tls_key:
        raise RefuseToStart(
            "tls-invalid", "set AUSCULT_HL7_TLS_CERT and AUSCULT_HL7_TLS_KEY, or none of AUSCULT_HL7_TLS_…"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.hl7_tls_cert, settings.hl7_tls_key)
        if settings.hl7_tls_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(settings.hl7_tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise RefuseToStart(
            "tls-invalid", f"a file of AUSCULT_HL7_TLS_… cannot be used ({type(error).__name__}); they must be PEM"
        ) from None
    return context

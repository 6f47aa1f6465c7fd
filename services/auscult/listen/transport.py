"""The connections below DICOM's associations: bounded in number, time and size, on TLS where it is configured.

pynetdicom's server gathers a PDU of up to 4 GiB before anybody asked for an association, waits as long as its peer
likes, and does TLS handshakes one after the other. This one does not.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from socketserver import BaseServer
from typing import Any, Protocol, cast

from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from auscult.imaging.gate import file_meta
from auscult.imaging.spool import Spool
from auscult.imaging.store import ImageStore
from auscult.listen.pdu import Reader
from auscult.listen.tls import server_context
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

MAX_CONNECTIONS = 48
"""At one time, whether an association was asked for yet or not; one above it is closed: its sender tries again."""
MAX_PER_ADDRESS = MAX_CONNECTIONS // 2
"""Of them from one address, so that one machine cannot lock out all others."""
LARGEST_COMMAND = 64 * 1024
"""Bytes of a DIMSE command set, which has some hundreds."""
LARGEST_IDENTIFIER = 2**20
"""Bytes of a data set that is no object to store: a query, a procedure step."""
MAX_UNANSWERED = 4
"""Requests that may wait for an answer; a peer that negotiated no window sends one (PS3.7, D.3.3.3)."""
ACSE_TIMEOUT = 30.0
"""Seconds for a TLS handshake, for an association to be asked for, and for a connection to be closed."""
LINGER = 1.0
"""Seconds that a rejected peer has to hang up."""
NETWORK_TIMEOUT = 60.0
"""Seconds of silence after which an association is aborted, and for a PDU to come whole."""

_log = logging.getLogger(__name__)


class Handlers(Protocol):
    """What one association is served by."""

    def bind(self, association: Association) -> None:
        """Bind handlers of pynetdicom's events."""

    def negotiating(self, association: Association) -> None:
        """Choose what is offered, now that it is known what the peer asks for."""

    def ended(self, stopping: threading.Event) -> None:
        """Do what is left when the association is gone."""


class Peers:
    """Who may call: entries `AET`, `AET@NETWORK` or `@NETWORK`; nobody listed is everybody."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._allowed: list[tuple[str, IPv4Network | IPv6Network | None]] = []
        for entry in entries:
            title, _, network = entry.partition("@")
            try:
                self._allowed.append((title.strip(), ip_network(network, strict=False) if network else None))
            except ValueError:
                raise RefuseToStart(
                    "settings-invalid",
                    "AUSCULT_DICOM_PEERS: write each peer as AET, AET@ADDRESS, AET@NETWORK/BITS or @NETWORK/BITS",
                ) from None

    def may_connect(self, address: str) -> bool:
        """Whether some peer has this address."""
        return self._any(None, address)

    def may_associate(self, title: str, address: str) -> bool:
        """Whether the peer with this AE title may call from this address."""
        return self._any(title, address)

    def _any(self, title: str | None, address: str) -> bool:
        place = ip_address(address.partition("%")[0])
        place = getattr(place, "ipv4_mapped", None) or place
        return not self._allowed or any(
            (title is None or name in {"", title}) and (network is None or place in network)
            for name, network in self._allowed
        )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the listener's context, certificates on both sides; None where none is set. RefuseToStart."""
    files = settings.dicom_tls_cert, settings.dicom_tls_key, settings.dicom_tls_ca
    return server_context(*files, setting="AUSCULT_DICOM_TLS", mutual=True)


class Server(ThreadedAssociationServer):
    """A thread for each connection; `stop` waits for all of them."""

    peers: Peers
    tls: ssl.SSLContext | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.stopping = threading.Event()
        self._open: Counter[str] = Counter()
        self._counting = threading.Lock()
        super().__init__(*args, **settings)

    def verify_request(self, _request: object, address: Any) -> bool:
        """Whether a new connection is taken."""
        with self._counting:
            few = self._open.total() < MAX_CONNECTIONS and self._open[address[0]] < MAX_PER_ADDRESS
        return few and self.peers.may_connect(address[0])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection, then serve it in a thread of its own."""
        with self._counting:
            self._open[client_address[0]] += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            self.finish_request(request, client_address)
        except Exception as error:  # noqa: BLE001 - one connection must not end the others
            _log.error("a connection ended with an unexpected %s; report it", type(error).__name__)
            self.shutdown_request(request)
        finally:
            with self._counting:
                self._open[client_address[0]] -= 1
                self._open += Counter()

    def service_actions(self) -> None:
        """Leave it to Python when to look for garbage: pynetdicom has all others wait for it."""

    def stop(self) -> None:
        """Accept nothing more, hang up on everybody, wait until each connection's thread is done."""
        BaseServer.shutdown(self)
        self.stopping.set()
        for association in self.active_associations:
            hang_up(association)
        self.server_close()


class Connection(RequestHandler):
    """One connection, from its first byte until all that came over it was dealt with."""

    def __init__(self, *args: Any, store: ImageStore, largest: int, handlers: Callable[[], Handlers]) -> None:
        self._store, self._largest, self._handlers = store, largest, handlers
        self._spools: list[Spool] = []
        super().__init__(*args)

    def handle(self) -> None:
        """Run the association to its end, and do what is left then."""
        server = cast("Server", self.server)
        if server.tls is not None and not self._encrypt(server.tls):
            return
        association = self._create_association()
        handlers = self._handlers()
        handlers.bind(association)
        self.request.settimeout(NETWORK_TIMEOUT)
        _watch(self.request, association)
        self._bound(association)
        self._admit(association, server.peers, handlers)
        association.start()
        if server.stopping.is_set():  # It was not among those that `stop` saw.
            hang_up(association)
        association.join()
        for spool in self._spools:
            spool.close()
        handlers.ended(server.stopping)
        association.dul.join(ACSE_TIMEOUT)
        self._close()

    def _close(self) -> None:
        """Close what pynetdicom leaves open; a rejection is lost where that is done before the peer has read it."""
        with suppress(OSError):
            self.request.settimeout(LINGER)
            while self.request.recv(4096):
                pass
        self.request.close()

    def _encrypt(self, context: ssl.SSLContext) -> bool:
        self.request.settimeout(ACSE_TIMEOUT)
        try:
            self.request = context.wrap_socket(self.request, server_side=True)
        except (OSError, ssl.SSLError) as error:
            _log.warning("a TLS handshake failed (%s)", getattr(error, "reason", None) or type(error).__name__)
            with suppress(OSError):
                self.request.close()
            return False
        return True

    def _admit(self, association: Association, peers: Peers, handlers: Handlers) -> None:
        """Reject who is not listed as `calling AE title not recognised` (PS3.8, 9.3.4)."""
        negotiate = association.acse.negotiate_association

        def checked() -> None:
            asked = association.requestor.primitive
            title = str(getattr(asked, "calling_ae_title", "") or "").strip()
            if peers.may_associate(title, self.client_address[0]):
                handlers.negotiating(association)
                negotiate()
                return
            association.acse.send_reject(0x01, 0x01, 0x03)
            evt.trigger(association, evt.EVT_REJECTED, {})
            association.kill()

        association.acse.negotiate_association = checked  # type: ignore[method-assign]

    def _bound(self, association: Association) -> None:
        """Keep what a peer sends within limits while its message is not whole, and large objects out of memory."""
        dimse = association.dimse
        receive = dimse.receive_primitive

        def bounded(primitive: Any) -> None:
            message = dimse.message
            if message is None:
                self._spools = [spool for spool in self._spools if not spool.closed]
                message = dimse.message = DIMSEMessage()
                spool = Spool(self._store, self._largest, partial(_preface, association, message))
                message.data_set = spool
                self._spools.append(spool)
            try:
                receive(primitive)
            except Exception as error:  # noqa: BLE001 - it would end the thread that reads, and leave the peer waiting
                _log.warning("a peer sent no DIMSE message (%s); its connection is closed", type(error).__name__)
                hang_up(association)
                return
            size = message.data_set.size if isinstance(message.data_set, Spool) else 0
            if (
                message.encoded_command_set.tell() > LARGEST_COMMAND
                or (size > LARGEST_IDENTIFIER and not isinstance(message, C_STORE_RQ))
                or dimse.msg_queue.qsize() > MAX_UNANSWERED
            ):
                _log.warning("a peer sent a longer message, or more of them, than it may; its connection is closed")
                hang_up(association)

        dimse.receive_primitive = bounded  # type: ignore[method-assign]


def _preface(association: Association, message: DIMSEMessage) -> bytes:
    """Return what comes before an object's data set in its file."""
    command = message.command_set
    syntax = association._accepted_cx[cast("int", message.context_id)].transfer_syntax[0]  # noqa: SLF001 - no other way
    return file_meta(command.AffectedSOPClassUID, command.AffectedSOPInstanceUID, UID(syntax))


def _watch(connection: socket.socket, association: Association) -> None:
    """Hold what a connection brings to limits, and wait for nothing more of it when it is closed, by either side."""
    gone, transport = partial(_stop_waiting, association), _transport(association)
    close = transport.close

    def closed() -> None:
        close()
        gone()

    transport.recv = Reader(connection, partial(_patience, association), gone)  # type: ignore[method-assign, assignment]
    transport.close = closed  # type: ignore[method-assign]


def _patience(association: Association) -> float:
    return NETWORK_TIMEOUT if association.is_established else ACSE_TIMEOUT


def hang_up(association: Association) -> None:
    """End an association whatever it is doing, half a PDU and no request yet included; the sender sees an abort."""
    connection = _transport(association).socket
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    _stop_waiting(association)


def _stop_waiting(association: Association) -> None:
    """End pynetdicom's wait for a request, which closing the connection does not end."""
    association.dul.to_user_queue.put(None)


def _transport(association: Association) -> AssociationSocket:
    return cast("AssociationSocket", association.dul.socket)

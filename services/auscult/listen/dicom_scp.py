"""C-STORE and C-ECHO SCP (PS3.4, Annex B and Annex A) on pynetdicom.

Senders are not authenticated, which plain DICOM cannot; the network must do that. Connections, associations and
PDUs are bounded. One object is not: it is gathered in memory, so give the process a memory limit.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from socketserver import BaseServer
from typing import Any, cast

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    AcquisitionContextSRStorage,
    AllTransferSyntaxes,
    BasicTextSRStorage,
    ChestCADSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    KeyObjectSelectionDocumentStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RadiopharmaceuticalRadiationDoseSRStorage,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from auscult.bus.contract import Bus
from auscult.imaging.store import ImageStore
from auscult.listen.reception import Reception
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

MAX_ASSOCIATIONS = 24
"""At one time; a sender above it is rejected as `local limit exceeded` and tries again."""
MAX_CONNECTIONS = 2 * MAX_ASSOCIATIONS
"""TCP connections, with those that did not ask for an association yet; above it they are closed."""
MAX_PDU = 1024 * 1024
"""Bytes of a PDU that we ask for: a CT slice comes in one piece, and little time is spent between pieces."""
LARGEST_PDU = MAX_PDU + 1024
"""Bytes of a PDU that we read, whatever length its sender announces: pynetdicom would gather up to 4 GiB."""
ACSE_TIMEOUT = 30.0
"""Seconds for an association to be asked for, and for a connection to be closed."""
NETWORK_TIMEOUT = 60.0
"""Seconds of silence after which an association is aborted, and a PDU that stopped halfway is given up."""

VERIFICATION = UID("1.2.840.10008.1.1")
"""The SOP class of C-ECHO (PS3.4, A.4)."""
STORAGE_CLASSES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    PositronEmissionTomographyImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    SegmentationStorage,
    RTStructureSetStorage,
    RTDoseStorage,
    RTPlanStorage,
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    ExtensibleSRStorage,
    KeyObjectSelectionDocumentStorage,
    ChestCADSRStorage,
    XRayRadiationDoseSRStorage,
    RadiopharmaceuticalRadiationDoseSRStorage,
    AcquisitionContextSRStorage,
)

# These handlers write identifiers, and spend time on each PDU even where nobody reads what they write.
_config.LOG_HANDLER_LEVEL = "none"

_log = logging.getLogger(__name__)


def transfer_syntaxes() -> list[UID]:
    """Return what this installation can decode, as pydicom says. Deflated data sets the image store does not take."""
    found = []
    for syntax in AllTransferSyntaxes:
        try:
            decodable = get_decoder(syntax).is_available
        except NotImplementedError:
            continue
        if decodable and not syntax.is_deflated:
            found.append(syntax)
    return found


class DicomScp:
    """Receives DICOM objects until `stop`; only senders that call us by our AE title."""

    def __init__(self, settings: Settings, bus: Bus, store: ImageStore) -> None:
        self._settings = settings
        self._receive = partial(Reception, settings.tenant, bus, store)
        self._server: _Server | None = None
        self._serving = threading.Thread(target=self._serve, name="dicom-scp", daemon=True)

    def start(self) -> int:
        """Listen, in threads of its own, and return the port; RefuseToStart where it cannot be had."""
        ae = ApplicationEntity(self._settings.ae_title)
        ae.require_called_aet = True
        ae.maximum_associations = MAX_ASSOCIATIONS
        ae.maximum_pdu_size = MAX_PDU
        ae.acse_timeout = ACSE_TIMEOUT
        ae.dimse_timeout = NETWORK_TIMEOUT
        ae.network_timeout = NETWORK_TIMEOUT
        ae.add_supported_context(VERIFICATION)
        syntaxes = transfer_syntaxes()
        for storage_class in STORAGE_CLASSES:
            ae.add_supported_context(storage_class, syntaxes)
        address = (self._settings.dicom_host, self._settings.dicom_port)
        try:
            server = ae.make_server(
                address, server_class=_Server, request_handler=partial(_Connection, receive=self._receive)
            )
        except OSError as error:
            raise RefuseToStart(
                "dicom-port-unavailable",
                f"cannot listen for DICOM ({type(error).__name__}); set AUSCULT_DICOM_HOST and AUSCULT_DICOM_PORT "
                "to an address of this machine that no other program uses",
            ) from None
        self._server = cast("_Server", server)
        self._serving.start()
        port = int(self._server.server_address[1])
        _log.info("listening for DICOM as %s on port %d", self._settings.ae_title, port)
        return port

    def stop(self) -> None:
        """Hang up, and return when what each connection brought was dealt with to its end."""
        if self._server is None:
            return
        self._server.stop()
        self._serving.join()

    def _serve(self) -> None:
        if self._server is not None:
            self._server.serve_forever(poll_interval=0.1)


class _Server(ThreadedAssociationServer):
    """A thread for each connection; `server_close` waits for all of them."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.stopping = threading.Event()
        super().__init__(*args, **settings)

    def verify_request(self, _request: object, _address: object) -> bool:
        """Whether a new connection is taken."""
        return len(self.active_associations) < MAX_CONNECTIONS

    def stop(self) -> None:
        """Accept nothing more, hang up on everybody, wait until each connection's thread is done."""
        BaseServer.shutdown(self)
        self.stopping.set()
        for association in self.active_associations:
            _hang_up(association)
        self.server_close()


class _Connection(RequestHandler):
    """One connection, from its first byte until all that came over it was dealt with."""

    def __init__(self, *args: Any, receive: Callable[[], Reception]) -> None:
        self._receive = receive
        super().__init__(*args)

    def handle(self) -> None:
        """Run the association and tell its end: a release at once, any other end when its thread is done."""
        association = self._create_association()
        reception = self._receive()
        association.bind(evt.EVT_C_STORE, reception.on_store)
        association.bind(evt.EVT_RELEASED, reception.on_released)
        self.request.settimeout(NETWORK_TIMEOUT)
        _transport(association).recv = partial(_read, self.request)  # type: ignore[method-assign]
        association.start()
        stopping = cast("_Server", self.server).stopping
        if stopping.is_set():  # It was not among those that `stop` saw.
            _hang_up(association)
        association.join()
        reception.end(aborted=True)
        reception.tell_the_rest(stopping)


def _read(connection: socket.socket, size: int) -> bytearray:
    """Read `size` bytes, fewer where the peer closes the connection; OSError where no PDU may be that long."""
    if size > LARGEST_PDU:
        connection.shutdown(socket.SHUT_RDWR)
        raise OSError("a peer announced a longer PDU than was negotiated")
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if not count:
            return data[:filled]
        filled += count
    return data


def _hang_up(association: Association) -> None:
    """End an association whatever it is doing, half a PDU and no request yet included; the sender sees an abort."""
    connection = _transport(association).socket
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    # What pynetdicom takes for the end of its wait for a request, which closing the connection does not end.
    association.dul.to_user_queue.put(None)


def _transport(association: Association) -> AssociationSocket:
    return cast("AssociationSocket", association.dul.socket)

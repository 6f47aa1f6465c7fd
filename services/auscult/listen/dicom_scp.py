"""C-STORE, C-ECHO, C-FIND, C-MOVE, C-GET, MPPS and IAN SCP (PS3.4, Annexes B, A, C, F and R) on pynetdicom.

Who sends is known where TLS asks for certificates (`AUSCULT_DICOM_TLS_…`); AE titles and addresses
(`AUSCULT_DICOM_PEERS`) are what plain DICOM has. Connections, associations, PDUs and objects are bounded.
"""

from __future__ import annotations

import logging
import ssl
import threading
from functools import partial
from typing import Any, cast

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import AllStoragePresentationContexts

from auscult.bus.contract import Bus
from auscult.imaging.store import ImageStore
from auscult.listen.archive import Archive
from auscult.listen.pdu import MAX_PDU
from auscult.listen.procedure_step import AVAILABILITY, PERFORMED_STEP, ProcedureSteps
from auscult.listen.query_retrieve import FIND, GET, MOVE, QueryRetrieve, preferred
from auscult.listen.reception import Reception
from auscult.listen.transport import (
    ACSE_TIMEOUT,
    MAX_CONNECTIONS,
    NETWORK_TIMEOUT,
    Connection,
    Peers,
    Server,
    tls_context,
)
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings

VERIFICATION = UID("1.2.840.10008.1.1")
"""The SOP class of C-ECHO (PS3.4, A.4)."""
STORAGE_CLASSES = tuple(
    uid
    for context in AllStoragePresentationContexts
    if (uid := UID(context.abstract_syntax or "")) != MediaStorageDirectoryStorage
)
"""All that the standard knows: a PACS that forwards a study fails as a whole where one of its objects is rejected."""

# These handlers write identifiers, and spend time on each PDU even where nobody reads what they write.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
# An instance whose UID is too long is refused by name: without this the whole association would be aborted.
_config.VALIDATORS["UI"] = lambda value: (bool(value), "must not be empty")

_log = logging.getLogger(__name__)


def transfer_syntaxes() -> list[UID]:
    """Return what this installation can decode, as pydicom says; what a peer offers of it is taken in this order."""
    found = [ExplicitVRLittleEndian]
    for syntax in AllTransferSyntaxes:
        try:
            decodable = get_decoder(syntax).is_available
        except NotImplementedError:
            continue
        if decodable and not syntax.is_deflated and syntax not in found:
            found.append(syntax)
    return [*found, DeflatedExplicitVRLittleEndian]


class DicomScp:
    """Receives DICOM objects until `stop`; only from senders that call us by our AE title."""

    def __init__(self, settings: Settings, bus: Bus, store: ImageStore) -> None:
        self._settings = settings
        self._store = store
        archive = Archive(store, settings.tenant)
        self._handlers = partial(_Handlers, settings, bus, store, archive)
        self._server: Server | None = None
        self._serving = threading.Thread(target=self._serve, name="dicom-scp", daemon=True)

    def start(self) -> int:
        """Listen, in threads of its own, and return the port; RefuseToStart where it cannot be had."""
        peers, tls = Peers(self._settings.dicom_peers), tls_context(self._settings)
        ae = ApplicationEntity(self._settings.ae_title)
        ae.require_called_aet = True
        ae.maximum_associations = MAX_CONNECTIONS
        ae.maximum_pdu_size = MAX_PDU
        ae.acse_timeout = ACSE_TIMEOUT
        ae.dimse_timeout = NETWORK_TIMEOUT
        ae.network_timeout = NETWORK_TIMEOUT
        ae.add_supported_context(VERIFICATION)
        syntaxes = transfer_syntaxes()
        # With both roles, as the requestor of a C-GET is the SCP of what it gets (PS3.4, C.5.3).
        for storage_class in STORAGE_CLASSES:
            ae.add_supported_context(storage_class, syntaxes, scu_role=True, scp_role=True)
        for service in (PERFORMED_STEP, AVAILABILITY):
            ae.add_supported_context(service, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        if self._known_peers(tls):
            for service in (*FIND, *MOVE, *GET):
                ae.add_supported_context(service, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        else:
            _log.warning("queries are not answered: set AUSCULT_DICOM_PEERS or TLS, so that it is known who asks")
        address = (self._settings.dicom_host, self._settings.dicom_port)
        handler = partial(
            Connection, store=self._store, largest=self._settings.max_object_bytes, handlers=self._handlers
        )
        try:
            server = ae.make_server(address, server_class=Server, request_handler=handler)
        except OSError as error:
            raise RefuseToStart(
                "dicom-port-unavailable",
                f"cannot listen for DICOM ({type(error).__name__}); set AUSCULT_DICOM_HOST and AUSCULT_DICOM_PORT "
                "to an address of this machine that no other program uses",
            ) from None
        self._server = cast("Server", server)
        self._server.peers, self._server.tls = peers, tls
        self._server.contexts = _Shared(self._server.contexts)
        self._serving.start()
        port = int(self._server.server_address[1])
        _log.info("listening for DICOM as %s on port %d%s", self._settings.ae_title, port, " with TLS" if tls else "")
        return port

    def _known_peers(self, tls: ssl.SSLContext | None) -> bool:
        """Whether it is known who asks: what is stored is not for everybody who can reach the port."""
        return (
            tls is not None or bool(self._settings.dicom_peers) or self._settings.dicom_host in {"127.0.0.1", "::1"}
        )

    def stop(self) -> None:
        """Hang up, and return when what each connection brought was dealt with to its end."""
        if self._server is None:
            return
        self._server.stop()
        self._serving.join()

    def _serve(self) -> None:
        if self._server is not None:
            self._server.serve_forever(poll_interval=0.1)


class _Shared(list[Any]):
    """Presentation contexts that all associations read; pynetdicom would copy two thousand objects for each."""

    def __deepcopy__(self, memo: object) -> _Shared:
        return self


class _Handlers:
    """One association's services."""

    def __init__(self, settings: Settings, bus: Bus, store: ImageStore, archive: Archive) -> None:
        self._queries = QueryRetrieve(archive, settings.dicom_destinations)
        self._reception = Reception(settings.tenant, bus, store)
        self._steps = ProcedureSteps(settings.tenant, bus, store)

    def bind(self, association: Association) -> None:
        association.bind(evt.EVT_C_STORE, self._reception.on_store)
        association.bind(evt.EVT_RELEASED, self._reception.on_released)
        self._queries.bind(association)
        self._steps.bind(association)

    def negotiating(self, association: Association) -> None:
        preferred(association)

    def ended(self, stopping: threading.Event) -> None:
        """Tell the end of the association: a release was told at once, any other end when its thread is done."""
        self._reception.end(aborted=True)
        self._reception.tell_the_rest(stopping)

"""What hostile peers do to connections costs them theirs, and nobody else's."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import AllTransferSyntaxes, CTImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from auscult.bus import events, topics
from auscult.bus.sqlite import SqliteBus
from auscult.imaging.store import ImageStore
from auscult.listen import transport
from auscult.listen.dicom_scp import STORAGE_CLASSES, VERIFICATION, DicomScp
from auscult.listen.pdu import MOST_VALUES
from auscult.listen.transport import Peers
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings
from certificates import Authority
from dicom_sender import PATIENCE, associate, associated, take
from hostile_dicom import Hostile, objects

# pynetdicom's requestor leaves a socket unclosed where its peer was the first to close.
pytestmark = [
    pytest.mark.golden,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@contextmanager
def listening(settings: Settings, bus: SqliteBus, store: ImageStore) -> Iterator[int]:
    """Run a listener and give its port."""
    scp = DicomScp(settings, bus, store)
    try:
        yield scp.start()
    finally:
        scp.stop()


def echoes(port: int) -> bool:
    """Whether others are served."""
    with associated(port) as association:
        return bool(association.send_c_echo().Status == 0)


def closed(peer: socket.socket) -> bool:
    """Wait until the other side has closed the connection."""
    peer.settimeout(PATIENCE)
    try:
        while peer.recv(4096):
            pass
    except ConnectionError:
        return True
    return True


def test_256_mib_announced_before_an_association_end_the_connection(port: int) -> None:
    """Not a byte of them is waited for."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"\x01\x00" + (256 * 2**20).to_bytes(4, "big") + bytes(100))
        assert closed(peer)
    assert echoes(port)


@pytest.mark.parametrize("first", [b"\x01", b"\x01\x00\x00\x00\x10\x00"])
def test_a_request_that_trickles_ends_the_connection(
    port: int, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not keep a connection open."""
    monkeypatch.setattr(transport, "ACSE_TIMEOUT", 0.3)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(first)
        gone = threading.Event()

        def trickle() -> None:
            try:
                while not gone.wait(0.05):
                    peer.sendall(b"\0")
            except OSError:
                return

        thread = threading.Thread(target=trickle)
        thread.start()
        assert closed(peer)
        gone.set()
        thread.join()


def test_connections_from_one_address_are_few(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is closed at once, and when one is gone there is room again."""
    monkeypatch.setattr(transport, "MAX_PER_ADDRESS", 3)
    with ExitStack() as idle:
        for _ in range(3):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        with socket.create_connection(("127.0.0.1", port)) as one_more:
            assert closed(one_more)
    end = time.monotonic() + PATIENCE
    while not (association := associate(port)).is_established:
        assert time.monotonic() < end
    association.release()


def raw(association: Association, pieces: list[tuple[int, bytes]], times: int) -> None:
    """Send P-DATA until the peer hangs up."""
    for _ in range(times):
        if not association.is_established:
            return
        data = P_DATA()
        data.presentation_data_value_list = [[1, bytes([control]) + piece] for control, piece in pieces]
        association.dul.send_pdu(data)


@contextmanager
def cut_off(port: int) -> Iterator[Association]:
    """Give an association over which raw P-DATA is sent, and wait until its other side has closed it."""
    association = associate(port)
    assert association.is_established
    yield association
    association.join(PATIENCE)
    assert not association.is_established


def test_a_command_set_without_end_is_cut_off(port: int) -> None:
    """A command set has a few hundred bytes."""
    with cut_off(port) as association:
        raw(association, [(1, bytes(16000))], 40)
    assert echoes(port)


@pytest.mark.parametrize("command", [b"", b"\x00" * 10, b"\x00\x00\x00\x01\x02\x00\x00\x00\x77\x77"])
def test_what_is_no_command_set_ends_the_connection(port: int, command: bytes) -> None:
    """Nobody waits for an answer that cannot come."""
    with cut_off(port) as association:
        raw(association, [(3, command)], 1)
    assert echoes(port)


def test_requests_that_do_not_await_their_answer_are_cut_off(
    settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No asynchronous window is negotiated, so that they would only fill the memory."""
    busy, asked = threading.Event(), threading.Event()

    def slow(*_: object) -> int:
        asked.set()
        assert busy.wait(PATIENCE)
        return 0

    monkeypatch.setattr("auscult.listen.reception.Reception.on_store", slow)
    with listening(settings, bus, store) as port:
        with cut_off(port) as association:
            request = C_STORE()
            request.MessageID, request.Priority = 1, 0
            request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
            context = next(
                cx.context_id for cx in association.accepted_contexts if cx.abstract_syntax == CTImageStorage
            )
            for _ in range(transport.MAX_UNANSWERED + 3):
                request.DataSet = BytesIO(b"xx")
                association.dimse.send_msg(request, context)
            assert asked.wait(PATIENCE)
        busy.set()
        assert echoes(port)


def test_only_listed_peers_may_call(settings: Settings, bus: SqliteBus, store: ImageStore) -> None:
    """By title and by address."""
    for peers, served in (
        (("MODALITY@127.0.0.1",), True),
        (("OTHER@127.0.0.1",), False),
        (("MODALITY@10.0.0.0/8", "OTHER"), False),
    ):
        with listening(settings.model_copy(update={"dicom_peers": peers}), bus, store) as port:
            association = associate(port)
            assert (association.is_established, association.is_rejected) == (served, not served)
            if served:
                association.release()


def test_peers_are_titles_and_networks() -> None:
    """Either may be left out; an IPv4 address may come in IPv6's clothes."""
    peers = Peers(("CT", "PACS@10.0.0.0/8", "@192.168.1.5", "SIX@fd00::/8"))
    assert peers.may_associate("CT", "172.16.0.1")
    assert peers.may_associate("PACS", "::ffff:10.1.2.3")
    assert peers.may_associate("ANY", "192.168.1.5")
    assert peers.may_associate("SIX", "fd00::1%eth0")
    assert not peers.may_associate("PACS", "11.1.2.3")
    assert not Peers(("PACS@10.0.0.0/8",)).may_connect("11.1.2.3")
    assert Peers(()).may_connect("11.1.2.3")


def test_a_peer_that_is_no_address_refuses_to_start() -> None:
    """The setting is named."""
    with pytest.raises(RefuseToStart, match="AUSCULT_DICOM_PEERS"):
        Peers(("PACS@somewhere",))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority that both sides trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


def with_tls(settings: Settings, authority: Authority) -> Settings:
    """Return settings of a listener with TLS."""
    certificate, key = authority.issue("listener")
    return settings.model_copy(
        update={"dicom_tls_cert": certificate, "dicom_tls_key": key, "dicom_tls_ca": authority.certificate}
    )


def over_tls(port: int, context: ssl.SSLContext) -> Association:
    """Ask for an association over TLS."""
    ae = AE("MODALITY")
    ae.add_requested_context(VERIFICATION)
    return ae.associate("127.0.0.1", port, ae_title="AUSCULT", tls_args=(context, "127.0.0.1"))


def test_tls_asks_for_a_certificate_of_its_authority(
    settings: Settings, bus: SqliteBus, store: ImageStore, authority: Authority, tmp_path: Path
) -> None:
    """A peer with one is served; without one, with a stranger's, or in plain text it is not."""
    with listening(with_tls(settings, authority), bus, store) as port:
        with socket.create_connection(("127.0.0.1", port)):  # A handshake that never comes holds up nobody.
            context = ssl.create_default_context(cafile=str(authority.certificate))
            context.load_cert_chain(*authority.issue("modality"))
            association = over_tls(port, context)
            assert association.send_c_echo().Status == 0
            association.release()
        for issuer in (Authority(tmp_path, "stranger"), None):
            context = ssl.create_default_context(cafile=str(authority.certificate))
            if issuer is not None:
                context.load_cert_chain(*issuer.issue("modality"))
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                pytest.raises(ssl.SSLError),
                context.wrap_socket(plain, server_hostname="127.0.0.1") as peer,
            ):
                peer.recv(1)
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"\x01\x00\x00\x00\x00\x44" + bytes(68))
            assert closed(plain)


def test_half_of_the_tls_settings_refuses_to_start(settings: Settings, bus: SqliteBus, store: ImageStore) -> None:
    """TLS that nobody is asked a certificate for is not what was meant."""
    half = settings.model_copy(update={"dicom_tls_cert": Path("cert.pem")})
    with pytest.raises(RefuseToStart, match="AUSCULT_DICOM_TLS_CA"):
        DicomScp(half, bus, store).start()


def sent(port: int, hostile: Hostile) -> int:
    """C-STORE a hostile object and return the status."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = hostile.sop_class, hostile.sop_instance
    request.DataSet = BytesIO(hostile.data_set)
    ae = AE("MODALITY")
    ae.add_requested_context(hostile.sop_class, hostile.syntax)
    ae.acse_timeout = ae.dimse_timeout = PATIENCE
    association = ae.associate("127.0.0.1", port, ae_title="AUSCULT")
    try:
        association._reactor_checkpoint.clear()  # As pynetdicom's own requests do, or its thread takes the answer.
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        assert answer is not None, hostile.name
        return int(answer.Status)
    finally:
        association._reactor_checkpoint.set()
        association.release()


@pytest.mark.golden
def test_hostile_objects_are_answered_and_nothing_is_lost(port: int, bus: SqliteBus, store: ImageStore) -> None:
    """Each gets its status; what was acknowledged is stored and announced, the rest has an outcome; all go on."""
    wanted = [each for each in objects() if len(each.data_set) > 0 and each.sop_instance]
    taken = {each.name for each in wanted if sent(port, each) == 0}
    assert taken == {each.name for each in wanted if not each.reasons}
    announced = [
        delivery.event.payload(events.InstanceStored)
        for delivery in take(bus, topics.INSTANCES, 2 * len(taken))
        if delivery.event.type == events.INSTANCE_STORED
    ]
    assert len(announced) == len(taken)
    for told in announced:
        assert store.path("site", told.study_uid, told.series_uid, told.sop_instance_uid).exists()
    refused = [delivery.event.payload(events.Outcome).reason for delivery in take(bus, topics.OUTCOMES, 1)]
    assert len(refused) == len(wanted) - len(taken)
    assert set(refused) <= {reason for each in wanted for reason in each.reasons}
    assert echoes(port)


def request_of(items: bytes) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU with these items."""
    body = struct.pack(">Hxx16s16s32x", 1, b"AUSCULT".ljust(16), b"MODALITY".ljust(16)) + items
    return struct.pack(">BxL", 1, len(body)) + body


@pytest.mark.parametrize(
    "items",
    [
        bytes([0x20, 0, 0, 4, 1, 0, 0, 0]) * 10_000,
        (b"\x20\x00\xff\xf0" + bytes(4) + b"\x40\x00\x00\x00" * 16_379) * 2,
        (b"\x50\x00\xff\xfc" + b"\x56\x00\x00\x00" * 16_383) * 2,
        bytes(300 * 1024),
    ],
    ids=["contexts", "transfer syntaxes", "user items", "bytes"],
)
def test_a_request_of_more_parts_than_any_ends_the_connection(port: int, items: bytes) -> None:
    """Decoded it would take a thousand times the memory of one that is meant."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(request_of(items))
        assert closed(peer)
    assert echoes(port)


def test_a_pdu_of_many_values_ends_the_connection(port: int) -> None:
    """Senders put one or two into a PDU."""
    with cut_off(port) as association:
        raw(association, [(0, b"x")] * (MOST_VALUES + 1), 1)
    assert echoes(port)


def test_a_request_for_all_there_is_is_accepted(port: int) -> None:
    """128 presentation contexts, each with all transfer syntaxes of the standard."""
    ae = AE("MODALITY")
    for storage_class in STORAGE_CLASSES[:128]:
        ae.add_requested_context(storage_class, AllTransferSyntaxes)
    association = ae.associate("127.0.0.1", port, ae_title="AUSCULT")
    assert len(association.accepted_contexts) == 128
    association.release()

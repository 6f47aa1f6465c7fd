"""A PACS over DIMSE, as pynetdicom plays it: what it answers becomes success, another try or a dead letter."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from auscult.domain.deadline import Deadline
from auscult.entrypoints.demo.processes import free_port
from auscult.platform.errors import DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings
from auscult.publish.pacs.dimse import Dimse
from certificates import Authority
from dicom_factory import ct_series

# pynetdicom leaves the socket of a refused connection to the collector.
pytestmark = [
    pytest.mark.golden,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning", "ignore:Exception ignored in. <s"),
]
SLICES = ct_series((2, 4, 4))
UIDS = [str(dataset.SOPInstanceUID) for dataset in SLICES]
STUDY = str(SLICES[0].StudyInstanceUID)


@dataclass
class Scp:
    """A PACS in a thread. `status`: of each C-STORE; `committed`: the event type of its commitment reports."""

    held: dict[str, Dataset] = field(default_factory=dict)
    status: int = 0
    committed: int = 1
    port: int = 0
    commitment_port: int = 0

    def on_store(self, event: Any) -> int:
        """Keep it, where the status says so."""
        if self.status == 0:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.held[str(dataset.SOPInstanceUID)] = dataset
        return self.status

    def on_find(self, event: Any) -> Iterator[Any]:
        """Tell of what is held."""
        if event.identifier.SOPInstanceUID in self.held:
            yield 0xFF00, event.identifier

    def on_get(self, event: Any) -> Iterator[Any]:
        """Give what is held."""
        found = [self.held[uid] for uid in [str(event.identifier.SOPInstanceUID)] if uid in self.held]
        yield len(found)
        for dataset in found:
            yield 0xFF00, dataset

    def on_action(self, event: Any) -> tuple[int, None]:
        """Promise an answer."""
        threading.Thread(target=self.report, args=(event.action_information.TransactionUID,)).start()
        return 0, None

    def report(self, transaction: str) -> None:
        """Tell, on an association of its own, what became of a commitment."""
        entity = AE("PACS")
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate("127.0.0.1", self.commitment_port, ext_neg=[role])
        told = Dataset()
        told.TransactionUID = transaction
        association.send_n_event_report(told, self.committed, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        association.release()


@pytest.fixture
def scp() -> Iterator[Scp]:
    """Run a PACS."""
    pacs = Scp(commitment_port=free_port())
    entity = AE("PACS")
    entity.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StorageCommitmentPushModel,
    ):
        entity.add_supported_context(model)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, pacs.on_store),
        (evt.EVT_C_FIND, pacs.on_find),
        (evt.EVT_C_GET, pacs.on_get),
        (evt.EVT_N_ACTION, pacs.on_action),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    pacs.port = server.socket.getsockname()[1]
    yield pacs
    server.shutdown()


@pytest.fixture
def pacs(scp: Scp) -> Iterator[Dimse]:
    """Return a client that asks for commitment."""
    url = f"dicom://PACS@127.0.0.1:{scp.port}"
    client = Dimse(Settings(pacs_url=url, pacs_commitment_port=scp.commitment_port, pacs_timeout=10))
    yield client
    client.close()


def test_what_is_stored_is_held_and_comes_back(pacs: Dimse, scp: Scp) -> None:
    """C-FIND tells the instances, C-GET gives them, and the PACS committed itself."""
    assert pacs.held(STUDY, UIDS, Deadline.after(5)) == set()
    with pytest.raises(Retry, match="pacs-missing"):
        pacs.retrieve(SLICES[0], Deadline.after(5))
    pacs.store(SLICES, Deadline.after(5))
    assert sorted(scp.held) == sorted(UIDS)
    assert pacs.held(STUDY, UIDS, Deadline.after(5)) == set(UIDS)
    assert pacs.retrieve(SLICES[1], Deadline.after(5)) == SLICES[1]


@pytest.mark.parametrize(
    ("status", "error"),
    [(0x0111, None), (0xB000, None), (0xA700, Retry), (0x0110, Retry), (0xA900, DeadLetter), (0xC001, DeadLetter)],
)
def test_statuses_say_what_happens_next(pacs: Dimse, scp: Scp, status: int, error: type[Exception] | None) -> None:
    """Duplicates and warnings are stored; out of resources passes; what is refused goes to an operator."""
    scp.status = status
    if error is None:
        pacs.store(SLICES, Deadline.after(5))
    else:
        with pytest.raises(error, match=f"0x{status:04X}"):
            pacs.store(SLICES, Deadline.after(5))


def test_a_commitment_that_fails_is_tried_again(pacs: Dimse, scp: Scp) -> None:
    """The PACS does not promise to keep all."""
    scp.committed = 2
    with pytest.raises(Retry, match="pacs-not-committed"):
        pacs.store(SLICES, Deadline.after(5))


def test_a_class_that_is_not_taken_goes_to_an_operator(pacs: Dimse) -> None:
    """It is named."""
    report = Dataset()
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    with pytest.raises(DeadLetter, match="Comprehensive 3D SR"):
        pacs.store([report], Deadline.after(5))


def test_a_pacs_that_is_away_is_tried_again() -> None:
    """Nobody listens."""
    client = Dimse(Settings(pacs_url=f"dicom://PACS@127.0.0.1:{free_port()}"))
    with pytest.raises(Retry, match="pacs-unavailable"):
        client.store(SLICES, Deadline.after(5))


@pytest.mark.parametrize("url", ["dicom://127.0.0.1:104", "dicom://PACS@127.0.0.1", "dicom://PACS@:104"])
def test_an_address_that_cannot_be_one_stops_the_start(url: str) -> None:
    """AE title, host and port are needed."""
    with pytest.raises(RefuseToStart, match="AET@host:port"):
        Dimse(Settings(pacs_url=url))


def test_over_tls_both_show_who_they_are(tmp_path: Path) -> None:
    """With certificates of one authority objects are stored; a PACS of another one gets nothing."""
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = authority.issue("sender")
    for issuer in (authority, other):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*issuer.issue("pacs"))
        kept = Scp()
        entity = AE("PACS")
        entity.add_supported_context(CTImageStorage)
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_C_STORE, kept.on_store)]
        )
        assert server is not None
        url = f"dicoms://PACS@127.0.0.1:{server.socket.getsockname()[1]}"
        tls = {"pacs_tls_ca": authority.certificate, "pacs_tls_cert": certificate, "pacs_tls_key": key}
        client = Dimse(Settings(pacs_url=url, pacs_timeout=10, **tls))
        if issuer is authority:
            client.store(SLICES, Deadline.after(10))
        else:
            with pytest.raises(Retry, match="pacs-unavailable"):
                client.store(SLICES, Deadline.after(10))
        assert len(kept.held) == (len(SLICES) if issuer is authority else 0)
        server.shutdown()


def test_certificates_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    """The settings are named."""
    with pytest.raises(RefuseToStart, match="AUSCULT_PACS_TLS_CA"):
        Dimse(Settings(pacs_url="dicoms://PACS@127.0.0.1:104", pacs_tls_ca=tmp_path / "absent.pem"))

"""Storage commitment (PS3.4, J): the PACS says that it keeps what it was sent, mostly on its own association."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from auscult.platform.errors import Retry
from auscult.platform.settings import Settings
from auscult.publish.dicom_modules import references

INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known Storage Commitment Push Model SOP Instance."""
REQUEST = 1
"""Action type: request storage commitment."""
ALL_COMMITTED = 1
"""Event type: all that was asked for is kept."""

_log = logging.getLogger(__name__)


class Commitment:
    """Asks, and listens on `pacs_commitment_port` for the answers, under `pacs_ae_title`."""

    classes = (StorageCommitmentPushModel,)

    def __init__(self, settings: Settings) -> None:
        self._answers: dict[str, int] = {}
        self._answered = threading.Condition()
        entity = AE(settings.pacs_ae_title)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        address = (settings.dicom_host, settings.pacs_commitment_port)
        self._server = entity.start_server(
            address, block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)]
        )

    def ask(self, association: Association, datasets: Sequence[Dataset], patience: float) -> None:
        """Ask for commitment and wait for the answer.

        Retry where the PACS says that it does not keep all. One that does not offer commitment, or does not answer
        within `patience` seconds, is told of in the log: what it has is read back and compared in any case.
        """
        if not association.accepted_contexts:
            _log.warning("the PACS does not offer storage commitment; what it holds is read back instead")
            return
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = references(datasets)
        status, _ = association.send_n_action(request, REQUEST, StorageCommitmentPushModel, INSTANCE)
        if status.get("Status") != 0:
            _log.warning("the PACS declined storage commitment; what it holds is read back instead")
            return
        with self._answered:
            self._answered.wait_for(lambda: request.TransactionUID in self._answers, patience)
            event = self._answers.pop(request.TransactionUID, None)
        if event is None:
            _log.warning("the PACS has not answered a storage commitment request; what it holds is read back instead")
        elif event != ALL_COMMITTED:
            raise Retry("pacs-not-committed", "the PACS does not commit itself to keeping all that it was sent")

    def close(self) -> None:
        """Free the port."""
        if self._server is not None:
            self._server.shutdown()

    def _on_report(self, event: Any) -> tuple[int, None]:
        with self._answered:
            self._answers[str(event.event_information.TransactionUID)] = event.event_type
            self._answered.notify_all()
        return 0, None

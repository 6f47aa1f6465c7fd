"""A PACS that speaks DIMSE (PS3.4): C-STORE to store, C-FIND to ask, C-GET to read back where it offers it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import SpanKind
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from auscult.domain.deadline import Deadline
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter
from auscult.platform.settings import Settings
from auscult.publish.pacs.archive import Address, failed, missing, tls, unavailable
from auscult.publish.pacs.commitment import Commitment

PENDING = 0xFF
"""High byte of the status of an answer that is not the last."""
FAILED = 0xC000
"""Stands for an answer without a status: the association broke."""
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]

Handlers = list[Any]


class Dimse:
    """One DICOM application entity. An association is made for each call."""

    def __init__(self, settings: Settings) -> None:
        self._title, self._host, self._port = Address.parse(settings.pacs_url)
        self._tls = (tls(settings), self._host) if settings.pacs_url.startswith("dicoms:") else None
        self._calling = settings.pacs_ae_title
        self._timeout = settings.pacs_timeout
        self._commitment = Commitment(settings) if settings.pacs_commitment_port else None

    def held(self, study_uid: str, instances: Collection[str], deadline: Deadline) -> set[str]:
        """Ask for each instance by C-FIND; none where the PACS does not offer it."""
        found = set()
        model = StudyRootQueryRetrieveInformationModelFind
        with self._associated("C-FIND", deadline, [model]) as association:
            if not association.accepted_contexts:
                return set()
            for uid in instances:
                query = Dataset()
                query.QueryRetrieveLevel = "IMAGE"
                query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = study_uid, "", uid
                for status, answer in association.send_c_find(query, model):
                    if (
                        int(status.get("Status", 0)) >> 8 == PENDING
                        and answer
                        and answer.get("SOPInstanceUID") == uid
                    ):
                        found.add(uid)
        return found

    def store(self, datasets: Sequence[Dataset], deadline: Deadline) -> None:
        """Send all in one association; then ask for storage commitment, where a port for its answer is set."""
        classes = sorted({str(dataset.SOPClassUID) for dataset in datasets})
        with self._associated("C-STORE", deadline, classes) as association:
            accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
            if not accepted.issuperset(classes):
                names = ", ".join(UID(each).name for each in sorted(set(classes) - accepted))
                raise DeadLetter("pacs-refused", f"the PACS does not take {names}; have it accept that, then replay")
            for dataset in datasets:
                status = association.send_c_store(dataset)
                if "Status" not in status:
                    raise unavailable("C-STORE", "the association broke")
                if problem := failed(int(status.Status)):
                    raise problem
        if self._commitment is not None:
            with self._associated("storage commitment", deadline, self._commitment.classes) as association:
                self._commitment.ask(association, datasets, min(self._timeout, deadline.remaining))

    def retrieve(self, dataset: Dataset, deadline: Deadline) -> Dataset | None:
        """Read an instance by C-GET; None where the PACS does not offer it."""
        model, kind = StudyRootQueryRetrieveInformationModelGet, str(dataset.SOPClassUID)
        got: list[Dataset] = []

        def keep(event: Any) -> int:
            given = event.dataset
            given.file_meta = event.file_meta
            got.append(given)
            return 0

        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = dataset.StudyInstanceUID
        query.SeriesInstanceUID, query.SOPInstanceUID = dataset.SeriesInstanceUID, dataset.SOPInstanceUID
        with self._associated(
            "C-GET",
            deadline,
            [model, kind],
            roles=[build_role(kind, scp_role=True)],
            handlers=[(evt.EVT_C_STORE, keep)],
        ) as association:
            if len({str(context.abstract_syntax) for context in association.accepted_contexts}) < 2:
                return None
            statuses = [int(status.get("Status", FAILED)) for status, _ in association.send_c_get(query, model)]
        if not got and statuses[-1:] == [0]:
            raise missing("C-GET")
        return got[0] if got else None

    def close(self) -> None:
        """Free the port on which commitments are answered."""
        if self._commitment is not None:
            self._commitment.close()

    @contextmanager
    def _associated(
        self,
        service: str,
        deadline: Deadline,
        classes: Sequence[str],
        *,
        roles: Sequence[Any] = (),
        handlers: Handlers | None = None,
    ) -> Iterator[Association]:
        """Run a block with an association; one without an accepted context is given, too."""
        budget = min(self._timeout, deadline.remaining)
        if budget <= 0:
            raise unavailable(service, "no time was left")
        entity = AE(self._calling)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = budget
        for each in classes:
            entity.add_requested_context(each, SYNTAXES)
        with telemetry.span(service, kind=SpanKind.CLIENT):
            association = entity.associate(
                self._host,
                self._port,
                ae_title=self._title,
                ext_neg=list(roles),
                evt_handlers=handlers or [],
                tls_args=self._tls,
            )
            if not association.is_established and not association.rejected_contexts:
                cause = "it rejected the association" if association.is_rejected else "no association"
                raise unavailable(service, cause)
            try:
                yield association
            except RuntimeError:
                # pynetdicom's word for an association that is no longer there.
                raise unavailable(service, "the association broke") from None
            finally:
                if association.is_established:
                    association.release()

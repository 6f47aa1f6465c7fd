"""The PACS as a source, by DIMSE, for one without DICOMweb: C-FIND to ask, C-GET or C-MOVE to fetch (PS3.4, C)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
)
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import build_role

from auscult.listen.dicom_scp import STORAGE_CLASSES, transfer_syntaxes
from auscult.listen.query_retrieve import FIND, GET, MOST_CONTEXTS, MOVE
from auscult.listen.reception import Reception
from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
STUDY_ROOT = 1
"""Of the models in FIND, MOVE and GET."""
SUCCESS, PENDING = 0x0000, {0xFF00, 0xFF01}
PARTLY = 0xB000
"""Sub-operations complete, one or more failed (PS3.4, C.4.3.1.4)."""
NO_ANSWER = 0xC000
"""Stands for an answer without a status: the association broke."""
USUAL = (CTImageStorage, SegmentationStorage, RTStructureSetStorage, ComprehensiveSRStorage)

Found = dict[str, str]
"""An answer's values by keyword."""


class Fetched(NamedTuple):
    """What came of a retrieval."""

    taken: int
    refused: int


def find(settings: Settings, level: str, keys: dict[str, str], timeout: float) -> list[Found]:
    """Return what the PACS has by C-FIND (Study Root). Retry: `pacs-unavailable`."""
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    model = FIND[STUDY_ROOT]
    found = []
    with _associated(settings, [(model, SYNTAXES)], timeout) as association:
        if not association.accepted_contexts:
            raise _unavailable("it offers no C-FIND")
        for status, answer in association.send_c_find(query, model):
            told = int(status.get("Status", NO_ANSWER))
            if told in PENDING and answer is not None:
                found.append({keyword: str(answer.get(keyword, "") or "") for keyword in keys})
            elif told != SUCCESS:
                raise _unavailable(f"C-FIND ended with status 0x{told:04X}")
    return found


def count(settings: Settings, study_uid: str, timeout: float) -> int | None:
    """Return how many instances the study has: of itself, else of its series; None where the PACS does not say.

    Both keys are optional (PS3.4, C.3.4). Retry: `pacs-unavailable`.
    """
    of_study, of_series = "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"
    studies = find(settings, "STUDY", {"StudyInstanceUID": study_uid, of_study: ""}, timeout)
    if len(studies) == 1 and studies[0][of_study].isdecimal():
        return int(studies[0][of_study])
    series = find(
        settings, "SERIES", {"StudyInstanceUID": study_uid, "SeriesInstanceUID": "", of_series: ""}, timeout
    )
    counts = [each[of_series] for each in series]
    return sum(map(int, counts)) if counts and all(each.isdecimal() for each in counts) else None


def fetch(settings: Settings, reception: Reception, study_uid: str) -> Fetched:
    """Take a study by C-GET; where the PACS does not offer it, have it sent to our listener by C-MOVE.

    With C-MOVE the PACS must know `ae_title`, and the listener must run; then `reception` has nothing to tell.
    Retry (`pacs-unavailable`): what came until then is kept.
    """
    whole, statuses = False, list[int]()

    def take(event: evt.Event) -> int | Dataset:
        answer = reception.on_store(event)
        statuses.append(int(answer if isinstance(answer, int) else answer.Status))
        return answer

    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study_uid
    classes = _classes(settings, study_uid)
    syntaxes = transfer_syntaxes()
    contexts = [(GET[STUDY_ROOT], SYNTAXES), (MOVE[STUDY_ROOT], SYNTAXES), *((each, syntaxes) for each in classes)]
    roles = [build_role(each, scp_role=True) for each in classes]
    try:
        with _associated(
            settings, contexts, settings.pacs_timeout, roles=roles, handlers=[(evt.EVT_C_STORE, take)]
        ) as association:
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            if GET[STUDY_ROOT] in accepted:
                last = _last(association.send_c_get(query, GET[STUDY_ROOT]))
                failed = sum(status != SUCCESS for status in statuses)
                fetched = Fetched(len(statuses) - failed, max(failed, _number(last, "Failed")))
            elif MOVE[STUDY_ROOT] in accepted:
                last = _last(association.send_c_move(query, settings.ae_title, MOVE[STUDY_ROOT]))
                fetched = Fetched(_number(last, "Completed") + _number(last, "Warning"), _number(last, "Failed"))
            else:
                raise _unavailable("it offers neither C-GET nor C-MOVE")
        whole = last.Status == SUCCESS
    finally:
        reception.end(aborted=not whole)
    return fetched


def _classes(settings: Settings, study_uid: str) -> list[UID]:
    """Return the storage classes to offer: those the PACS names, else what an association has room for."""
    keys = {"StudyInstanceUID": study_uid, "SOPClassesInStudy": ""}
    try:
        found = find(settings, "STUDY", keys, settings.pacs_timeout)
    except Retry:
        found = []
    told = {part.strip(" '[]") for each in found for part in each["SOPClassesInStudy"].replace(",", "\\").split("\\")}
    named = [each for each in STORAGE_CLASSES if each in told]
    return [*dict.fromkeys((*named, *USUAL, *STORAGE_CLASSES))][: MOST_CONTEXTS - 2]


def _last(answers: Iterator[tuple[Dataset, Dataset | None]]) -> Dataset:
    """Return the final status of a retrieval. Retry where it failed as a whole."""
    status = Dataset()
    for each, _ in answers:
        status = each
    told = int(status.get("Status", NO_ANSWER))
    if told not in {SUCCESS, PARTLY}:
        raise _unavailable(f"the retrieval ended with status 0x{told:04X}; does it know our AE title and address?")
    return status


def _number(status: Dataset, which: str) -> int:
    return int(status.get(f"NumberOf{which}Suboperations") or 0)


@contextmanager
def _associated(
    settings: Settings,
    contexts: Sequence[tuple[UID, Sequence[UID]]],
    timeout: float,
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Iterator[Association]:
    place = urlsplit(settings.pacs_url)
    if not (place.username and place.hostname and place.port):
        raise RefuseToStart("pacs-url-invalid", "AUSCULT_PACS_URL needs the form dicom://AET@host:port")
    entity = ApplicationEntity(settings.pacs_ae_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout
    for sop_class, syntaxes in contexts:
        entity.add_requested_context(sop_class, [*syntaxes])
    association = entity.associate(
        place.hostname,
        place.port,
        ae_title=place.username,
        ext_neg=[*roles],
        evt_handlers=[*handlers],
        tls_args=(_tls(settings), place.hostname) if place.scheme == "dicoms" else None,
    )
    if not association.is_established and not association.rejected_contexts:
        raise _unavailable("it rejected the association" if association.is_rejected else "no association")
    try:
        yield association
    except RuntimeError:
        # pynetdicom's word for an association that is no longer there.
        raise _unavailable("the association broke") from None
    finally:
        if association.is_established:
            association.release()


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.pacs_tls_ca)
    if settings.pacs_tls_cert:
        context.load_cert_chain(settings.pacs_tls_cert, settings.pacs_tls_key)
    return context


def _unavailable(cause: str) -> Retry:
    return Retry("pacs-unavailable", f"the PACS does not answer ({cause}); see that it runs and can be reached")

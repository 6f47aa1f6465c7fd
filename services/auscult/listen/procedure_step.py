"""SCP of Modality Performed Procedure Step (PS3.4, F.7) and Instance Availability Notification (PS3.4, R).

They tell what a study should hold, so that nobody waits to see whether more comes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Literal, NamedTuple, cast

import msgspec
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_CREATE, N_SET
from pynetdicom.events import Event

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.topics import INSTANCES
from auscult.domain.identity import is_uid
from auscult.domain.study import StudyRef
from auscult.imaging.store import ImageStore
from auscult.listen.expectation import Step, expect
from auscult.listen.identifier import decoded
from auscult.platform.errors import AuscultError

PERFORMED_STEP = UID("1.2.840.10008.3.1.2.3.3")
AVAILABILITY = UID("1.2.840.10008.5.1.4.33")
SUCCESS = 0x0000
INVALID_VALUE, MISSING, DUPLICATE, UNKNOWN, FAILED = 0x0106, 0x0120, 0x0111, 0x0112, 0x0110
"""Statuses of PS3.7, annex C."""
NO_LONGER = 0xA710
"""Error ID: the step may no longer be updated (PS3.4, F.7.2.2.3)."""
WRONG_ENTRY = "110514"
"""DCM: Incorrect worklist entry selected, a discontinuation reason of CID 9300."""

SMALL = 64 * 1024
"""Bytes of what is told of a step with a few hundred images. What is larger is read one at a time: decoded it takes
a hundred times its size."""
_LARGE = threading.Lock()

Status = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
Answer = tuple[int | Dataset, Dataset | None]

_log = logging.getLogger(__name__)


class _Begun(msgspec.Struct):
    """A step as N-CREATE and N-SET left it. A step that ended names no study any more."""

    status: Status
    studies: list[str]
    series: dict[str, list[str]]


class _Problem(NamedTuple):
    status: int
    comment: str
    error: int | None = None


class ProcedureSteps:
    """Answers for one tenant; associations may share it."""

    def __init__(self, tenant: str, bus: Bus, store: ImageStore) -> None:
        self._tenant, self._bus, self._store = tenant, bus, store

    def bind(self, association: Association) -> None:
        """Bind the handlers."""
        association.bind(evt.EVT_N_CREATE, lambda event: self._guarded(self._on_create, event))
        association.bind(evt.EVT_N_SET, lambda event: self._guarded(self._on_set, event))

    def _guarded(self, handle: Callable[[Event, Dataset], _Problem | None], event: Event) -> Answer:
        """Answer with a status whatever happens; no text of a parser leaves here, it may quote a patient."""
        told = Dataset()
        try:
            with _LARGE if _size(event) > SMALL else nullcontext():
                problem = handle(event, told)
        except AuscultError as error:
            problem = _Problem(FAILED, str(error)[:64])
        except Exception as error:  # noqa: BLE001 - pydicom raises many types
            problem = _Problem(FAILED, f"the data set cannot be used ({type(error).__name__})")
        if problem is None:
            return SUCCESS, told
        _log.warning("a procedure step or availability was not taken: %s", problem.comment)
        status = Dataset()
        status.Status, status.ErrorComment = problem.status, problem.comment
        if problem.error is not None:
            status.ErrorID = problem.error
        return status, None

    def _on_create(self, event: Event, told: Dataset) -> _Problem | None:
        request = cast("N_CREATE", event.request)
        given = decoded(request.AttributeList, event.context.transfer_syntax)
        uid = str(request.AffectedSOPInstanceUID or "")
        if not uid:
            uid = told.AffectedSOPInstanceUID = generate_uid()
        if not is_uid(uid):
            return _Problem(INVALID_VALUE, "the SOP Instance UID is no UID")
        if request.AffectedSOPClassUID == AVAILABILITY:
            return self._on_available(uid, given)
        if given.get("PerformedProcedureStepStatus") != "IN PROGRESS":
            return _Problem(INVALID_VALUE, "PerformedProcedureStepStatus is IN PROGRESS at first")
        scheduled = given.get("ScheduledStepAttributesSequence") or ()
        studies = sorted({str(item.get("StudyInstanceUID", "")) for item in scheduled})
        if not studies or not all(map(is_uid, studies)):
            return _Problem(MISSING, "ScheduledStepAttributesSequence needs a StudyInstanceUID")
        if self._store.note(self._tenant, f"steps/{uid}"):
            return _Problem(DUPLICATE, "the step is known already")
        self._keep(uid, _Begun("IN PROGRESS", studies, _performed(given)), Step("IN PROGRESS"))
        return None

    def _on_set(self, event: Event, _: Dataset) -> _Problem | None:
        request = cast("N_SET", event.request)
        given = decoded(request.ModificationList, event.context.transfer_syntax)
        uid = str(request.RequestedSOPInstanceUID or "")
        known = self._store.note(self._tenant, f"steps/{uid}") if is_uid(uid) else b""
        if not known:
            return _Problem(UNKNOWN, "no such step was created here")
        begun = msgspec.json.decode(known, type=_Begun)
        if begun.status != "IN PROGRESS":
            return _Problem(FAILED, "the step has ended and may no longer be updated", NO_LONGER)
        status = str(given.get("PerformedProcedureStepStatus", begun.status))
        if status not in {"IN PROGRESS", "COMPLETED", "DISCONTINUED"}:
            return _Problem(INVALID_VALUE, "PerformedProcedureStepStatus has an unknown value")
        if "PerformedSeriesSequence" in given:
            begun.series = _performed(given)
        reasons = given.get("PerformedProcedureStepDiscontinuationReasonCodeSequence") or ()
        wrong = status == "DISCONTINUED" and any(reason.get("CodeValue") == WRONG_ENTRY for reason in reasons)
        begun.status = cast("Status", status)
        self._keep(uid, begun, Step(begun.status, begun.series if status != "IN PROGRESS" else {}, wrong))
        return None

    def _on_available(self, uid: str, given: Dataset) -> _Problem | None:
        study = str(given.get("StudyInstanceUID", ""))
        series = {
            str(item.get("SeriesInstanceUID", "")): [
                str(each.get("ReferencedSOPInstanceUID", ""))
                for each in item.get("ReferencedSOPSequence") or ()
                if each.get("InstanceAvailability") != "UNAVAILABLE"
            ]
            for item in given.get("ReferencedSeriesSequence") or ()
        }
        if not is_uid(study) or not series:
            return _Problem(MISSING, "StudyInstanceUID and ReferencedSeriesSequence are needed")
        expect(self._store, self._tenant, study, uid, Step("COMPLETED", series))
        self._tell(study)
        return None

    def _keep(self, uid: str, begun: _Begun, step: Step) -> None:
        """Note first for the studies, then the step itself: what fails in between is sent again, and then whole."""
        for study in begun.studies:
            expect(self._store, self._tenant, study, uid, step)
            self._tell(study)
        kept = begun if begun.status == "IN PROGRESS" else _Begun(begun.status, [], {})
        self._store.write_note(self._tenant, f"steps/{uid}", msgspec.json.encode(kept))

    def _tell(self, study: str) -> None:
        told = events.StudyExpected(self._tenant, study)
        event = CloudEvent.of(events.STUDY_EXPECTED, f"/{self._tenant}/listen/procedure-step", told)
        self._bus.publish(INSTANCES, event, key=StudyRef(self._tenant, study, digest="").key)


def _size(event: Event) -> int:
    request = cast("N_CREATE | N_SET", event.request)
    given = request.AttributeList if isinstance(request, N_CREATE) else request.ModificationList
    return given.getbuffer().nbytes if given else 0


def _performed(given: Dataset) -> dict[str, list[str]]:
    """Return the instances that a step made, by series (PS3.3, C.4.16)."""
    found: dict[str, list[str]] = {}
    for series in given.get("PerformedSeriesSequence") or ():
        found.setdefault(str(series.get("SeriesInstanceUID", "")), []).extend(_instances(series))
    return {uid: uids for uid, uids in found.items() if uids}


def _instances(series: Dataset) -> Iterator[str]:
    for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
        for item in series.get(keyword) or ():
            yield str(item.get("ReferencedSOPInstanceUID", ""))

"""What one association brings: each object is checked, stored, announced, and only then acknowledged."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.trace import Span
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.topics import INSTANCES, OUTCOMES
from auscult.domain.study import StudyRef
from auscult.imaging.frames import DOES_NOT_MATCH_CLASS
from auscult.imaging.gate import PREAMBLE, admit, file_meta, unpacked
from auscult.imaging.header import CLASS_NOT_SUPPORTED, InstanceHeader
from auscult.imaging.spool import Spool
from auscult.imaging.store import PROCESSING_FAILURE, ImageStore
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, Refused, Retry

SUCCESS = 0x0000
LATER = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Pauses in seconds between tries to tell the end of an association while the bus is away; then the assembler
has given it up for lost."""
COMMENT_LENGTH = 64
"""Characters of an ErrorComment, VR LO (PS3.5, 6.2)."""

_log = logging.getLogger(__name__)


@dataclass
class _Part:
    """What the association brought of one study. `first`, `last`: seconds since the epoch, for the trace."""

    ref: StudyRef
    span: Span
    traceparent: str
    first: float
    last: float
    instances: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an object. `header`: as far as it was read. `status`: the DICOM status of its `problem`."""

    header: InstanceHeader | None
    problem: AuscultError | None = None
    status: int = SUCCESS


class Reception:
    """Takes one association's or request's objects, and tells its end. Used by one thread at a time.

    `service`: what received them, for the events' source.
    """

    def __init__(self, tenant: str, bus: Bus, store: ImageStore, service: str = "dicom-scp") -> None:
        self._tenant = tenant
        self._bus = bus
        self._store = store
        self._source = f"/{tenant}/listen/{service}"
        self._association = uuid.uuid4().hex
        self._opened = telemetry.now()
        self._parts: dict[str, _Part] = {}
        self._untold: list[tuple[events.InstancesDelivered, _Part]] = []

    def on_store(self, event: Event) -> int | Dataset:
        """Answer a C-STORE request."""
        taken = self.take(_received(event))
        return SUCCESS if taken.problem is None else _status(taken.status, taken.problem)

    def take(self, opened: AbstractContextManager[bytes | Path], *, study_uid: str = "") -> Taken:
        """Check, store and announce one DICOM file; a problem always means that the sender still owns the object.

        `study_uid`: the study of which it must be; empty for any.
        """
        started = telemetry.now()
        header: InstanceHeader | None = None
        try:
            with opened as file, unpacked(file, self._store) as source:
                header = admit(source)
                _check_study(header, study_uid)
                self._store.put(self._tenant, header, source)
            self._announce(header, started)
        except Refused as problem:
            return self._refuse(problem, header)
        except Retry as problem:
            # The bytes stay: when the sender sends them again they are found, and then announced.
            _log.error("an instance could not be announced, its sender is told to send it again: %s", problem)
            return Taken(header, problem, PROCESSING_FAILURE)
        except Exception as bug:  # noqa: BLE001 - the association lives on, and the sender keeps what it has
            kind = type(bug).__name__
            return self._refuse(
                Refused("unexpected-error", f"unexpected {kind}; report it", status=PROCESSING_FAILURE), header
            )
        return Taken(header)

    def on_released(self, _: Event) -> None:
        """Tell at once that the sender is done."""
        self.end(aborted=False)

    def end(self, *, aborted: bool) -> None:
        """Tell which studies the association brought instances of. A second call has nothing to tell."""
        while self._parts:
            _, part = self._parts.popitem()
            count, study = len(part.instances), part.ref.pseudonym
            telemetry.record(f"C-STORE x{count}", part.first, part.last, parent=part.traceparent)
            part.span.set_attributes({"study": study, "instances": count, "aborted": aborted})
            told = events.InstancesDelivered(self._tenant, part.ref.study_uid, self._association, count, aborted)
            try:
                self._publish(events.INSTANCES_DELIVERED, told, part.ref.key, part.traceparent)
            except Retry as problem:
                _log.error("the end of an association could not be told yet, its study waits: %s", problem)
                self._untold.append((told, part))
            part.span.end()
            _log.info(
                "study %s: an association %s, having brought %d instances",
                study,
                "was aborted" if aborted else "ended",
                count,
            )

    def tell_the_rest(self, stopping: threading.Event) -> None:
        """Tell what `end` could not, once the bus is back. What is never told, the assembler gives up for lost."""
        for pause in LATER:
            if not self._untold or stopping.wait(pause):
                return
            with contextlib.suppress(Retry):
                while self._untold:
                    told, part = self._untold[-1]
                    self._publish(events.INSTANCES_DELIVERED, told, part.ref.key, part.traceparent)
                    self._untold.pop()

    def _announce(self, header: InstanceHeader, started: float) -> None:
        part = self._parts.get(header.study_uid)
        if part is None:
            ref = StudyRef(self._tenant, header.study_uid, digest="")
            span = telemetry.begin("receive study", self._opened)
            part = _Part(ref, span, telemetry.traceparent(span), started, started)
            self._parts[header.study_uid] = part
        told = events.InstanceStored(
            self._tenant, header.study_uid, header.series_uid, header.sop_instance_uid, self._association
        )
        # Of the trace but not sampled: hundreds of spans alike would bury the others.
        self._publish(events.INSTANCE_STORED, told, part.ref.key, _unsampled(part.traceparent))
        part.instances.add(header.sop_instance_uid)
        part.last = telemetry.now()

    def _publish(self, kind: str, told: object, key: str, traceparent: str) -> None:
        self._bus.publish(INSTANCES, CloudEvent.of(kind, self._source, told, traceparent=traceparent), key=key)

    def _refuse(self, problem: Refused, header: InstanceHeader | None) -> Taken:
        """Return the problem for the sender, and leave an outcome for the operator."""
        ref = StudyRef(self._tenant, header.study_uid, digest="") if header else None
        _log.warning("study %s: an object was refused: %s", ref.pseudonym if ref else "unknown", problem)
        outcome = events.Outcome(
            self._tenant, ref.pseudonym if ref else "", "refused", problem.reason, str(problem.args[0])
        )
        try:
            key = ref.key if ref else f"{self._tenant}|{self._association}"
            self._bus.publish(OUTCOMES, CloudEvent.of(events.OUTCOME, self._source, outcome), key=key)
        except Retry as failure:
            _log.error("the outcome of that refusal could not be published: %s", failure)
        return Taken(header, problem, problem.status)


@contextmanager
def _received(event: Event) -> Iterator[bytes | Path]:
    """Give the object as the DICOM file that it becomes, encoded as it was sent.

    The file meta information names the SOP class and instance of the request, which `InstanceHeader` then holds
    against the data set's own. Refused as by `Spool.source`.
    """
    request = event.request
    if not isinstance(request, C_STORE) or request.AffectedSOPClassUID != event.context.abstract_syntax:
        raise Refused(
            "context-mismatch",
            "the SOP class is not the one that was negotiated for this presentation context",
            status=CLASS_NOT_SUPPORTED,
        )
    spool = request.DataSet
    if not isinstance(spool, Spool):
        yield event.encoded_dataset()
        return
    with contextlib.closing(spool):
        source = spool.source
        asked = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        meta = file_meta(*asked, UID(event.context.transfer_syntax))
        yield meta + source if isinstance(source, bytes) else source


@contextmanager
def as_file(spool: Spool) -> Iterator[bytes | Path]:
    """Give a received file, without the program that its preamble may be (PS3.10, 7.5)."""
    with contextlib.closing(spool):
        source = spool.source
        if isinstance(source, bytes):
            yield PREAMBLE + source[len(PREAMBLE) :]
            return
        with source.open("r+b") as file:
            file.write(PREAMBLE)
        yield source


def _check_study(header: InstanceHeader, study_uid: str) -> None:
    if study_uid not in {"", header.study_uid}:
        raise Refused("other-study", "the object is not of the study in the URL", status=DOES_NOT_MATCH_CLASS)


def _unsampled(traceparent: str) -> str:
    """Clear the `sampled` bit of the trace-flags (W3C Trace Context, 3.2.2.5)."""
    rest, _, flags = traceparent.rpartition("-")
    return f"{rest}-{int(flags, 16) & ~1:02x}" if flags else ""


def _status(code: int, problem: AuscultError) -> Dataset:
    status = Dataset()
    status.Status = code
    status.ErrorComment = str(problem)[:COMMENT_LENGTH]
    return status

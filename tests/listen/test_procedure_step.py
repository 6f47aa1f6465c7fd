"""What a modality or a PACS tells of a study decides when it is complete, and whether it may be computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from auscult.bus import events, topics
from auscult.bus.sqlite import SqliteBus
from auscult.domain.identity import sop_digest
from auscult.imaging.notes import of_study
from auscult.imaging.store import ImageStore
from auscult.listen import assembler as module
from auscult.listen.assembler import Assembler
from auscult.listen.procedure_step import AVAILABILITY, PERFORMED_STEP
from auscult.listen.query_retrieve import FIND
from auscult.platform.settings import Settings
from dicom_factory import ct_series
from dicom_sender import send, take
from hostile_dicom import element, nested

pytestmark = pytest.mark.golden

SHAPE = (5, 8, 8)
HOUR = 3600.0


@dataclass
class Modality:
    """Tells of its steps over associations of their own."""

    port: int

    def create(self, uid: str, study: str, *, status: str = "IN PROGRESS") -> Dataset:
        """Begin a step and return the answer."""
        given, scheduled = Dataset(), Dataset()
        scheduled.StudyInstanceUID = study
        given.ScheduledStepAttributesSequence = [scheduled]
        given.PerformedProcedureStepStatus = status
        return self._asked(PERFORMED_STEP, "send_n_create", given, uid)

    def end(self, uid: str, images: Sequence[Dataset], status: str = "COMPLETED", reason: str = "") -> Dataset:
        """End a step that made `images`."""
        given = Dataset()
        given.PerformedProcedureStepStatus = status
        given.PerformedSeriesSequence = [named(images, "ReferencedImageSequence")]
        if reason:
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator = reason, "DCM"
            given.PerformedProcedureStepDiscontinuationReasonCodeSequence = [code]
        return self._asked(PERFORMED_STEP, "send_n_set", given, uid)

    def available(self, images: Sequence[Dataset]) -> Dataset:
        """Notify of the availability of `images`, as a PACS does."""
        given = Dataset()
        given.StudyInstanceUID = images[0].StudyInstanceUID
        given.ReferencedSeriesSequence = [named(images, "ReferencedSOPSequence")]
        return self._asked(AVAILABILITY, "send_n_create", given, generate_uid())

    def _asked(self, sop_class: str, request: str, given: Dataset, uid: str) -> Dataset:
        ae = AE("MODALITY")
        ae.add_requested_context(sop_class)
        association = ae.associate("127.0.0.1", self.port, ae_title="AUSCULT")
        status, _ = getattr(association, request)(given, sop_class, uid)
        association.release()
        return status


def named(images: Sequence[Dataset], keyword: str) -> Dataset:
    """Return a series that refers to its images."""
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    items = []
    for image in images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        items.append(item)
    setattr(series, keyword, items)
    return series


@pytest.fixture
def modality(port: int) -> Modality:
    """Return a modality that knows the listener."""
    return Modality(port)


@pytest.fixture
def patient(settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run an assembler for which only what was told counts: it would wait for an hour."""
    yield from assembling(settings.model_copy(update={"settle_seconds": HOUR}), bus, store, monkeypatch)


@pytest.fixture
def hasty(settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run an assembler that judges soon what is not known to be whole."""
    yield from assembling(settings, bus, store, monkeypatch)


def assembling(
    settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Run an assembler."""
    monkeypatch.setattr(module, "POLL", 0.02)
    stop = threading.Event()
    thread = threading.Thread(target=Assembler(settings, bus, store).run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


def complete(bus: SqliteBus) -> events.StudyComplete:
    """Wait for the one study that can be computed."""
    (told,) = take(bus, topics.STUDIES, 1)
    return told.event.payload(events.StudyComplete)


@pytest.mark.usefixtures("patient")
def test_a_study_is_complete_when_what_a_step_made_is_here(port: int, bus: SqliteBus, modality: Modality) -> None:
    """In two associations, the second of which brings the last; nothing is waited for."""
    series, uid = ct_series(SHAPE), generate_uid()
    assert modality.create(uid, series[0].StudyInstanceUID).Status == 0
    assert modality.end(uid, series).Status == 0
    send(port, series[:3])
    send(port, series[3:])
    told = complete(bus)
    assert told.digest == sop_digest(str(each.SOPInstanceUID) for each in series)


@pytest.mark.usefixtures("patient")
def test_the_end_of_a_step_completes_a_study_that_is_here(port: int, bus: SqliteBus, modality: Modality) -> None:
    """While it is in progress a stack without gaps is no evidence; its end is."""
    series, uid = ct_series(SHAPE), generate_uid()
    modality.create(uid, series[0].StudyInstanceUID)
    send(port, series)
    assert list(bus.read(topics.STUDIES)) == []
    modality.end(uid, series)
    assert complete(bus).digest == sop_digest(str(each.SOPInstanceUID) for each in series)


@pytest.mark.usefixtures("patient")
def test_what_a_pacs_says_is_available_completes_a_study(port: int, bus: SqliteBus, modality: Modality) -> None:
    """An Instance Availability Notification names the instances as a step does."""
    series = ct_series(SHAPE)
    for image in series:
        send(port, [image])
    assert modality.available(series).Status == 0
    assert complete(bus).digest == sop_digest(str(each.SOPInstanceUID) for each in series)
    assert list(bus.read(topics.OUTCOMES)) == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("status", "reason"), [("COMPLETED", "instances-missing"), ("DISCONTINUED", "discontinued")])
def test_what_is_not_all_is_flagged(port: int, bus: SqliteBus, modality: Modality, status: str, reason: str) -> None:
    """Though its slices leave no gap: one that was made is not here, or the acquisition was broken off."""
    series, uid = ct_series(SHAPE), generate_uid()
    here = series if status == "DISCONTINUED" else series[:-1]
    modality.create(uid, series[0].StudyInstanceUID)
    modality.end(uid, series, status)
    send(port, here)
    assert complete(bus).digest == sop_digest(str(each.SOPInstanceUID) for each in here)
    (outcome,) = take(bus, topics.OUTCOMES, 1)
    told = outcome.event.payload(events.Outcome)
    assert (told.status, told.reason) == ("incomplete", reason)


@pytest.mark.usefixtures("hasty")
def test_a_step_on_the_wrong_worklist_entry_is_quarantined(port: int, bus: SqliteBus, modality: Modality) -> None:
    """It may be another patient's."""
    series, uid = ct_series(SHAPE), generate_uid()
    modality.create(uid, series[0].StudyInstanceUID)
    modality.end(uid, series, "DISCONTINUED", "110514")
    send(port, series)
    (outcome,) = take(bus, topics.OUTCOMES, 1)
    told = outcome.event.payload(events.Outcome)
    assert (told.status, told.reason) == ("quarantined", "wrong-worklist-entry")
    assert list(bus.read(topics.STUDIES)) == []


def test_a_step_is_created_once_and_ends_once(modality: Modality, store: ImageStore) -> None:
    """As PS3.4, F.7.2 asks: statuses 0111, 0112, and 0110 with error ID A710. Erasure takes it with its study."""
    series, uid = ct_series(SHAPE), generate_uid()
    study = str(series[0].StudyInstanceUID)
    assert modality.end(uid, series).Status == 0x0112
    assert modality.create(uid, study, status="COMPLETED").Status == 0x0106
    assert modality.create(uid, "no uid").Status == 0x0120
    assert modality.create(uid, study).Status == 0
    assert modality.create(uid, study).Status == 0x0111
    assert modality.end(uid, series).Status == 0
    again = modality.end(uid, series)
    assert (again.Status, again.ErrorID) == (0x0110, 0xA710)
    assert len(store.notes("site", of_study(study))) == 1
    assert study.encode() not in store.note("site", f"steps/{uid}")
    store.erase("site", study)
    assert store.notes("site", of_study(study)) == []


@pytest.mark.parametrize("depth", [60, 65, 20_000])
def test_neither_a_step_nor_a_query_of_deep_sequences_ends_the_service(port: int, depth: int) -> None:
    """Each is answered with a failure, and the next one is served."""
    for sop_class, request in ((PERFORMED_STEP, "send_n_create"), (FIND[1], "send_c_find")):
        ae = AE("MODALITY")
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        association = ae.associate("127.0.0.1", port, ae_title="AUSCULT")
        given = Dataset()
        given.QueryRetrieveLevel = "STUDY"
        query = element(0x00080052, b"CS", b"STUDY ") + nested(depth)
        with mock.patch("pynetdicom.association.encode", return_value=query):
            if request == "send_n_create":
                assert association.send_n_create(given, sop_class, "1.2.3")[0].Status != 0
            else:
                (*_, (status, _)) = association.send_c_find(given, sop_class)
                assert (status.Status == 0) is (depth < 65)
        association.release()

"""A study is told to be complete once all of it is here, and whatever else it is, an operator hears of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedSRStorage, generate_uid

from auscult.bus import events, topics
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery, Subscription
from auscult.bus.dead_letters import listing, replay
from auscult.bus.sqlite import SqliteBus
from auscult.domain.identity import pseudonym, sop_digest
from auscult.domain.volume import Region, RegionSource
from auscult.entrypoints.demo.processes import free_port
from auscult.imaging.header import InstanceHeader
from auscult.imaging.own_results import CREATOR
from auscult.imaging.slices import stack
from auscult.imaging.store import ImageStore
from auscult.listen import assembler as module
from auscult.listen.assembler import GROUP, Assembler
from auscult.listen.dicomweb_server import DicomwebServer
from auscult.platform.errors import Retry
from auscult.platform.settings import Settings
from auscult.publish.dicom_seg import Segment, write_seg
from dicom_factory import JANE, Person, ct_series, encode
from dicom_sender import associate, associated, send, take
from dicom_sender import store as c_store

SHAPE = (5, 8, 8)
HOUR = 3600.0


@pytest.fixture(autouse=True)
def ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an assembler see at once that it should stop."""
    monkeypatch.setattr(module, "POLL", 0.02)


@contextmanager
def assembling(
    settings: Settings, bus: Bus, store: ImageStore, *, settle_seconds: float | None = None, lost_after: float = HOUR
) -> Iterator[None]:
    """Run an assembler during a block; leaving the block is its end, with all it knew."""
    if settle_seconds is not None:
        settings = settings.model_copy(update={"settle_seconds": settle_seconds})
    stop = threading.Event()
    one = Assembler(settings, bus, store, lost_after=lost_after)
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def running(settings: Settings, bus: SqliteBus, store: ImageStore) -> Iterator[None]:
    """Run an assembler during a test."""
    with assembling(settings, bus, store):
        yield


def digest(datasets: list[Dataset]) -> str:
    """Return the digest of a study of these instances."""
    return sop_digest(dataset.SOPInstanceUID for dataset in datasets)


def complete(bus: Bus, count: int = 1) -> list[events.StudyComplete]:
    """Wait for `count` complete studies."""
    return [delivery.event.payload(events.StudyComplete) for delivery in take(bus, topics.STUDIES, count)]


def outcomes(bus: Bus, count: int = 1) -> list[events.Outcome]:
    """Wait for `count` outcomes."""
    return [delivery.event.payload(events.Outcome) for delivery in take(bus, topics.OUTCOMES, count)]


def stored(bus: Bus, store: ImageStore, datasets: list[Dataset], association: str) -> None:
    """Store and announce instances as a listener does that dies before its association ends."""
    for dataset in datasets:
        data = encode(dataset)
        header = InstanceHeader.read(data)
        store.put("site", header, data)
        told = events.InstanceStored(
            "site", header.study_uid, header.series_uid, header.sop_instance_uid, association
        )
        publish(bus, events.INSTANCE_STORED, told, header.study_uid)


def segmentation(series: list[Dataset], *, ours: bool) -> Dataset:
    """Return a SEG that we sent to a PACS, or one of somebody else."""
    grid = stack([InstanceHeader.read(encode(dataset)) for dataset in series]).geometry
    region = Region.of(np.ones(SHAPE, bool), grid, RegionSource("model", "model", "1"))
    uids = {"sop_instance_uid": generate_uid(), "series_uid": generate_uid()}
    made = write_seg([Segment(region, "nodule", None)], series, made=datetime(2026, 1, 31, tzinfo=UTC), **uids)
    if ours:
        made.InstanceCreatorUID = CREATOR
    return made


def delivered(bus: Bus, study_uid: str, association: str, count: int) -> None:
    """Tell the end of an association."""
    told = events.InstancesDelivered("site", str(study_uid), association, count)
    publish(bus, events.INSTANCES_DELIVERED, told, study_uid)


def publish(bus: Bus, kind: str, told: object, study_uid: str) -> None:
    """Publish an event about a study's instances."""
    bus.publish(topics.INSTANCES, CloudEvent.of(kind, "/test", told), key=f"site|{study_uid}")


def committed(bus: SqliteBus) -> bool:
    """Whether the group has nothing left to read."""
    with bus.subscribe(topics.INSTANCES, group=GROUP) as subscription:
        return subscription.poll(0) is None


def test_a_study_of_one_association_is_announced_at_its_end(
    settings: Settings, bus: SqliteBus, store: ImageStore, port: int
) -> None:
    """Nobody waits for it to settle, and its offsets are committed."""
    series = ct_series(SHAPE)
    with assembling(settings, bus, store, settle_seconds=HOUR):
        send(port, series)
        (told,) = complete(bus)
    assert (told.tenant, told.study_uid, told.digest) == ("site", series[0].StudyInstanceUID, digest(series))
    (delivery,) = bus.read(topics.STUDIES)
    assert delivery.key == f"site|{series[0].StudyInstanceUID}"
    assert delivery.event.deadline is None
    stored_at = [each.event.time for each in bus.read(topics.INSTANCES)][-2]
    assert told.last_stored == datetime.fromisoformat(stored_at).timestamp()
    assert committed(bus)
    assert list(bus.read(topics.OUTCOMES)) == []


@pytest.mark.usefixtures("running")
def test_a_study_sent_again_is_announced_again(bus: SqliteBus, port: int) -> None:
    """The same version is told twice: what is written further on is written once."""
    series = ct_series(SHAPE)
    send(port, series)
    complete(bus, 1)
    send(port, series)
    assert {told.digest for told in complete(bus, 2)} == {digest(series)}


@pytest.mark.usefixtures("running")
def test_our_own_results_announce_nothing(bus: SqliteBus, store: ImageStore) -> None:
    """A PACS that forwards the study with our SEG starts no run; a person's SEG is a new version."""
    series = ct_series(SHAPE)
    study = series[0].StudyInstanceUID
    stored(bus, store, series, "modality")
    delivered(bus, study, "modality", len(series))
    assert [told.digest for told in complete(bus, 1)] == [digest(series)]
    ours, drawn = segmentation(series, ours=True), segmentation(series, ours=False)
    stored(bus, store, [*series, ours], "pacs")
    delivered(bus, study, "pacs", len(series) + 1)
    stored(bus, store, [drawn], "workstation")
    delivered(bus, study, "workstation", 1)
    assert [told.digest for told in complete(bus, 2)] == [digest(series), digest([*series, drawn])]
    stored(bus, store, [*series, drawn, ours], "operator")
    delivered(bus, study, "operator", len(series) + 2)
    assert complete(bus, 3)[-1].digest == digest([*series, drawn])


@pytest.mark.usefixtures("running")
def test_an_association_for_each_instance_makes_one_study(bus: SqliteBus, port: int) -> None:
    """In the end it is announced with all its instances, however often it seemed to have settled before."""
    series = ct_series(SHAPE)
    for dataset in series:
        send(port, [dataset])
    versions = 1
    while complete(bus, versions)[-1].digest != digest(series):
        versions += 1


def test_the_pacs_says_when_a_study_is_whole(
    settings: Settings, bus: SqliteBus, store: ImageStore, port: int, tmp_path: Path
) -> None:
    """Its count is what is waited for, over associations, and no longer; a part without gaps is no study."""
    series = ct_series(SHAPE)
    archive = ImageStore(tmp_path / "pacs", min_free_bytes=0)
    for dataset in series:
        data = encode(dataset)
        archive.put("site", InstanceHeader.read(data), data)
    pacs = DicomwebServer(settings.model_copy(update={"dicomweb_port": 0}), bus, archive)
    asking = settings.model_copy(update={"pacs_url": f"http://127.0.0.1:{pacs.start()}/dicom-web"})
    try:
        with assembling(asking, bus, store, settle_seconds=HOUR):
            send(port, series[:4])
            send(port, series[4:])
            (told,) = complete(bus)
    finally:
        pacs.stop()
    assert told.digest == digest(series)


def test_a_pacs_that_is_away_is_not_waited_for(
    settings: Settings, bus: SqliteBus, store: ImageStore, port: int
) -> None:
    """What the association brought is judged as without it."""
    series = ct_series(SHAPE)
    away = settings.model_copy(update={"pacs_url": f"http://127.0.0.1:{free_port()}/dicom-web"})
    with assembling(away, bus, store, settle_seconds=HOUR):
        send(port, series)
        assert complete(bus)[0].digest == digest(series)


@pytest.mark.usefixtures("running")
def test_a_missing_slice_is_told_and_may_still_come(bus: SqliteBus, port: int) -> None:
    """First an outcome and no study; with the slice, the study, read back from the store."""
    series = ct_series(SHAPE)
    send(port, series[:2] + series[3:])
    (told,) = outcomes(bus)
    assert (told.status, told.reason) == ("incomplete", "missing-slices")
    assert "between slices 2 and 4" in told.detail
    assert told.study == pseudonym("site", series[0].StudyInstanceUID)
    assert list(bus.read(topics.STUDIES)) == []
    send(port, series[2:3])
    (study,) = complete(bus)
    assert study.digest == digest(series)


@pytest.mark.usefixtures("running")
def test_a_late_slice_makes_a_new_version(bus: SqliteBus, port: int) -> None:
    """A slice beyond the end leaves no gap before it comes; with it, the study has another digest."""
    series = ct_series(SHAPE)
    send(port, series[:4])
    assert [told.digest for told in complete(bus, 1)] == [digest(series[:4])]
    send(port, series[4:])
    assert [told.digest for told in complete(bus, 2)] == [digest(series[:4]), digest(series)]


@pytest.mark.usefixtures("running")
def test_a_duplicated_slice_is_told(bus: SqliteBus, port: int) -> None:
    """Two instances at one place make no volume."""
    series = ct_series(SHAPE)
    double = deepcopy(series[2])
    double.SOPInstanceUID = generate_uid()
    assert send(port, [*series, double]) == [0] * 6
    (told,) = outcomes(bus)
    assert (told.status, told.reason) == ("incomplete", "duplicated-slices")


@pytest.mark.usefixtures("running")
def test_two_patients_go_to_quarantine(bus: SqliteBus, port: int) -> None:
    """The event is parked with its reason, operators are told, and no study is announced."""
    series = ct_series(SHAPE)
    other = ct_series(SHAPE, patient=Person(patient_id="P-2"), study_uid=series[0].StudyInstanceUID)
    send(port, series + other)
    (told,) = outcomes(bus)
    assert (told.status, told.reason) == ("quarantined", "two-patients")
    (letter,) = listing(bus, topics.QUARANTINE)
    assert (letter.type, letter.source_topic) == (events.INSTANCES_DELIVERED, topics.INSTANCES.name)
    assert list(bus.read(topics.STUDIES)) == []


@pytest.mark.usefixtures("running")
def test_a_study_without_slices_is_skipped(bus: SqliteBus, store: ImageStore) -> None:
    """There is nothing to compute, and that is said."""
    report = ct_series((1, 8, 8))[0]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = EnhancedSRStorage
    report.Modality = "SR"
    stored(bus, store, [report], "one")
    delivered(bus, report.StudyInstanceUID, "one", 1)
    (told,) = outcomes(bus)
    assert (told.status, told.reason) == ("skipped", "no-image-series")


@pytest.mark.usefixtures("running")
def test_an_aborted_association_settles(bus: SqliteBus, port: int) -> None:
    """What came before the abort is judged as it stands once nothing more arrives."""
    series = ct_series(SHAPE)
    association = associate(port)
    for dataset in (series[0], series[2], series[3]):
        c_store(association, dataset)
    association.abort()
    assert outcomes(bus)[0].reason == "missing-slices"
    send(port, series[1:])
    assert complete(bus)[0].digest == digest(series)


def test_a_study_is_not_judged_while_it_is_sent(
    settings: Settings, bus: SqliteBus, store: ImageStore, port: int
) -> None:
    """A pause of the sender that is longer than the settling time does not split the study."""
    series, other = ct_series(SHAPE), ct_series((2, 8, 8))
    with assembling(settings, bus, store, settle_seconds=0):
        with associated(port) as association:
            for dataset in series[:4]:
                c_store(association, dataset)
            send(port, other)
            assert outcomes(bus)[0].reason == "too-few-slices"
            c_store(association, series[4])
        assert [told.digest for told in complete(bus)] == [digest(series)]


def test_a_study_whose_listener_died_is_judged_in_the_end(
    settings: Settings, bus: SqliteBus, store: ImageStore
) -> None:
    """An association whose end is never told counts as lost after a while."""
    series = ct_series(SHAPE)
    stored(bus, store, series, "lost")
    with assembling(settings, bus, store, lost_after=0.2):
        assert complete(bus)[-1].digest == digest(series)
    assert committed(bus)


def test_an_assembler_that_dies_loses_nothing(settings: Settings, bus: SqliteBus, store: ImageStore) -> None:
    """Its successor reads what was pending again, and announces the study once, whole."""
    series = ct_series(SHAPE)
    study = series[0].StudyInstanceUID
    stored(bus, store, series[:3], "one")
    publish(bus, "org.auscult.unknown.v1", {}, study)
    with assembling(settings, bus, store, settle_seconds=HOUR):
        take(bus, topics.DEAD_LETTERS, 1)  # Parked in the order of the key: all before it was read.
    stored(bus, store, series[3:], "one")
    delivered(bus, study, "one", 5)
    with assembling(settings, bus, store, settle_seconds=HOUR):
        assert [told.digest for told in complete(bus)] == [digest(series)]
    assert committed(bus)
    assert len(list(bus.read(topics.DEAD_LETTERS))) == 2  # It lay behind what was pending, so it was read again.


@dataclass
class Forgetful:
    """The bus, whose first commit fails."""

    bus: SqliteBus
    failures: list[Retry] = field(default_factory=lambda: [Retry("bus-unavailable", "the bus is away")])

    def __getattr__(self, name: str) -> object:
        return getattr(self.bus, name)

    @contextmanager
    def subscribe(self, *subscribed: topics.Topic, group: str) -> Iterator[Subscription]:
        """Join, with a commit that fails once."""
        with self.bus.subscribe(*subscribed, group=group) as subscription:
            commit = subscription.commit

            def forgetful(delivery: Delivery) -> None:
                if self.failures:
                    raise self.failures.pop()
                commit(delivery)

            subscription.commit = forgetful  # type: ignore[method-assign]
            yield subscription


def test_a_study_whose_commit_failed_is_announced_again(
    settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First announced, then committed: in doubt twice, never not at all."""
    monkeypatch.setattr(module, "PAUSE", 0.01)
    series = ct_series(SHAPE)
    stored(bus, store, series, "one")
    delivered(bus, series[0].StudyInstanceUID, "one", 5)
    with assembling(settings, Forgetful(bus), store):  # type: ignore[arg-type]
        assert [told.digest for told in complete(bus, 2)] == [digest(series)] * 2
    assert committed(bus)


@pytest.mark.usefixtures("running")
def test_events_that_say_nothing_are_parked(bus: SqliteBus, port: int) -> None:
    """Data of another shape, UIDs that are none: each is a dead letter, and others go on."""
    uid = generate_uid()
    publish(bus, events.INSTANCE_STORED, {"tenant": "site"}, uid)
    publish(bus, events.INSTANCE_STORED, events.InstanceStored("site", "../..", "1.2", "1.3", "a"), uid)
    publish(bus, events.INSTANCES_DELIVERED, events.InstancesDelivered("site", "../..", "a", 1), uid)
    take(bus, topics.DEAD_LETTERS, 3)
    assert [letter.reason for letter in listing(bus, topics.DEAD_LETTERS)] == [
        "malformed-event",
        "invalid-uid",
        "invalid-uid",
    ]
    send(port, ct_series(SHAPE))
    complete(bus)


@pytest.mark.usefixtures("running")
def test_a_store_that_lost_an_instance_is_told(bus: SqliteBus, store: ImageStore) -> None:
    """The study is parked rather than computed from what is left, and replayed when the store is whole again."""
    series = ct_series(SHAPE)
    study = series[0].StudyInstanceUID
    path = store.path("site", study, series[4].SeriesInstanceUID, series[4].SOPInstanceUID)
    stored(bus, store, series, "one")
    content = path.read_bytes()
    path.unlink()
    delivered(bus, study, "one", 5)
    take(bus, topics.DEAD_LETTERS, 1)
    assert [letter.reason for letter in listing(bus, topics.DEAD_LETTERS)] == ["instance-missing"]
    assert list(bus.read(topics.STUDIES)) == []
    path.write_bytes(content)
    replay(bus, topics.DEAD_LETTERS, ids=None)
    assert complete(bus)[0].digest == digest(series)


@pytest.mark.usefixtures("running")
def test_a_stored_file_that_is_damaged_is_told(bus: SqliteBus, store: ImageStore) -> None:
    """An instance that cannot be read any more leaves the study parked, not shortened."""
    series = ct_series(SHAPE)
    study = series[0].StudyInstanceUID
    path = store.path("site", study, series[4].SeriesInstanceUID, series[4].SOPInstanceUID)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    stored(bus, store, series[:4], "one")
    delivered(bus, study, "one", 4)
    take(bus, topics.DEAD_LETTERS, 1)
    (letter,) = listing(bus, topics.DEAD_LETTERS)
    assert letter.reason == "instance-unreadable"


def test_the_trace_goes_on(
    settings: Settings, bus: SqliteBus, store: ImageStore, port: int, spans: InMemorySpanExporter
) -> None:
    """The assembly is a child of the reception, and the study's event of the assembly."""
    with assembling(settings, bus, store):
        send(port, ct_series(SHAPE))
        complete(bus)
    by_name = {span.name: span for span in spans.get_finished_spans()}
    root, assembly = by_name["receive study"], by_name["assemble study"]
    assert assembly.parent is not None
    assert assembly.parent.span_id == root.context.span_id
    (delivery,) = bus.read(topics.STUDIES)
    assert delivery.event.traceparent.split("-")[1:3] == [
        f"{root.context.trace_id:032x}",
        f"{assembly.context.span_id:016x}",
    ]


@pytest.mark.usefixtures("running")
def test_no_identifier_is_logged(bus: SqliteBus, port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a study comes to, its logs have its pseudonym alone."""
    caplog.set_level(logging.DEBUG)
    whole, gap, mixed = ct_series(SHAPE), ct_series(SHAPE), ct_series(SHAPE)
    mixed[0].PatientID = "SOMEBODY"
    for series in (whole, gap[:1] + gap[2:], mixed):
        send(port, series)
    complete(bus)
    told = outcomes(bus, 2)
    assert {each.reason for each in told} == {"missing-slices", "two-patients"}
    assert pseudonym("site", whole[0].StudyInstanceUID) in caplog.text
    said = caplog.text + "".join(each.detail for each in told)
    studies = [series[0].StudyInstanceUID for series in (whole, gap, mixed)]
    secrets = [JANE.name, "Doe", JANE.patient_id, JANE.birth_date, "SOMEBODY", *studies]
    assert [secret for secret in secrets if secret in said] == []

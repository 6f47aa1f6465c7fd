"""Success means stored and announced; everything else leaves the object with its sender, and says why."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)
from pynetdicom.dimse_primitives import C_STORE

from auscult.bus import events, topics
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.sqlite import SqliteBus
from auscult.domain.identity import pseudonym
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.listen.dicom_scp import DicomScp, transfer_syntaxes
from auscult.listen.pdu import LARGEST_PDU
from auscult.listen.reception import Reception
from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings
from dicom_factory import JANE, ct_series, encode
from dicom_sender import associate, associated, send, take
from dicom_sender import store as c_store

SHAPE = (4, 8, 8)


@dataclass
class FailingBus:
    """The bus, which is away while `away` is set."""

    bus: SqliteBus
    away: threading.Event = field(default_factory=threading.Event)

    def publish(self, topic: topics.Topic, event: CloudEvent, *, key: str) -> None:
        """Publish, or fail as a bus does."""
        if self.away.is_set():
            raise Retry("bus-unavailable", "the bus is away")
        self.bus.publish(topic, event, key=key)


@contextmanager
def listening(settings: Settings, bus: object, store: ImageStore) -> Iterator[int]:
    """Run a listener and give its port."""
    scp = DicomScp(settings, bus, store)  # type: ignore[arg-type]
    try:
        yield scp.start()
    finally:
        scp.stop()


def outcome(bus: SqliteBus) -> events.Outcome:
    """Return the one outcome that operators see."""
    (told,) = take(bus, topics.OUTCOMES, 1)
    return told.event.payload(events.Outcome)


def announced(bus: SqliteBus, count: int) -> tuple[list[events.InstanceStored], list[events.InstancesDelivered]]:
    """Wait for `count` events about instances and return them by kind."""
    deliveries = take(bus, topics.INSTANCES, count)
    kinds = {events.INSTANCE_STORED: events.InstanceStored, events.INSTANCES_DELIVERED: events.InstancesDelivered}
    told: list[object] = [delivery.event.payload(kinds[delivery.event.type]) for delivery in deliveries]
    return (
        [each for each in told if isinstance(each, events.InstanceStored)],
        [each for each in told if isinstance(each, events.InstancesDelivered)],
    )


def test_it_answers_an_echo(port: int) -> None:
    """C-ECHO succeeds."""
    with associated(port) as association:
        assert association.send_c_echo().Status == 0


def test_what_is_sent_is_stored_announced_and_acknowledged(port: int, bus: SqliteBus, store: ImageStore) -> None:
    """Each instance is in the store as it was sent, has its event, and the association's end comes last."""
    series = ct_series(SHAPE)
    assert send(port, series) == [0] * 4
    stored, (delivered,) = announced(bus, 5)
    study = series[0].StudyInstanceUID
    assert [told.sop_instance_uid for told in stored] == [dataset.SOPInstanceUID for dataset in series]
    assert delivered == events.InstancesDelivered("site", study, stored[0].association, 4)
    deliveries = list(bus.read(topics.INSTANCES))
    assert deliveries[-1].event.type == events.INSTANCES_DELIVERED
    assert {delivery.key for delivery in deliveries} == {f"site|{study}"}
    for dataset in series:
        path = store.path("site", study, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        assert InstanceHeader.read(path) == InstanceHeader.read(encode(dataset))


def test_studies_of_one_association_are_told_apart(port: int, bus: SqliteBus) -> None:
    """Each study has its own end, with its own count."""
    one, other = ct_series(SHAPE), ct_series((3, 8, 8))
    send(port, [*one, *other])
    _, delivered = announced(bus, 9)
    assert {told.study_uid: told.count for told in delivered} == {
        one[0].StudyInstanceUID: 4,
        other[0].StudyInstanceUID: 3,
    }


def test_a_study_sent_again_is_announced_again(port: int, bus: SqliteBus, store: ImageStore) -> None:
    """The store holds each instance once; the second association is told like the first."""
    series = ct_series(SHAPE)
    send(port, series)
    send(port, series)
    _, delivered = announced(bus, 10)
    assert [told.count for told in delivered] == [4, 4]
    assert len(store.instances("site", series[0].StudyInstanceUID)) == 4


def test_an_instance_with_other_content_is_refused(port: int, bus: SqliteBus) -> None:
    """A stored instance is never replaced."""
    series = ct_series(SHAPE)
    send(port, series[:1])
    series[0].PixelData = bytes(len(series[0].PixelData))
    assert send(port, series[:1]) == [0x0111]
    assert outcome(bus).reason == "instance-conflict"


def test_bytes_that_are_no_data_set_are_refused(port: int, bus: SqliteBus) -> None:
    """The sender gets `cannot understand` with a comment, the operator an outcome, and nothing is announced."""
    with associated(port) as association:
        answer = c_store(association, ct_series(SHAPE)[0], sent_as=b"this is not DICOM" * 9)
        assert answer.Status == 0xC000
        assert answer.ErrorComment.startswith("not-dicom")
        assert len(answer.ErrorComment) <= 64
        assert association.send_c_echo().Status == 0
    told = outcome(bus)
    assert (told.status, told.reason, told.study) == ("refused", "not-dicom", "")
    assert list(bus.read(topics.INSTANCES)) == []


def test_too_few_pixels_are_refused(port: int, bus: SqliteBus) -> None:
    """An image whose pixel data ends early is truncated; the others of its association are taken."""
    series = ct_series(SHAPE)
    series[1].PixelData = series[1].PixelData[:100]
    assert send(port, series) == [0, 0xC000, 0, 0]
    assert outcome(bus).reason == "truncated"
    _, (delivered,) = announced(bus, 4)
    assert delivered.count == 3


def test_another_instance_than_was_requested_is_refused(port: int, bus: SqliteBus) -> None:
    """The data set must be the instance that the request names."""
    one, other = ct_series(SHAPE)[:2]
    bare = encode(other)
    start = bare.index(b"\x08\x00\x05\x00CS")
    with associated(port) as association:
        assert c_store(association, one, sent_as=bare[start:]).Status == 0xA900
    assert outcome(bus).reason == "meta-mismatch"


def test_another_class_than_was_negotiated_is_refused(bus: SqliteBus, store: ImageStore) -> None:
    """A presentation context carries the SOP class for which it was accepted, and no other."""
    request = C_STORE()
    request.AffectedSOPClassUID = MRImageStorage
    event = SimpleNamespace(request=request, context=SimpleNamespace(abstract_syntax=CTImageStorage))
    answer = Reception("site", bus, store).on_store(event)  # type: ignore[arg-type]
    assert isinstance(answer, Dataset)
    assert answer.Status == 0x0122
    assert outcome(bus).reason == "context-mismatch"


def test_a_full_store_is_told_as_out_of_resources(settings: Settings, bus: SqliteBus) -> None:
    """0xA700, and not a byte is written."""
    store = ImageStore(settings.images, min_free_bytes=2**60)
    series = ct_series(SHAPE)
    with listening(settings, bus, store) as port:
        assert send(port, series[:1]) == [0xA700]
    told = outcome(bus)
    assert (told.reason, told.study) == ("out-of-space", pseudonym("site", series[0].StudyInstanceUID))
    assert store.instances("site", series[0].StudyInstanceUID) == []


def test_an_instance_that_cannot_be_announced_is_not_acknowledged(
    settings: Settings, bus: SqliteBus, store: ImageStore
) -> None:
    """While the bus is away the sender is told to keep the object; sent again, it is taken."""
    failing = FailingBus(bus)
    series = ct_series(SHAPE)
    with listening(settings, failing, store) as port:
        failing.away.set()
        assert send(port, series[:1]) == [0x0110]
        failing.away.clear()
        assert send(port, series[:1]) == [0]
    stored, delivered = announced(bus, 2)
    assert (len(stored), len(delivered)) == (1, 1)


def test_the_end_of_an_association_is_told_when_the_bus_is_back(
    settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its study would wait until the association counts as lost."""
    monkeypatch.setattr("auscult.listen.reception.LATER", (0.01,) * 500)
    failing = FailingBus(bus)
    series = ct_series(SHAPE)
    with listening(settings, failing, store) as port:
        with associated(port) as association:
            assert [c_store(association, dataset).Status for dataset in series] == [0] * 4
            failing.away.set()
        failing.away.clear()
        _, (delivered,) = announced(bus, 5)
    assert delivered.count == 4


def test_a_bug_is_no_success(port: int, bus: SqliteBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, the sender keeps the object and the association goes on."""

    def broken(_: bytes) -> InstanceHeader:
        raise ZeroDivisionError(JANE.name)

    monkeypatch.setattr("auscult.listen.reception.admit", broken)
    assert send(port, ct_series(SHAPE)[:2]) == [0x0110, 0x0110]
    told = [delivery.event.payload(events.Outcome) for delivery in take(bus, topics.OUTCOMES, 2)]
    assert {(each.reason, each.detail) for each in told} == {
        ("unexpected-error", "unexpected ZeroDivisionError; report it")
    }


def test_another_called_title_is_rejected(port: int) -> None:
    """Only senders that mean us are answered."""
    assert associate(port, title="OTHER").is_rejected


def test_an_abort_is_told_with_what_was_brought(port: int, bus: SqliteBus) -> None:
    """What was acknowledged before the abort stays, and is told as aborted."""
    association = associate(port)
    for dataset in ct_series(SHAPE)[:2]:
        assert c_store(association, dataset).Status == 0
    association.abort()
    _, (delivered,) = announced(bus, 3)
    assert (delivered.count, delivered.aborted) == (2, True)


def test_a_stop_tells_what_open_associations_brought(settings: Settings, bus: SqliteBus, store: ImageStore) -> None:
    """The listener ends with an association open and one connection that never asked for one."""
    scp = DicomScp(settings, bus, store)
    port = scp.start()
    association = associate(port)
    assert c_store(association, ct_series(SHAPE)[0]).Status == 0
    with socket.create_connection(("127.0.0.1", port)):
        scp.stop()
    _, (delivered,) = announced(bus, 2)
    assert (delivered.count, delivered.aborted) == (1, True)
    association.abort()


def test_a_pdu_of_absurd_length_ends_the_connection(port: int) -> None:
    """Its bytes are not waited for, and others are served."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"\x01\x00" + (LARGEST_PDU + 1).to_bytes(4, "big"))
        assert peer.recv(1) == b""
    with associated(port) as association:
        assert association.send_c_echo().Status == 0


def test_what_cannot_be_decoded_is_not_negotiated(port: int) -> None:
    """Of the syntaxes that a sender proposes, one is chosen for which there is a decoder."""
    offered = transfer_syntaxes()
    assert {RLELossless, JPEG2000Lossless} <= set(offered)
    assert {JPEGLosslessSV1, JPEGLSLossless, DeflatedExplicitVRLittleEndian} <= set(offered)
    association = associate(port)
    assert {context.transfer_syntax[0] for context in association.accepted_contexts} <= set(offered)
    association.release()


def test_a_port_in_use_is_said_before_serving(
    settings: Settings, bus: SqliteBus, store: ImageStore, port: int
) -> None:
    """A listener that cannot listen refuses to start, naming the settings."""
    second = DicomScp(settings.model_copy(update={"dicom_port": port}), bus, store)
    with pytest.raises(RefuseToStart, match="AUSCULT_DICOM_PORT"):
        second.start()
    second.stop()


def test_a_trace_begins_with_the_association(port: int, bus: SqliteBus, spans: InMemorySpanExporter) -> None:
    """One root, the instances as one span, the end's publishing; events carry the root, and no span per instance."""
    series = ct_series(SHAPE)
    send(port, series)
    take(bus, topics.INSTANCES, 5)
    deliveries = list(bus.read(topics.INSTANCES))
    root = next(span for span in spans.get_finished_spans() if span.parent is None)
    children = [
        span for span in spans.get_finished_spans() if span.parent and span.parent.span_id == root.context.span_id
    ]
    assert root.name == "receive study"
    assert root.attributes == {
        "study": pseudonym("site", series[0].StudyInstanceUID),
        "instances": 4,
        "aborted": False,
    }
    assert sorted(span.name for span in children) == ["C-STORE x4", "publish auscult.instances"]
    parts = [delivery.event.traceparent.split("-") for delivery in deliveries]
    assert {trace for _, trace, _, _ in parts} == {f"{root.context.trace_id:032x}"}
    assert [int(flags, 16) & 1 for *_, flags in parts] == [0, 0, 0, 0, 1]


def test_no_identifier_is_logged(port: int, bus: SqliteBus, caplog: pytest.LogCaptureFixture) -> None:
    """Names, ids and UIDs are in no log record, whatever became of the object."""
    caplog.set_level(logging.DEBUG)
    series = ct_series(SHAPE)
    send(port, series)
    series[0].PixelData = bytes(len(series[0].PixelData))
    series[1].SOPInstanceUID = generate_uid()
    series[1].PixelData = b"\0\0"
    send(port, series[:2])
    take(bus, topics.OUTCOMES, 2)
    assert pseudonym("site", series[0].StudyInstanceUID) in caplog.text
    assert [secret for secret in secrets(series[0]) if secret in caplog.text] == []


def secrets(dataset: Dataset) -> list[str]:
    """Return what names a patient or a study."""
    return [JANE.name, "Doe", dataset.PatientID, dataset.PatientBirthDate, dataset.StudyInstanceUID]

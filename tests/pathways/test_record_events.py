"""News of the record: merges and messages, resolved to one Patient or put into quarantine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.factory import open_bus
from auscult.bus.topics import FINDINGS, OUTCOMES, RECORD, STUDIES, WAITING
from auscult.domain.codes import LOINC, Code
from auscult.domain.study import Fact
from auscult.listen.messages import MessageStore
from auscult.listen.notifications import Own
from auscult.pathways.needs import look
from auscult.pathways.pathway import Need
from auscult.pathways.record_events import RecordEvents
from auscult.pathways.waking import Waker
from auscult.platform.errors import DeadLetter, Quarantine
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.sandbox import create_app
from fhir_samples import Server, finding, patient, put, result

SYSTEM = "urn:site:mrn"


@dataclass
class Site:
    """The handler on a sandbox record and a bus."""

    bus: Bus
    record: httpx.Client
    client: FhirClient
    store: MessageStore
    waker: Waker
    handler: RecordEvents

    def tell(self, event_type: str, told: object) -> None:
        """Handle one event."""
        self.handler.handle(Delivery(RECORD.name, 0, 0, "default|x", CloudEvent.of(event_type, "/test", told)))

    def message(self, kind: str, pid: str, mrg: str = "", born: str = "19600203") -> None:
        """Handle one HL7 v2 message."""
        text = (
            f"MSH|^~\\&|ADT|WARD|||2026||{kind}|M1|P|2.5\rPID|1||{pid}||DOE^JANE||{born}|F\r"
            + (f"MRG|{mrg}\r" if mrg else "")
        )  # fmt: skip
        name = self.store.put(text.encode())
        self.tell(events.MESSAGE_RECEIVED, events.MessageReceived("default", name, kind))

    def put(self, identity: str, *values: str, **elements: Any) -> None:
        """Hold a Patient with identifiers."""
        identifiers = [{"system": SYSTEM, "value": value} for value in values]
        put(self.record, patient(identity, identifier=identifiers, birthDate="1960-02-03", **elements))

    def woken(self) -> list[str]:
        """Return the studies that were asked to look again or to move."""
        return [delivery.event.type.split(".")[-2] for delivery in self.bus.read(STUDIES)]

    def wait(self, whose: str) -> None:
        """Let a run wait for a creatinine of a patient."""
        waits = events.RunWaits("default", "1.2", "d", "p", whose, ("creatinine",), ("Observation",), 0.0, 1e12)
        self.waker.note(waits.key, CloudEvent.of(events.RUN_WAITS, "/test", waits))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run a FHIR server."""
    with Server() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, server: Server) -> Iterator[Site]:
    """Return the handler on empty things."""
    server.app = create_app()
    bus = open_bus(f"sqlite:{tmp_path / 'bus.db'}")
    store, waker = MessageStore(tmp_path / "hl7"), Waker(bus, "default", 1e6)
    stop = threading.Event()
    stop.set()  # what is waited for between two tries is not waited for here
    with FhirClient(server.base, 5) as client, httpx.Client(base_url=server.base) as record:
        own = Own([server.base])
        handler = RecordEvents(bus, client, waker, own, store, {"HOSPITAL": SYSTEM, "1.2.3": SYSTEM}, stop, "default")
        yield Site(bus, record, client, store, waker, handler)
    bus.close()


def test_a_message_wakes_who_waits_for_its_patient(site: Site) -> None:
    """By either name of the assigning authority; then the message is forgotten."""
    site.put("p1", "MRN-1")
    site.wait("Patient/p1")
    site.message("ORU^R01", "MRN-1^^^HOSPITAL")
    site.message("ADT^A08", "MRN-1^^^&1.2.3&ISO")
    assert site.woken() == ["awaited", "awaited"]
    assert not list(site.store._folder.iterdir())


def test_a_message_that_came_twice_is_handled_once(site: Site) -> None:
    """The second finds it gone."""
    site.put("p1", "MRN-1")
    site.message("ADT^A08", "MRN-1^^^HOSPITAL")
    site.tell(events.MESSAGE_RECEIVED, events.MessageReceived("default", "0" * 64, "ADT^A08"))


def test_a_patient_whom_the_record_does_not_know_concerns_nobody(site: Site) -> None:
    """Feeds tell of everybody; it is told to the operators, and goes on."""
    site.message("ADT^A04", "MRN-9^^^HOSPITAL")
    (outcome,) = [delivery.event.payload(events.Outcome) for delivery in site.bus.read(OUTCOMES)]
    assert (outcome.status, outcome.reason) == ("skipped", "unknown-patient")


@pytest.mark.parametrize(
    ("pid", "born", "reason"),
    [
        ("MRN-1^^^ELSEWHERE", "19600203", "unknown-issuer"),
        ("MRN-1^^^HOSPITAL", "19610203", "patient-mismatch"),
        ("MRN-1^^^HOSPITAL~MRN-2^^^HOSPITAL", "19600203", "several-patients"),
    ],
)
def test_doubt_about_a_messages_patient_is_quarantined(site: Site, pid: str, born: str, reason: str) -> None:
    """The message stays until an operator releases it."""
    site.put("p1", "MRN-1")
    site.put("p2", "MRN-2")
    with pytest.raises(Quarantine) as doubt:
        site.message("ADT^A08", pid, born=born)
    assert doubt.value.reason == reason
    assert len(list(site.store._folder.iterdir())) == 1


def test_a_merge_in_the_record_moves_results_and_wakes_runs(site: Site) -> None:
    """Whether a Patient's link tells of it or an A40."""
    held = result(finding("nodule-1"))
    key = f"{held.study.key}|{held.pathway}"
    site.put("survivor", "MRN-2")
    whose = held.patient.partition("/")[2]
    site.put(whose, "MRN-1", active=False, link=[{"type": "replaced-by", "other": {"reference": "Patient/survivor"}}])
    site.bus.publish(FINDINGS, CloudEvent.of(events.RESULT, "/test", held), key=key)
    site.wait(held.patient)
    site.tell(events.RECORD_CHANGED, events.RecordChanged("default", held.patient))
    site.message("ADT^A40", "MRN-2^^^HOSPITAL", "MRN-1^^^HOSPITAL")
    moves = [d.event.payload(events.StudyMoved) for d in site.bus.read(STUDIES) if d.event.type == events.STUDY_MOVED]
    assert (
        moves
        == [events.StudyMoved("default", held.study.study_uid, held.pathway, held.patient, "Patient/survivor")] * 2
    )
    assert "awaited" in site.woken()


def test_a_merge_that_the_record_does_not_know_is_quarantined(site: Site) -> None:
    """Two living patients are two until the record says otherwise."""
    site.put("p1", "MRN-1")
    site.put("p2", "MRN-2")
    with pytest.raises(Quarantine, match="merge-not-in-record"):
        site.message("ADT^A40", "MRN-2^^^HOSPITAL", "MRN-1^^^HOSPITAL")


@pytest.mark.parametrize("reference", ["http://evil.example/Observation/1", "Observation/..", "x"])
def test_a_reference_to_elsewhere_is_parked_and_not_asked_for(site: Site, reference: str) -> None:
    """Whoever wrote it onto the bus."""
    with pytest.raises(DeadLetter):
        site.tell(events.RECORD_CHANGED, events.RecordChanged("default", reference))


CREATININE = Need("creatinine", "Observation", (Code(LOINC, "2160-0", ""),), not_older_than=30)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"effectiveDateTime": "2026-10-26"}, True),
        ({"effectiveDateTime": "2026-10-25"}, False),
        ({"effectiveDateTime": "2026-12-24T10:00:00Z"}, True),
        ({"effectiveDateTime": "2026"}, False),
        ({"status": "preliminary"}, False),
        ({"status": "entered-in-error"}, False),
        ({"valueQuantity": None}, False),
        ({"valueQuantity": {"value": 9, "comparator": "<"}}, False),
        ({"code": {"coding": [{"system": LOINC, "code": "2161-8"}]}}, False),
        ({"subject": {"reference": "Patient/p2"}}, False),
    ],
)
def test_what_counts_as_the_record_saying_so(site: Site, changes: dict[str, Any], counts: bool) -> None:
    """A valid value of this patient, coded so, and young enough on the day of the study."""
    site.put("p1", "MRN-1")
    site.put("p2", "MRN-2")
    observation = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "2160-0"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-11-20",
        "valueQuantity": {"value": 88, "unit": "umol/L", "code": "umol/L"},
    }
    put(site.record, {name: value for name, value in (observation | changes).items() if value is not None})
    age = Need("age", "Patient", element="birthDate")
    looked = look(site.client, "Patient/p1", (age, CREATININE), date(2026, 11, 25))
    assert looked.facts[0] == Fact("age", "Patient/p1", "1960-02-03")
    assert [need.name for need in looked.missing] == ([] if counts else ["creatinine"])
    if not changes:
        assert looked.facts[1] == Fact("creatinine", "Observation/o1", 88.0, "umol/L", "2026-11-20")


def test_of_several_values_the_newest_is_told(site: Site) -> None:
    """By when they were taken, not when they were entered."""
    site.put("p1", "MRN-1")
    for identity, day in (("new", "2026-11-22"), ("old", "2026-11-20")):
        put(
            site.record,
            {
                "resourceType": "Observation",
                "id": identity,
                "status": "final",
                "code": {"coding": [{"system": LOINC, "code": "2160-0"}]},
                "subject": {"reference": "Patient/p1"},
                "effectiveDateTime": day,
                "valueString": "normal",
            },
        )
    looked = look(site.client, "Patient/p1", (CREATININE,), date(2026, 11, 25))
    assert [fact.reference for fact in looked.facts] == ["Observation/new"]
    assert list(site.bus.read(WAITING)) == []

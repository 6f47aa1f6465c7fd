"""Runs that wait for the record: each order, exactly one run, a limit, and what operators see."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auscult.bus import dead_letters, events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.factory import open_bus
from auscult.bus.topics import FINDINGS, OUTCOMES, STUDIES, WAITING
from auscult.domain.codes import LOINC, Code
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Card, Result
from auscult.domain.identity import sop_digest
from auscult.domain.study import Fact, Patient, Study, StudyRef
from auscult.domain.volume import Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.pathways.joins import Joins
from auscult.pathways.needs import Looked
from auscult.pathways.pathway import Found, Models, Need, Needs
from auscult.pathways.waking import Waker
from auscult.pathways.worker import PathwayWorker
from auscult.platform.errors import DeadLetter, Retry
from auscult.publish.fhir.audit import Denial
from auscult.publish.fhir.consents import Refusal
from dicom_factory import ct_series, encode
from local_models import LocalModels

AGE = Need("age", "Patient", element="birthDate")
SMOKING = Need("smoking history", "Observation", (Code(LOINC, "72166-2", ""),))
CREATININE = Need("creatinine", "Observation", (Code(LOINC, "2160-0", ""),), not_older_than=30)
PATIENT = Patient("Patient/7", date(1960, 2, 3), "female")
WAIT = 100.0


@dataclass
class Waits:
    """A pathway that needs three things of the record, and counts its runs."""

    name: str = "waits"
    version: str = "1"
    modality: str = "CT"
    needs: Needs = field(default_factory=lambda: Needs((), (AGE, SMOKING, CREATININE), WAIT))
    budget: float = 60.0
    ran: list[tuple[Fact, ...]] = field(default_factory=list)

    def find(self, study: Study, patient: Patient, models: Models, deadline: Deadline) -> Found:
        """Count a run."""
        assert study.volume is not None
        assert models
        assert deadline.remaining > 0
        self.ran.append(patient.facts)
        return Found(())

    def card(self, found: Found) -> Card:
        """Say what was missing."""
        return Card("waited", "info", "; ".join(found.missing), "waits")


@dataclass
class Site:
    """A worker and what wakes it, on a bus, with a record of three names and a clock."""

    bus: Bus
    store: ImageStore
    ref: StudyRef
    pathway: Waits = field(default_factory=Waits)
    said: set[str] = field(default_factory=set)
    now: float = 1000.0
    patient: Patient = PATIENT
    refusal: Refusal | None = None
    written: list[Result] = field(default_factory=list)
    asked: list[date | None] = field(default_factory=list)
    audited: list[Denial] = field(default_factory=list)
    away: bool = False

    def look(self, patient: str, needs: Sequence[Need], on: date | None) -> Looked:
        """Say what the record says."""
        assert patient == self.patient.reference
        self.asked.append(on)
        facts = tuple(Fact(need.name, "Observation/1") for need in needs if need.name in self.said)
        return Looked(facts, tuple(need for need in needs if need.name not in self.said))

    def write(self, result: Result, deadline: Deadline, volume: Volume | None = None) -> bool:
        """Keep a result, as the record does."""
        assert deadline
        assert volume is not None
        self.written.append(result)
        return True

    def audit(self, denial: Denial) -> None:
        """Keep what is audited; fail once where the record is to be away."""
        if self.away:
            self.away = False
            raise Retry("fhir-unavailable", "see that it runs")
        self.audited.append(denial)

    def worker(self) -> PathwayWorker:
        """Return a worker that knows nothing but what is on the bus."""
        return PathwayWorker(
            (self.pathway,),
            self.bus,
            self.store,
            LocalModels(Path()),
            self,
            lambda _: self.patient,
            joins=Joins(self.bus, self.look, lambda: self.now),
            refusal_of=lambda _: self.refusal,
            audit_denial=self.audit,
            survivor_of=lambda _: self.patient.reference,
        )

    def images(self) -> None:
        """Announce the study."""
        told = events.StudyComplete(self.ref.tenant, self.ref.study_uid, self.ref.digest, 0.0)
        self.bus.publish(STUDIES, CloudEvent.of(events.STUDY_COMPLETE, "/test", told), key=self.ref.key)

    def work(self, *, again: bool = False) -> None:
        """Let a fresh worker handle what is new, or all of it again."""
        start = 0 if again else self._done
        for delivery in list(self.bus.read(STUDIES))[start:]:
            self._done += not again
            try:
                self.worker().handle(delivery)
            except DeadLetter as problem:
                dead_letters.park(self.bus, delivery, problem, tries=1, service="/test")

    _done: int = 0

    def waker(self) -> Waker:
        """Return a waker that knows what is on the bus."""
        waker = Waker(self.bus, "default", 1e6, lambda: self.now)
        for delivery in self.bus.read(WAITING):
            waker.note(delivery.key, delivery.event)
        return waker

    def bring(self, name: str) -> None:
        """Let something enter the record, or the study arrive, and the news of it do what they do."""
        if name == "images":
            self.images()
        else:
            self.said.add(name)
            reference = "Patient/7" if name == "age" else "Observation/1"
            change = events.RecordChanged("default", reference, "", "Patient/7")
            self.waker().wake(change, lambda _: "")
        self.work()

    def waits(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the states and missing names of what waits or waited, by the newest events."""
        newest: dict[str, events.RunWaits] = {}
        for delivery in self.bus.read(WAITING):
            newest[delivery.key] = delivery.event.payload(events.RunWaits)
        return [(run.state, run.missing) for run in newest.values()]

    def statuses(self) -> list[str]:
        """Return what operators see."""
        return [delivery.event.payload(events.Outcome).status for delivery in self.bus.read(OUTCOMES)]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageStore, StudyRef]:
    """Store a small CT."""
    store = ImageStore(tmp_path_factory.mktemp("images"), min_free_bytes=0)
    slices = ct_series((6, 16, 16), (1.0, 1.0, 1.0), hu=np.zeros((6, 16, 16), np.int16))
    for dataset in slices:
        data = encode(dataset)
        store.put("default", InstanceHeader.read(data), data)
    digest = sop_digest(dataset.SOPInstanceUID for dataset in slices)
    return store, StudyRef("default", str(slices[0].StudyInstanceUID), digest)


@pytest.fixture
def site(held: tuple[ImageStore, StudyRef], tmp_path: Path) -> Iterator[Site]:
    """Return a site whose record says nothing yet."""
    bus = open_bus(f"sqlite:{tmp_path / 'bus.db'}")
    yield Site(bus, *held)
    bus.close()


@pytest.mark.parametrize("order", list(itertools.permutations(["images", "age", "smoking history", "creatinine"])))
def test_each_order_gives_one_run_when_the_last_part_is_there(site: Site, order: tuple[str, ...]) -> None:
    """And none before; each step by a worker that has just been started."""
    for number, part in enumerate(order, start=1):
        site.bring(part)
        assert len(site.pathway.ran) == (number == 4)
        if "images" in order[:number] and number < 4:
            missing = {"age", "smoking history", "creatinine"} - set(order[:number])
            assert [(state, set(names)) for state, names in site.waits()] == [("waiting", missing)]
    assert len(site.pathway.ran[0]) == 3
    assert [result.status for result in site.written] == ["final"]
    site.bring("creatinine")
    assert len(site.pathway.ran) == 1


def test_all_that_is_told_again_starts_nothing_again(site: Site) -> None:
    """Two pieces of news wake the same run, and are delivered twice."""
    site.bring("images")
    site.said = {"age", "smoking history", "creatinine"}
    for _ in range(3):
        site.waker().wake(events.RecordChanged("default", "Observation/1", "", "Patient/7"), lambda _: "")
    site.work()
    assert len(site.pathway.ran) == 1
    assert [state for state, _ in site.waits()] == ["started"]
    assert site.statuses() == ["waiting", "published"]


def test_what_comes_while_the_wait_begins_is_not_missed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the note that is waited nobody could have woken it: it looks once more."""
    publish = site.bus.publish

    def published(topic: Any, event: CloudEvent, *, key: str) -> None:
        publish(topic, event, key=key)
        if topic is WAITING:
            site.said |= {"age", "smoking history", "creatinine"}

    monkeypatch.setattr(site.bus, "publish", published)
    site.bring("images")
    assert len(site.pathway.ran) == 1


def test_a_wait_without_what_is_required_ends_as_incomplete(site: Site) -> None:
    """At its limit it is parked; sent again after the record was completed, it runs."""
    site.said = {"age"}
    site.bring("images")
    site.now += WAIT - 1
    site.waker().tick()
    site.work()
    assert site.statuses() == ["waiting"]
    site.now += 2
    site.waker().tick()
    site.work()
    assert site.statuses() == ["waiting", "incomplete", "dead-lettered"]
    assert [state for state, _ in site.waits()] == ["given-up"]
    newest = list(site.bus.read(WAITING))[-1].event.payload(events.RunWaits)
    assert (newest.reason, newest.missing) == ("needs-missing", ("smoking history", "creatinine"))
    (letter,) = dead_letters.listing(site.bus, dead_letters.DEAD_LETTERS)
    assert letter.reason == "needs-missing"
    assert "smoking history, creatinine" in letter.detail
    site.said = {"age", "smoking history", "creatinine"}
    assert dead_letters.replay(site.bus, dead_letters.DEAD_LETTERS, ids=None) == 1
    site.work()
    assert len(site.pathway.ran) == 1
    assert site.statuses()[-1] == "published"
    assert [state for state, _ in site.waits()] == ["started"], "no chart says any more that nothing comes"


def test_a_pathway_that_does_not_wait_says_so_all_the_same(site: Site) -> None:
    """Without patience the study is parked at once, and the chart learns what was missing."""
    site.pathway.needs = Needs((), (AGE, CREATININE), 0.0)
    site.said = {"age"}
    site.bring("images")
    assert site.waits() == [("given-up", ("creatinine",))]
    assert site.statuses() == ["incomplete", "dead-lettered"]


def test_what_is_only_wanted_ends_as_a_degraded_run(site: Site) -> None:
    """The card says what the record did not."""
    record = (AGE, replace(CREATININE, required=False))
    site.pathway.needs = Needs((), record, WAIT)
    site.said = {"age"}
    site.bring("images")
    site.now += WAIT
    site.waker().tick()
    site.work()
    (result,) = site.written
    assert (result.status, result.card.detail) == ("degraded", "the record does not say in time: creatinine")
    assert site.statuses() == ["waiting", "degraded"]


def test_a_pathway_that_waits_for_nothing_is_as_it_was(site: Site) -> None:
    """With no needs of the record it is not even asked."""
    site.pathway.needs = Needs(())
    site.bring("images")
    assert len(site.pathway.ran) == 1
    assert site.asked == []
    assert site.waits() == []


def test_a_newer_version_of_the_study_takes_the_wait_over(site: Site) -> None:
    """What wakes the old one does nothing."""
    site.bring("images")
    (delivery,) = site.bus.read(WAITING)
    old = delivery.event.payload(events.RunWaits)
    newer = replace(old, digest=sop_digest(["1.2"]))
    site.bus.publish(WAITING, CloudEvent.of(events.RUN_WAITS, "/test", newer), key=newer.key)
    site.said = {"age", "smoking history", "creatinine"}
    site.bus.publish(STUDIES, CloudEvent.of(events.STUDY_AWAITED, "/test", old), key=site.ref.key)
    site.work()
    assert site.pathway.ran == []


def test_news_of_another_patient_or_kind_wake_nobody(site: Site) -> None:
    """Whom an event is about is read from the record where it does not say, and only where somebody waits."""
    site.bring("images")
    waker = site.waker()
    read: list[str] = []

    def patient_of(reference: str) -> str:
        read.append(reference)
        return "Patient/7"

    assert waker.wake(events.RecordChanged("default", "Observation/1", "", "Patient/8"), patient_of) == 0
    assert waker.wake(events.RecordChanged("default", "Condition/1"), patient_of) == 0
    assert read == []
    assert waker.wake(events.RecordChanged("default", "Observation/1"), patient_of) == 1
    assert waker.wake(events.RecordChanged("default", "Patient/7"), patient_of) == 1
    assert waker.wake_patients({"Patient/8"}) == 0
    assert read == ["Observation/1"]


def test_whoever_waits_looks_again_now_and_then(site: Site) -> None:
    """Also where nobody tells of anything; and at once where its time passed while nobody looked."""
    site.bring("images")
    waker = Waker(site.bus, "default", 10, lambda: site.now)
    for delivery in site.bus.read(WAITING):
        waker.note(delivery.key, delivery.event)
    before = len(list(site.bus.read(STUDIES)))
    for _ in range(3):
        site.now += 5
        waker.tick()
    assert len(list(site.bus.read(STUDIES))) == before + 1
    site.now += 1000
    site.waker().tick()
    assert len(list(site.bus.read(STUDIES))) == before + 2


def test_who_denies_is_not_computed(site: Site) -> None:
    """No pathway runs, none waits; the denial is audited, under the same id at each try, and then told."""
    site.away = True
    site.refusal = Refusal("consent-denied", "a Consent in the record denies it")
    site.said = {"age", "smoking history", "creatinine"}
    with pytest.raises(Retry):
        site.bring("images")
    assert list(site.bus.read(OUTCOMES)) == []
    site.work(again=True)
    site.work(again=True)
    assert site.pathway.ran == []
    first, second = site.audited
    assert first == second
    assert (first.study, first.patient, first.refusal) == (site.ref, PATIENT.reference, site.refusal)
    outcome, _ = [delivery.event.payload(events.Outcome) for delivery in site.bus.read(OUTCOMES)]
    assert (outcome.status, outcome.reason) == ("denied", "consent-denied")


def test_consent_that_is_withdrawn_while_a_run_waits_counts(site: Site) -> None:
    """It is asked for again before the run."""
    site.bring("images")
    site.refusal = Refusal("opted-out", "the patient opted out")
    for name in ("age", "smoking history", "creatinine"):
        site.bring(name)
    assert site.pathway.ran == []
    assert site.statuses() == ["waiting", "denied"]
    assert [state for state, _ in site.waits()] == ["given-up"]


def test_a_result_follows_its_patient_through_a_merge(site: Site) -> None:
    """The card is announced for the survivor; a result that is another's already stays."""
    site.said = {"age", "smoking history", "creatinine"}
    site.bring("images")
    for prior, patient in (("Patient/7", "Patient/8"), ("Patient/7", "Patient/9")):
        moved = events.StudyMoved("default", site.ref.study_uid, "waits", prior, patient)
        site.worker().handle(
            Delivery(STUDIES.name, 0, 0, site.ref.key, CloudEvent.of(events.STUDY_MOVED, "/test", moved))
        )
    (newest,) = [delivery.event.payload(Result) for delivery in site.bus.read(FINDINGS)]
    assert newest.patient == "Patient/8"
    assert site.statuses() == ["published", "merged"]

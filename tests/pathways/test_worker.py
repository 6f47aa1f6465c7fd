"""The worker: from a complete study on the bus to a written and announced result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.factory import open_bus
from auscult.bus.switches import Switches
from auscult.bus.topics import FINDINGS, OUTCOMES, PROGRESS, STUDIES, Topic
from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference, Result
from auscult.domain.identity import sop_digest
from auscult.domain.study import Patient, RiskFactors, Study, StudyRef
from auscult.domain.volume import Region, Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.listen.expectation import Step, expect
from auscult.pathways.governed import GovernedModels
from auscult.pathways.lung_nodule import PATHWAY
from auscult.pathways.progress import Announcer
from auscult.pathways.worker import Archiver, PathwayWorker
from auscult.platform.errors import DeadLetter, Quarantine, Retry
from dicom_factory import ct_series, encode, mr_series, structure_set
from local_models import LocalModels

PATIENT = Patient("Patient/7", date(1960, 2, 3), "female", RiskFactors(emphysema=True))
RADIUS = 5.0
CENTRE = np.array([-4.0, -14.0, 52.0])


@dataclass
class Record:
    """A sink that keeps what was written, and can fail."""

    written: list[Result] = field(default_factory=list)
    failing: bool = False
    problem: Exception | None = None

    def write(self, result: Result, deadline: Deadline, volume: Volume | None = None) -> bool:
        """Keep `result`."""
        assert volume is not None
        assert deadline.remaining > 0
        if self.failing:
            raise Retry("fhir-unavailable", "down")
        if self.problem:
            raise self.problem
        new = result not in self.written
        self.written.append(result)
        return new


@dataclass
class Pacs:
    """An archiver that keeps what was written, and can fail."""

    problem: Exception | None = None
    written: list[tuple[Result, int]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None

    def write(self, result: Result, regions: Sequence[Region], study: Study, deadline: Deadline) -> bool:
        """Keep `result` and the size of its regions."""
        assert deadline.remaining > 0
        assert study.ref == result.study
        self.before()
        if self.problem:
            raise self.problem
        self.written.append((result, sum(int(region.mask.sum()) for region in regions)))
        self.after()
        return True


@dataclass
class Site:
    """One worker with a bus, a store with a study in it, and a record."""

    bus: Bus
    store: ImageStore
    models: LocalModels
    record: Record
    ref: StudyRef
    archiver: Archiver | None = None
    switches: Switches = field(default_factory=Switches)
    announcer: Announcer | None = None

    def told(self, **changes: object) -> CloudEvent:
        """Return the event that announces the study."""
        told = events.StudyComplete(self.ref.tenant, self.ref.study_uid, self.ref.digest, 0.0)
        return CloudEvent.of(events.STUDY_COMPLETE, "/test", told, **changes)  # type: ignore[arg-type]

    def handle(self, event: CloudEvent | None = None, **changes: object) -> None:
        """Announce the study, and let the worker handle it."""
        event = event or self.told(**changes)
        worker = PathwayWorker(
            (PATHWAY,),
            self.bus,
            self.store,
            GovernedModels(self.models, self.switches),
            self.record,
            self.patient_of,
            self.archiver,
            self.announcer or Announcer(self.bus),
        )
        delivery = Delivery(STUDIES.name, 0, 0, self.ref.key, event)
        try:
            worker.handle(delivery)
        except DeadLetter as problem:
            worker.failed(delivery, problem)
            raise

    def patient_of(self, study: Study) -> Patient:
        """Resolve the study's patient."""
        assert study.identity.patient_id == "P-1"
        return PATIENT

    def outcomes(self) -> list[events.Outcome]:
        """Return what operators see."""
        return [delivery.event.payload(events.Outcome) for delivery in self.bus.read(OUTCOMES)]


def circle(height: float) -> np.ndarray:
    """Return the outline of the sphere at `height` mm above its centre."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.sqrt(RADIUS**2 - height**2)
    flat = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full_like(angles, height)], axis=1)
    return np.asarray(CENTRE + flat)


@pytest.fixture
def site(tmp_path: Path, models: LocalModels) -> Iterator[Site]:
    """Store a CT with a sphere of tissue of 10 mm, outlined as a GTV."""
    spacing = (1.0, 0.8, 0.8)
    z, y, x = (np.arange(n) * s + o for n, s, o in zip((24, 40, 40), spacing, (40.0, -30.0, -20.0), strict=True))
    away = (z[:, None, None] - CENTRE[2]) ** 2 + (y[None, :, None] - CENTRE[1]) ** 2 + (x - CENTRE[0]) ** 2
    hu = np.where(away <= RADIUS**2, 40, -850).astype(np.int16)
    slices = ct_series((24, 40, 40), spacing, hu=hu)
    drawn = structure_set(slices, {"GTV-1": [circle(height) for height in np.arange(-4.0, 5.0)], "Heart": []})
    store = ImageStore(tmp_path / "images", min_free_bytes=0)
    datasets = [*slices, drawn]
    for dataset in datasets:
        data = encode(dataset)
        store.put("default", InstanceHeader.read(data), data)
    digest = sop_digest(dataset.SOPInstanceUID for dataset in datasets)
    bus = open_bus(f"sqlite:{tmp_path / 'bus.db'}")
    yield Site(bus, store, models, Record(), StudyRef("default", str(slices[0].StudyInstanceUID), digest))
    bus.close()


def test_another_tenants_study_is_left_to_its_own_workers(site: Site) -> None:
    """A result never goes to another tenant's record."""
    told = events.StudyComplete("north", site.ref.study_uid, site.ref.digest, 0.0)
    event = CloudEvent.of(events.STUDY_COMPLETE, "/test", told)
    worker = PathwayWorker(
        (PATHWAY,), site.bus, site.store, site.models, site.record, site.patient_of, tenant="south"
    )
    worker.handle(Delivery(STUDIES.name, 0, 0, f"north|{site.ref.study_uid}", event))
    assert site.record.written == []
    assert site.outcomes() == []


def test_a_drawn_tumour_becomes_a_written_result_and_a_finding(site: Site) -> None:
    """Size, volume, radiomics, risk and advice are in the record, then on the findings topic, then an outcome."""
    site.handle()
    (result,) = site.record.written
    (delivery,) = site.bus.read(FINDINGS)
    assert delivery.event.payload(Result) == result
    assert delivery.key == f"{site.ref.key}|lung_nodule"
    (finding,) = result.findings
    assert finding.appearance == "solid"
    numbers = {m.name: m.value for group in finding.groups for m in group.measurements}
    assert numbers["longest-diameter"] == pytest.approx(2 * RADIUS, abs=0.8)
    assert numbers["perpendicular-diameter"] == pytest.approx(2 * RADIUS, abs=0.8)
    assert numbers["stat_mean"] == pytest.approx(40, abs=60)
    assert finding.risks[0].assumed, "nothing is known of the family history"
    assert finding.recommendations[0].rule == "CONSIDER_CT_3M_PETCT_OR_TISSUE"
    assert [outcome.status for outcome in site.outcomes()] == ["published"]


def test_charts_are_told_what_is_coming_and_how_it_ended(site: Site) -> None:
    """The patient is known when it begins; the result says sex and decade of age, and no more of the person."""
    site.handle()
    began, ended = (delivery.event.payload(events.Progress) for delivery in site.bus.read(PROGRESS))
    assert (began.state, began.patient, began.modality, began.budget) == ("started", PATIENT.reference, "CT", 120.0)
    assert (ended.state, ended.pathway) == ("ended", "lung_nodule")
    assert ended.took > 0
    [result] = site.record.written
    assert (result.sex, result.age_band) == (PATIENT.sex, "60-69")


def test_charts_are_told_that_nothing_comes(site: Site) -> None:
    """An event that is parked after the patient was known leaves nobody waiting."""
    site.record.problem = DeadLetter("refused-by-record", "see the record")
    with pytest.raises(DeadLetter):
        site.handle()
    states = [delivery.event.payload(events.Progress).state for delivery in site.bus.read(PROGRESS)]
    assert states == ["started", "failed"]


def test_a_model_that_is_switched_off_is_not_asked(site: Site) -> None:
    """The result is degraded and names the model; what other models say of it stands."""
    site.switches.take(events.ModelSwitched("brock_full_no_spiculation", enabled=False, number=1, reason="", by=""))
    site.handle()
    [result] = site.record.written
    assert result.status == "degraded"
    assert "brock_full_no_spiculation is switched off" in result.reasons[0]
    assert not result.findings[0].risks


def test_the_same_event_again_gives_an_identical_result(site: Site) -> None:
    """Redelivered after a crash, it writes the same bytes: nothing depends on when it ran."""
    site.handle()
    first = site.record.written[0]
    event_time = next(iter(site.bus.read(FINDINGS))).event.payload(Result).recorded
    assert first.recorded == event_time
    told = events.StudyComplete(site.ref.tenant, site.ref.study_uid, site.ref.digest, 0.0)
    again = CloudEvent(events.STUDY_COMPLETE, "/test", CloudEvent.of("t", "s", told).data, time=event_time)
    worker = PathwayWorker((PATHWAY,), site.bus, site.store, site.models, site.record, site.patient_of)
    worker.handle(Delivery(STUDIES.name, 0, 0, site.ref.key, again))
    assert site.record.written[1] == first


def test_nothing_is_announced_before_it_is_written(site: Site) -> None:
    """Where the record cannot be reached, the event is to be tried again, and no card appears."""
    site.record.failing = True
    with pytest.raises(Retry):
        site.handle()
    assert list(site.bus.read(FINDINGS)) == []
    assert site.outcomes() == []


def test_the_card_is_out_before_the_pacs_is_asked(site: Site) -> None:
    """It gets the voxels of each finding; published is what is in both."""
    site.archiver = pacs = Pacs(before=lambda: seen.extend((len(list(site.bus.read(FINDINGS))), site.outcomes())))
    seen: list[object] = []
    site.handle()
    assert seen == [1, []]
    ((result, voxels),) = pacs.written
    assert result == site.record.written[0]
    assert voxels > 0
    assert [outcome.status for outcome in site.outcomes()] == ["published"]


class Killed(BaseException):
    """The process is gone: nothing that handles errors sees it."""


def killed() -> None:
    """End the process."""
    raise Killed


@pytest.mark.parametrize("point", ["record", "findings", "pacs", "pacs, after", "outcome"])
def test_a_worker_killed_at_any_point_leaves_one_card_and_one_set_of_objects(
    site: Site, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor does it again: the same result, under the same key, and all that was not written."""
    site.archiver = pacs = Pacs()
    event = site.told()
    with monkeypatch.context() as fault:
        if point == "record":
            fault.setattr(site.record, "write", lambda *_: killed())
        elif point.startswith("pacs"):
            setattr(pacs, "after" if "after" in point else "before", killed)
        else:
            _dies_on(fault, site.bus, FINDINGS if point == "findings" else OUTCOMES)
        with pytest.raises(Killed):
            site.handle(event)
    pacs.before = pacs.after = lambda: None
    assert site.outcomes() == []
    site.handle(event)
    assert {result.identity(ModelReference("m", "1", ""), "x") for result in site.record.written} == {
        result.identity(ModelReference("m", "1", ""), "x") for result, _ in pacs.written
    }
    assert len({delivery.key for delivery in site.bus.read(FINDINGS)}) == 1
    assert len({repr(delivery.event.payload(Result)) for delivery in site.bus.read(FINDINGS)}) == 1
    assert len({repr(result) for result, _ in pacs.written}) == 1
    assert [outcome.status for outcome in site.outcomes()] == ["published"]


def _dies_on(fault: pytest.MonkeyPatch, bus: Bus, topic: Topic) -> None:
    """Let the process end when it would publish on `topic`."""
    publish = bus.publish
    fault.setattr(bus, "publish", lambda on, event, *, key: killed() if on is topic else publish(on, event, key=key))


@pytest.mark.parametrize(
    ("problem", "raised"),
    [
        (Retry("pacs-unavailable", "down"), Retry),
        (DeadLetter("pacs-refused", "no SEG"), DeadLetter),
        (KeyError("Doe^Jane"), DeadLetter),
    ],
)
def test_what_the_pacs_does_not_take_keeps_no_card_back(
    site: Site, problem: Exception, raised: type[Exception]
) -> None:
    """The finding is announced, and the event is tried again or parked, a bug's too; then it is published."""
    site.archiver = Pacs(problem)
    with pytest.raises(raised) as caught:
        site.handle()
    assert "Doe" not in str(caught.value)
    assert len(list(site.bus.read(FINDINGS))) == 1
    assert site.outcomes() == []
    states = [delivery.event.payload(events.Progress).state for delivery in site.bus.read(PROGRESS)]
    assert states == ["started", "ended"], "no chart says that the analysis failed"
    if isinstance(problem, Retry):
        site.archiver.problem = None
        site.handle()
        assert [outcome.status for outcome in site.outcomes()] == ["published"]


def test_a_result_that_is_out_is_not_told_as_coming(site: Site) -> None:
    """The PACS is tried again for minutes: all the while the chart has the result, and nothing beside it."""
    site.archiver, site.announcer = Pacs(Retry("pacs-unavailable", "down")), Announcer(site.bus)
    for _ in range(3):
        with pytest.raises(Retry):
            site.handle()
    states = [delivery.event.payload(events.Progress).state for delivery in site.bus.read(PROGRESS)]
    assert states == ["started", "ended"]


def test_a_passed_deadline_gives_a_card_that_says_so(site: Site) -> None:
    """What needs no model is still measured; the card and the outcome are degraded, never silent."""
    site.handle(deadline=Deadline.after(-1))
    (result,) = site.record.written
    assert result.status == "degraded"
    assert "Incomplete answer" in result.card.detail
    assert result.card.indicator == "warning"
    assert [outcome.status for outcome in site.outcomes()] == ["degraded"]


def test_an_incomplete_study_is_not_computed_unless_the_cards_allow_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome names the models; where all allow it the result is degraded, and says why."""
    (path, *_) = site.store.instances(site.ref.tenant, site.ref.study_uid)
    named = Step("COMPLETED", {path.parent.name: [path.stem, "1.2.3"]})
    expect(site.store, site.ref.tenant, site.ref.study_uid, "1.2", named)
    site.handle()
    (told,) = site.outcomes()
    assert (told.status, told.reason) == ("incomplete", "lung_nodule")
    assert "instances-missing" in told.detail
    assert "brock_full" in told.detail
    assert site.record.written == []
    strict = site.models.reference
    monkeypatch.setattr(site.models, "reference", lambda name: replace(strict(name), incomplete_studies=True))
    site.handle()
    (result,) = site.record.written
    assert result.status == "degraded"
    assert result.reasons == ("the study is incomplete (instances-missing)",)


def test_a_tilted_gantry_is_resampled_where_the_cards_allow_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the outcome names the models; else the result says what was done, and outlines lie on the images."""
    store = ImageStore(tmp_path / "tilted", min_free_bytes=0)
    for path in site.store.instances(site.ref.tenant, site.ref.study_uid):
        dataset = dcmread(path)
        if dataset.Modality == "CT":
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, y + 0.2 * dataset.InstanceNumber, z]
        store.put("default", InstanceHeader.read(encode(dataset)), encode(dataset))
    site.store, site.archiver = store, Pacs()
    site.handle()
    (told,) = site.outcomes()
    assert (told.status, told.reason) == ("incomplete", "lung_nodule")
    assert "gantry-tilt" in told.detail
    assert site.record.written == []
    strict = site.models.reference
    monkeypatch.setattr(site.models, "reference", lambda name: replace(strict(name), resampled_studies=True))
    site.handle()
    (result,) = site.record.written
    assert result.status == "final"
    assert "gantry tilt of 11.3 degrees" in result.processing[0]
    assert result.processing[0] in result.card.detail
    (finding,) = result.findings
    middle = np.mean([corner for polygon in finding.outline.polygons for corner in polygon], axis=0)
    shift = 0.2 * (finding.outline.slice_index + 1)
    assert middle[1] * 0.8 + shift - 30 == pytest.approx(CENTRE[1], abs=0.8)


def test_a_study_that_no_pathway_reads_is_told(site: Site, tmp_path: Path) -> None:
    """An MR makes a volume, and is nothing for a pathway of CT."""
    store = ImageStore(tmp_path / "mr", min_free_bytes=0)
    slices = mr_series()
    for dataset in slices:
        store.put("default", InstanceHeader.read(encode(dataset)), encode(dataset))
    digest = sop_digest(dataset.SOPInstanceUID for dataset in slices)
    site.store, site.ref = store, StudyRef("default", str(slices[0].StudyInstanceUID), digest)
    site.handle()
    assert [(told.status, told.reason) for told in site.outcomes()] == [("skipped", "no-pathway")]


def test_a_model_that_fails_leaves_the_rest_standing(site: Site) -> None:
    """Without the risk model the size is still given, and the reason is on the card."""
    site.models.down = {"brock_full_no_spiculation"}
    site.handle()
    (result,) = site.record.written
    assert result.findings[0].risks == ()
    assert {"size", "volume", "radiomics/morph", "radiomics/cm/3D_comb"} <= {
        group.name for group in result.findings[0].groups
    }
    assert "brock_full_no_spiculation" in result.card.detail


def test_a_study_that_changed_meanwhile_is_not_computed(site: Site) -> None:
    """The event names one version of the study; another is in the store, and its own event follows."""
    site.ref = StudyRef(site.ref.tenant, site.ref.study_uid, sop_digest(["1.2.3"]))
    site.handle()
    assert site.record.written == []
    assert [(outcome.status, outcome.reason) for outcome in site.outcomes()] == [("superseded", "study-changed")]


def test_doubt_about_the_patient_stops_everything(site: Site) -> None:
    """No model is asked and nothing is written."""

    def in_doubt(_study: Study) -> Patient:
        raise Quarantine("patient-mismatch", "the images and the record differ in sex")

    site.patient_of = in_doubt  # type: ignore[method-assign]
    with pytest.raises(Quarantine):
        site.handle()
    assert site.models.asked == []
    assert site.record.written == []

"""Runs the pathways: a complete study in, a result in the record and on the findings topic out.

A pathway that needs something of the record waits for it (`joins`), and starts when a wake-up finds it there.

The order is the promise (write, then commit): FHIR write, findings event, PACS write, outcome, and only then does
the consumer loop commit the offset. A worker that dies in between does it again, and writes the same objects.
No card waits for the PACS: what it does not take is tried again when the card is out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.topics import FINDINGS, OUTCOMES
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Finding, Result
from auscult.domain.study import Patient, Study, StudyRef
from auscult.domain.volume import NotHounsfieldError, Region, Volume
from auscult.imaging.filling import Reading
from auscult.imaging.slices import RESAMPLABLE
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import NO_SERIES, load_study
from auscult.listen.expectation import Expectation
from auscult.pathways.comparisons import Comparisons
from auscult.pathways.joins import Joins, Met
from auscult.pathways.pathway import Found, Models, Pathway
from auscult.pathways.progress import Announcer
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter, Quarantine, Retry, Superseded, TellClinician
from auscult.publish.fhir.audit import Denial
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.consents import Refusal
from auscult.publish.fhir.patients import resolve, risk_factors

OLDEST, LAST_DECADE = 130, 90
"""Years: no age is beyond, and those from 90 on are one band, since so few are."""
PUBLISH_GRACE = 15.0
"""Seconds for publishing a degraded result whose deadline is over: late is better than silent."""


class Sink(Protocol):
    """Where results are written before they are announced."""

    def write(self, result: Result, deadline: Deadline, volume: Volume | None = None) -> bool:
        """Write `result` once; False where it was there before. `volume`: on which its findings are seen."""


class Archiver(Protocol):
    """Where results are written as DICOM objects."""

    def write(self, result: Result, regions: Sequence[Region], study: Study, deadline: Deadline) -> bool:
        """Write what of `result` is not there; False where all was. `regions`: of its findings, in their order."""


@dataclass(frozen=True)
class PathwayWorker:
    """Handles deliveries of the studies topic."""

    pathways: Sequence[Pathway]
    bus: Bus
    store: ImageStore
    models: Models
    sink: Sink
    patient_of: Callable[[Study], Patient]
    """Resolves a study to its one FHIR Patient; Quarantine where there is doubt."""
    archiver: Archiver | None = None
    """The PACS, where results go there."""
    progress: Announcer | None = None
    """Tells charts what is being computed."""
    comparisons: Comparisons | None = None
    """With patients' earlier studies; None: none are made."""
    joins: Joins | None = None
    """Needed where a pathway needs something of the record."""
    refusal_of: Callable[[Patient], Refusal | None] = lambda _: None
    """Why a patient is not computed; None where nothing speaks against it."""
    audit_denial: Callable[[Denial], None] = lambda _: None
    """Writes into the record that a study is not computed, before it is told. Raises Retry and DeadLetter."""
    survivor_of: Callable[[str], str] = str
    """Which `Patient/<id>` stands for one after merges."""
    tenant: str = ""
    """Whose studies are handled, as their results go to this tenant's record; empty: everybody's."""

    def handle(self, delivery: Delivery) -> None:
        """Run each pathway that the study triggers, or the one that waited for what is there now.

        Another tenant's studies are left to its own workers.
        """
        event = delivery.event
        if self.tenant and delivery.key.partition("|")[0] != self.tenant:
            return
        if event.type == events.STUDY_MOVED:
            self._move(event.payload(events.StudyMoved), delivery)
        elif event.type == events.STUDY_AWAITED:
            self._look_again(event.payload(events.RunWaits), delivery)
        else:
            told = event.payload(events.StudyComplete)
            self._start(StudyRef(told.tenant, told.study_uid, told.digest), self.pathways, delivery)

    def _start(self, ref: StudyRef, pathways: Sequence[Pathway], delivery: Delivery) -> None:
        """Run what the study triggers, on one volume after the other; raise what is then still wrong."""
        absent, problems = list[str](), list[Retry | DeadLetter]()
        for modality, reading in dict.fromkeys(map(_reading, pathways)):
            alike = [pathway for pathway in pathways if _reading(pathway) == (modality, reading)]
            try:
                problems += self._start_on(modality, reading, ref, alike, delivery)
            except DeadLetter as problem:
                if problem.reason == NO_SERIES:
                    absent.append(modality)
                    self._close(ref, alike, "given-up")
                else:
                    problems.append(problem)
        if absent and len(absent) == len(set(map(_reading, pathways))):
            detail = f"the installed pathways read {', '.join(dict.fromkeys(absent))}, which the study has not"
            self._tell(ref, "skipped", "no-pathway", detail)
        for unsolved in problems:
            raise unsolved

    def _start_on(
        self, modality: str, reading: Reading, ref: StudyRef, pathways: Sequence[Pathway], delivery: Delivery
    ) -> list[Retry | DeadLetter]:
        try:
            study = self._load(ref, modality, reading)
        except Superseded as newer:
            self._tell(ref, "superseded", newer.reason, str(newer.args[0]))
            self._close(ref, pathways, "given-up")
            return []
        except DeadLetter as problem:
            if problem.reason not in RESAMPLABLE:
                raise
            pathways = [pathway for pathway in pathways if self._resamples(pathway, ref, problem.reason)]
            if not pathways:
                return []
            study = self._load(ref, modality, replace(reading, resample=True))
        with telemetry.span("resolve patient"):
            patient = self.patient_of(study)
            refusal = self.refusal_of(patient)
        if refusal is not None:
            self.audit_denial(Denial(ref, patient.reference, refusal, delivery.event.id, delivery.event.time))
            self._tell(ref, "denied", refusal.reason, refusal.detail)
            self._close(ref, pathways, "given-up")
            return []
        allowed = [pathway for pathway in pathways if self._allowed(pathway, ref)]
        problems = [self._join(pathway, study, patient, delivery) for pathway in allowed]
        return [unsolved for unsolved in problems if unsolved is not None]

    def _load(self, ref: StudyRef, modality: str, reading: Reading) -> Study:
        with telemetry.span("load study", study=ref.pseudonym):
            return load_study(ref, self.store, modality, reading)

    def _resamples(self, pathway: Pathway, ref: StudyRef, reason: str) -> bool:
        """Whether a pathway may compute slices that make no regular grid: only where each model's card says so."""
        names = pathway.needs.models
        strict = [name for name in names if not self.models.reference(name).resampled_studies]
        if names and not strict:
            return True
        detail = f"not computed ({reason}): the cards of {', '.join(strict)} do not allow resampled studies"
        self._tell(ref, "incomplete", pathway.name, detail)
        self._close(ref, [pathway], "given-up")
        return False

    def _look_again(self, waits: events.RunWaits, delivery: Delivery) -> None:
        """Start a run that waited, where what it needs is there; one that was woken before has started."""
        ref = StudyRef(waits.tenant, waits.study_uid, waits.digest)
        pathways = [pathway for pathway in self.pathways if pathway.name == waits.pathway]
        if self.joins is None or not pathways:
            raise DeadLetter("pathway-unknown", "the pathway that waits is not installed; install it, then replay")
        asked = "replayedat" in dict(delivery.event.extensions)  # by an operator, after it was given up
        try:
            if asked or self.joins.due(waits, pathways[0], self.survivor_of(waits.patient)):
                self._start(ref, pathways, delivery)
        except DeadLetter as problem:
            # It is parked now, and waits for an operator: who wakes it must not have it parked again and again.
            # Where there is doubt whose it is, nobody's chart says so.
            reason = "" if isinstance(problem, Quarantine) else problem.reason
            self._close(ref, pathways, "given-up", reason)
            raise

    def _allowed(self, pathway: Pathway, ref: StudyRef) -> bool:
        """Whether a pathway may compute the study: an incomplete one only where each model's card says so."""
        incomplete = self._incomplete(ref)
        if not incomplete:
            return True
        strict = [name for name in pathway.needs.models if not self.models.reference(name).incomplete_studies]
        if not strict:
            return True
        detail = f"not computed ({incomplete}): the cards of {', '.join(strict)} do not allow incomplete studies"
        self._tell(ref, "incomplete", pathway.name, detail)
        self._close(ref, [pathway], "given-up")
        return False

    def _incomplete(self, ref: StudyRef) -> str:
        """Return why the study is not all there is of it, as is known now; empty where nothing speaks against it."""
        doubt = Expectation.of(self.store, ref.tenant, ref.study_uid).doubt(
            self.store.instances(ref.tenant, ref.study_uid)
        )
        return doubt.reason if doubt else ""

    def _join(
        self, pathway: Pathway, study: Study, patient: Patient, delivery: Delivery
    ) -> Retry | DeadLetter | None:
        """Run one pathway, or let it wait; return what is still wrong when the others have run."""
        if not pathway.needs.record or self.joins is None:
            return self._run(pathway, study, Met(patient), delivery)
        try:
            met = self.joins.meet(pathway, study, patient)
        except DeadLetter as missing:
            return missing
        if met is None:
            return None
        problem = self._run(pathway, study, met, delivery)
        # After the result, before the commit: a worker that dies here writes the same once more.
        self._close(study.ref, [pathway], "started")
        return problem

    def _close(self, ref: StudyRef, pathways: Sequence[Pathway], state: str, reason: str = "") -> None:
        for pathway in pathways:
            if pathway.needs.record and self.joins is not None:
                self.joins.close(ref, pathway.name, state, reason)

    def _move(self, moved: events.StudyMoved, delivery: Delivery) -> None:
        """Announce what was found again, for the patient that the study's was merged into."""
        newest = [d for d in self.bus.read(FINDINGS) if d.key == f"{delivery.key}|{moved.pathway}"][-1:]
        for held in newest:
            result = held.event.payload(Result)
            if result.patient == moved.prior:
                announced = CloudEvent.of(events.RESULT, held.event.source, replace(result, patient=moved.patient))
                self.bus.publish(FINDINGS, announced, key=held.key)
                detail = "the patient was merged: the card is the surviving patient's"
                self._tell(result.study, "merged", moved.pathway, detail)

    def _run(self, pathway: Pathway, study: Study, met: Met, delivery: Delivery) -> Retry | DeadLetter | None:
        """Run one pathway; return what the PACS is to be tried again for, once its card is out."""
        event, patient = delivery.event, met.patient
        if self.progress:
            self.progress.started(
                study.ref,
                pathway.name,
                patient.reference,
                modality=study.modality,
                acquired=_fhir_time(study),
                budget=pathway.budget,
            )
        # The budget begins when the work does: after an outage a backlog gets late answers, not degraded ones.
        deadline = event.deadline or Deadline.after(pathway.budget)
        with telemetry.span(f"pathway {pathway.name}", study=study.ref.pseudonym) as current:
            comparison = self.comparisons.begin(pathway, study, patient) if self.comparisons else None
            try:
                found = pathway.find(study, patient, self.models, deadline)
            except TellClinician as problem:
                found = Found((), (str(problem),))
            except NotHounsfieldError as problem:
                found = Found((), (f"no-hounsfield: {problem}",))
            if comparison:
                found = comparison.of(found, self.models, deadline)
            if met.without:
                found = replace(found, missing=(*found.missing, *met.without))
            if incomplete := self._incomplete(study.ref):
                found = replace(found, missing=(f"the study is incomplete ({incomplete})", *found.missing))
            processing = (study.volume.resampled.how,) if study.volume.resampled else ()
            card = pathway.card(found)
            result = Result(
                study=study.ref,
                pathway=pathway.name,
                version=pathway.version,
                patient=patient.reference,
                status="degraded" if found.missing else "final",
                findings=on_images(found.findings, study.volume),
                card=replace(card, detail="\n\n".join((card.detail, *processing))),
                recorded=event.time,
                acquired=_fhir_time(study),
                reasons=found.missing,
                sex=patient.sex,
                age_band=_age_band(study, patient),
                modality=study.modality,
                processing=processing,
            )
            current.set_attribute("findings", len(found.findings))
            current.set_attribute("status", result.status)
        with telemetry.span("publish result"):
            if deadline.expired:
                deadline = Deadline.after(PUBLISH_GRACE)
            new = self.sink.write(result, deadline, study.volume)
            source = f"/{study.ref.tenant}/pathways/{pathway.name}"
            announced = CloudEvent.of(events.RESULT, source, result, deadline=deadline)
            self.bus.publish(FINDINGS, announced, key=f"{study.ref.key}|{pathway.name}")
            if self.progress:
                self.progress.ended(study.ref, pathway.name)
            if (unarchived := self._archive(result, found, study, deadline)) is not None:
                return unarchived
            status = "published" if result.status == "final" else "degraded"
            detail = "; ".join(found.missing) or ("" if new else "the record held this result already")
            self._tell(study.ref, status, pathway.name, detail)
        return None

    def _archive(self, result: Result, found: Found, study: Study, deadline: Deadline) -> Retry | DeadLetter | None:
        """Write to the PACS; return why that has to be tried again, or by whom it has to be looked into."""
        if self.archiver is None:
            return None
        # Nobody waits for it any more: also after the deadline it gets a moment.
        deadline = Deadline.after(max(deadline.remaining, PUBLISH_GRACE))
        with telemetry.span("archive result"):
            try:
                self.archiver.write(result, found.regions, study, deadline)
            except (Retry, DeadLetter) as problem:
                return problem
            except Exception as bug:  # noqa: BLE001 - its text may quote a patient
                return DeadLetter(
                    "unexpected-error", f"unexpected {type(bug).__name__} on the way to the PACS; report it"
                )
        return None

    def failed(self, delivery: Delivery, _: DeadLetter) -> None:
        """Tell charts that no result of a study comes, after its event was parked."""
        if self.progress:
            self.progress.failed(delivery.key)

    def _tell(self, study: StudyRef, status: str, reason: str, detail: str) -> None:
        outcome = events.Outcome(study.tenant, study.pseudonym, status, reason, detail)
        event = CloudEvent.of(events.OUTCOME, f"/{study.tenant}/pathways", outcome)
        self.bus.publish(OUTCOMES, event, key=study.key)


def patient_resolver(client: FhirClient, systems: Mapping[str, str]) -> Callable[[Study], Patient]:
    """Return the function that finds a study's patient and the risk factors in the record."""

    def patient_of(study: Study) -> Patient:
        patient = resolve(client, study.identity, systems)
        return replace(patient, factors=risk_factors(client, patient.reference))

    return patient_of


def on_images(findings: tuple[Finding, ...], volume: Volume) -> tuple[Finding, ...]:
    """Return findings with their outlines in the pixels of the images they name, also where a volume is resampled."""
    if volume.resampled is None:
        return findings
    moved = []
    for finding in findings:
        y, x = volume.resampled.offsets[finding.outline.slice_index].tolist()
        polygons = tuple(tuple((px - x, py - y) for px, py in polygon) for polygon in finding.outline.polygons)
        moved.append(replace(finding, outline=replace(finding.outline, polygons=polygons)))
    return tuple(moved)


def _reading(pathway: Pathway) -> tuple[str, Reading]:
    """Return the volume that a pathway reads: its modality, and how."""
    return pathway.modality, Reading(becquerels=pathway.needs.becquerels)


def _fhir_time(study: Study) -> str | None:
    """Return the acquisition as a FHIR dateTime: a time needs an offset, so without one it is a date."""
    acquired = study.acquired
    return (
        acquired.isoformat(timespec="seconds")
        if isinstance(acquired, datetime)
        else (acquired.isoformat() if acquired else None)
    )


def _age_band(study: Study, patient: Patient) -> str:
    """Return the decade of the age at the study: `60-69`, `90+`; empty where it is not known."""
    age = study.age_at_study
    if age is None and patient.birth_date is not None and study.acquired is not None:
        day = study.acquired.date() if isinstance(study.acquired, datetime) else study.acquired
        age = (day - patient.birth_date).days / 365.2425
    if age is None or not 0 <= age < OLDEST:
        return ""
    decade = int(age // 10) * 10
    return f"{decade}-{decade + 9}" if decade < LAST_DECADE else f"{LAST_DECADE}+"

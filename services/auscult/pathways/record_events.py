"""What news of the record mean: runs that wait look again, and results follow their patient through merges."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.topics import FINDINGS, OUTCOMES, STUDIES
from auscult.domain.finding import Result
from auscult.domain.identity import pseudonym
from auscult.domain.study import PatientIdentity
from auscult.listen import messages
from auscult.listen.messages import Message, MessageStore, PatientName
from auscult.listen.notifications import Own
from auscult.pathways.waking import Waker
from auscult.platform.errors import DeadLetter, Quarantine, Refused
from auscult.publish.fhir.client import FhirClient, token
from auscult.publish.fhir.patients import bears, resolve, survivor

MERGE_PAUSES = (0.0, 1.0, 3.0)
"""Seconds until the record is asked again whether it has merged, too: both hear of it at the same time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordEvents:
    """Handles deliveries of the record topic."""

    bus: Bus
    client: FhirClient
    waker: Waker
    own: Own
    store: MessageStore
    systems: Mapping[str, str]
    """Issuer or assigning authority to FHIR identifier system."""
    stop: threading.Event
    tenant: str
    """Another tenant's events are left to its own workers, as its record is another."""

    def handle(self, delivery: Delivery) -> None:
        """Do what one event asks for. Raises Retry, DeadLetter and Quarantine."""
        event = delivery.event
        if delivery.key.partition("|")[0] != self.tenant:
            return
        if event.type == events.RECORD_CHANGED:
            self._changed(event.payload(events.RecordChanged))
        elif event.type == events.MESSAGE_RECEIVED:
            self._received(event.payload(events.MessageReceived), delivery)
        else:
            raise DeadLetter("malformed-event", "no event about the record; see who writes there")

    def _changed(self, change: events.RecordChanged) -> None:
        try:
            place, _ = self.own.place(change.reference)
        except Refused as problem:
            raise DeadLetter(problem.reason, str(problem.args[0])) from None
        if place.startswith("Patient/") and not change.deleted:
            current = survivor(self.client, place)
            if current != place:
                self._merged(change.tenant, {place}, current)
        self.waker.wake(change, self._patient_of)

    def _patient_of(self, reference: str) -> str:
        """Read whom a resource is about; empty where it is gone, or says nothing."""
        kind, _, identity = reference.partition("/")
        resource = self.client.read(kind, identity)
        return self.own.patient(resource) if resource is not None else ""

    def _received(self, told: events.MessageReceived, delivery: Delivery) -> None:
        try:
            frame = self.store.get(told.message)
            if frame is None:
                return  # It came twice, and was handled the first time.
            message = messages.read(frame)
        except (Refused, messages.NotTaken) as problem:
            raise DeadLetter(problem.reason, str(problem.args[0])) from None
        try:
            patient = self._resolved(message.identifiers, message)
        except Quarantine as doubt:
            if doubt.reason != "unknown-patient" or told.kind == "ADT^A40":
                raise
            # Feeds tell of all patients, the record need not have them; a study of theirs is quarantined by itself.
            self._tell(told.tenant, delivery.key, "skipped", doubt.reason, f"{told.kind}: {doubt.args[0]}")
        else:
            if told.kind == "ADT^A40":
                self._merge(told.tenant, message, patient)
            self.waker.wake_patients({patient})
        self.store.drop(told.message)

    def _merge(self, tenant: str, message: Message, patient: str) -> None:
        """Let results follow a merge that the record has made, too; Quarantine where it has not."""
        for pause in MERGE_PAUSES:
            self.stop.wait(pause)
            held = self._bearers(message.prior)
            if all(survivor(self.client, one) == patient for one in held):
                self._merged(tenant, held - {patient}, patient)
                return
        raise Quarantine(
            "merge-not-in-record",
            "a merge was announced that the record has not made: merge the patients there, then replay",
        )

    def _bearers(self, names: tuple[PatientName, ...]) -> set[str]:
        """Return `Patient/<id>` of all in the record that bear one of these identifiers."""
        found: set[str] = set()
        for value, system in self._known(names):
            for patient in self.client.search("Patient", {"identifier": token(system, value)}):
                if bears(patient, system, value) and "id" in patient:
                    found.add(f"Patient/{patient['id']}")
        return found

    def _merged(self, tenant: str, prior: set[str], patient: str) -> None:
        """Ask for each result of a merged patient to be announced for the surviving one."""
        held: dict[str, tuple[str, str, str]] = {}
        for delivery in self.bus.read(FINDINGS):
            try:
                result = delivery.event.payload(Result)
            except DeadLetter:
                continue  # Nobody's card: the card store tells of it.
            held[delivery.key] = result.study.key, result.pathway, result.patient
        for study, pathway, whose in held.values():
            if whose in prior and study.startswith(f"{tenant}|"):
                moved = events.StudyMoved(tenant, study.partition("|")[2], pathway, whose, patient)
                event = CloudEvent.of(events.STUDY_MOVED, f"/{tenant}/pathways/record", moved)
                self.bus.publish(STUDIES, event, key=study)
        self.waker.wake_patients(prior)

    def _resolved(self, names: tuple[PatientName, ...], message: Message) -> str:
        """Return the one Patient that all identifiers of a known authority lead to; Quarantine as `resolve`."""
        found = {
            resolve(
                self.client, PatientIdentity(value, system, message.birth_date, message.sex), {system: system}
            ).reference
            for value, system in self._known(names)
        }
        if not found:
            raise Quarantine(
                "unknown-issuer",
                "no assigning authority of PID-3 is in AUSCULT_PATIENT_IDENTIFIER_SYSTEMS; add it there, replay",
            )
        if len(found) > 1:
            raise Quarantine(
                "several-patients", "PID-3 names several patients of the record; merge or correct, replay"
            )
        return found.pop()

    def _known(self, names: tuple[PatientName, ...]) -> list[tuple[str, str]]:
        """Return value and system of the identifiers whose authority is known."""
        return [
            (name.value, self.systems[authority])
            for name in names
            for authority in (name.authorities or ("",))[:2]
            if authority in self.systems
        ]

    def _tell(self, tenant: str, key: str, status: str, reason: str, detail: str) -> None:
        outcome = events.Outcome(tenant, pseudonym(key), status, reason, detail)
        self.bus.publish(OUTCOMES, CloudEvent.of(events.OUTCOME, f"/{tenant}/pathways/record", outcome), key=key)

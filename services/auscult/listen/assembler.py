"""Says when a study is complete, and what is wrong with one that is not.

A study is announced at once when an association is released that brought all that the store has of it, and its
slices make a volume. Where the PACS says how many instances a study has, that many do it instead, however they came;
so do those that a modality (MPPS) or a PACS (IAN) named.
Anything else (several associations, one for each instance, an abort, a gap) is judged as it
stands when nothing of the study has arrived for `settle_seconds` and nobody is sending: slices missing at the end
of a series leave no gap, so time is the only witness there is. What arrives later is judged again, with all that
the store has, and a changed study is announced as a new version, by its digest. A study that is sent again
unchanged is announced again: that is how operators repair what went wrong further on, where writes are idempotent.
Our own results, which the PACS may forward with their study, are no part of it and announce nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import closing

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery, Subscription
from auscult.bus.dead_letters import park
from auscult.bus.record import malformed
from auscult.bus.topics import INSTANCES, OUTCOMES, STUDIES
from auscult.domain.identity import sop_digest
from auscult.domain.study import StudyRef
from auscult.imaging.completeness import Completeness, judge
from auscult.imaging.header import InstanceHeader
from auscult.imaging.slices import RESAMPLABLE
from auscult.imaging.store import ImageStore
from auscult.listen.announced import Announced
from auscult.listen.gathering import Gathering
from auscult.listen.ledger import Ledger
from auscult.listen.pacs import Expected
from auscult.listen.transport import NETWORK_TIMEOUT
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter, Quarantine, Refused, Retry
from auscult.platform.settings import Settings

GROUP = "assembler"
PARTLY = {"instances-missing", "discontinued", *RESAMPLABLE}
"""Reasons for which a study is incomplete or makes no regular grid, yet could make a volume: models' cards say."""
POLL = 0.25
"""Seconds until a quiet consumer sees that it should stop."""
PAUSE = 2.0
"""Seconds before the group is joined again after the bus failed."""
LOST_ASSOCIATION = NETWORK_TIMEOUT + 30.0
"""Seconds without news after which an association whose end was not told counts as lost, with the process that had
it: a living one aborts a silent association sooner, and tells it."""

_log = logging.getLogger(__name__)


class Assembler:
    """One member of the group that assembles studies. `lost_after`: see LOST_ASSOCIATION."""

    def __init__(
        self, settings: Settings, bus: Bus, store: ImageStore, *, lost_after: float = LOST_ASSOCIATION
    ) -> None:
        self._settle_seconds = settings.settle_seconds
        self._lost_after = lost_after
        self._bus = bus
        self._store = store
        self._announced = Announced()
        self._expected = Expected(settings)

    def run(self, stop: threading.Event) -> None:
        """Assemble until `stop` is set. Where the bus fails, start over from what the group committed."""
        with closing(self._expected):
            self._run(stop)

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with self._bus.subscribe(INSTANCES, group=GROUP) as subscription:
                    desk = _Desk(self._bus, self._store, subscription, self._announced, self._expected)
                    while not stop.is_set():
                        delivery = subscription.poll(min([POLL, *map(self._wait, desk.gatherings.values())]))
                        if delivery is not None:
                            desk.take(delivery)
                        for gathering in [one for one in desk.gatherings.values() if not self._wait(one)]:
                            desk.judge(gathering, settled=True)
            except Retry as problem:
                _log.warning("the assembler cannot use the bus, it tries again: %s", problem)
                stop.wait(PAUSE)

    def _wait(self, gathering: Gathering) -> float:
        """Return the seconds until a study counts as settled."""
        busy = gathering.sending or gathering.expectation.in_progress
        quiet = self._lost_after if busy else self._settle_seconds
        return max(0.0, gathering.quiet_since + quiet - time.monotonic())


class _Desk:
    """The studies on which one subscription works. An offset is committed when all up to it were judged and told."""

    def __init__(
        self, bus: Bus, store: ImageStore, subscription: Subscription, announced: Announced, expected: Expected
    ) -> None:
        self.gatherings: dict[str, Gathering] = {}
        self._bus = bus
        self._store = store
        self._subscription = subscription
        self._announced = announced
        self._expected = expected
        self._ledger = Ledger()

    def take(self, delivery: Delivery) -> None:
        """Take note of one event, and judge its study where nothing more is to come. Raises Retry alone."""
        self._ledger.open(delivery)
        try:
            whole = self._note(delivery)
        except Exception as error:  # noqa: BLE001 - one event must not hold up the others
            self._park(delivery, error)
            self._commit([delivery])
            return
        if whole is not None:
            self.judge(whole, settled=False)

    def judge(self, gathering: Gathering, *, settled: bool) -> None:
        """Say what became of a study and commit; before it settled, only that it is complete. Raises Retry alone."""
        parent, study = gathering.traceparent or None, gathering.ref.pseudonym
        with telemetry.span("assemble study", parent=parent, study=study) as span:
            try:
                headers = gathering.read()
                judgement = judge([header for header in headers if not header.own_result])
                if judgement.status == "complete":
                    judgement = gathering.doubt() or judgement
                span.set_attribute("instances", len(headers))
                span.set_attribute("judgement", judgement.reason or judgement.status)
                if judgement.status != "complete" and not settled:
                    return
                self._tell(gathering, headers, judgement)
            except Exception as error:  # noqa: BLE001 - one study must not hold up the others
                self._park(gathering.deliveries[-1], error)
        del self.gatherings[gathering.ref.key]
        self._commit(gathering.deliveries)

    def _note(self, delivery: Delivery) -> Gathering | None:
        """Add an event to what is known of its study; return the study where it can be judged at once.

        DeadLetter where the event is about no study.
        """
        event, whole = delivery.event, False
        if event.type == events.INSTANCE_STORED:
            stored = event.payload(events.InstanceStored)
            gathering = self._gathering(stored.tenant, stored.study_uid)
            gathering.add(delivery, stored)
        elif event.type == events.INSTANCES_DELIVERED:
            delivered = event.payload(events.InstancesDelivered)
            gathering = self._gathering(delivered.tenant, delivered.study_uid)
            whole = self._whole(gathering, ended_whole=gathering.end(delivery, delivered))
        elif event.type == events.STUDY_EXPECTED:
            expected = event.payload(events.StudyExpected)
            gathering = self._gathering(expected.tenant, expected.study_uid)
            gathering.hear(delivery)
            if not gathering.count and not gathering.sent:
                self._commit(gathering.deliveries)  # What was told waits in the store for the study.
                return None
            whole = bool(gathering.whole)
        else:
            detail = dict(event.extensions).get("detail") if malformed(delivery) else "its type is unknown"
            raise DeadLetter("malformed-event", f"no event about instances ({detail})")
        self.gatherings[gathering.ref.key] = gathering
        return gathering if whole else None

    def _whole(self, gathering: Gathering, *, ended_whole: bool) -> bool:
        """Whether a study can be judged at once: as was told of it, else as the PACS says, else as it was sent."""
        if gathering.whole is not None:
            return gathering.whole
        expected = self._expected.count(gathering.ref.study_uid)
        return ended_whole if expected is None else not gathering.sending and gathering.count >= expected

    def _gathering(self, tenant: str, study_uid: str) -> Gathering:
        ref = StudyRef(tenant, study_uid, digest="")
        return self.gatherings.get(ref.key) or Gathering(ref, self._store)

    def _tell(self, gathering: Gathering, headers: Sequence[InstanceHeader], judgement: Completeness) -> None:
        ref, source = gathering.ref, f"/{gathering.ref.tenant}/listen/assembler"
        if judgement.status == "quarantine":
            raise Quarantine(judgement.reason, judgement.detail)
        _log.info("study %s: %s with %d instances", ref.pseudonym, judgement.reason or "complete", len(headers))
        # The card of a model may allow it.
        computable = judgement.reason in PARTLY
        if judgement.status == "complete" or computable:
            digest = sop_digest(header.sop_instance_uid for header in headers if not header.own_result)
            own_results = [header.sop_instance_uid for header in headers if header.own_result]
            version = f"{digest}|{judgement.reason}"
            if self._announced.note(ref.key, version, own_results, sent=gathering.sent):
                _log.info("study %s: nothing is new but our own results", ref.pseudonym)
                return
            complete = events.StudyComplete(ref.tenant, ref.study_uid, digest, gathering.last_stored)
            event = CloudEvent.of(events.STUDY_COMPLETE, source, complete, traceparent=telemetry.traceparent())
            self._bus.publish(STUDIES, event, key=ref.key)
            if not computable:
                return
        # Ambiguous slices are for the operator what missing ones are: the study cannot be computed as it stands.
        status = "skipped" if judgement.status == "skipped" else "incomplete"
        outcome = events.Outcome(ref.tenant, ref.pseudonym, status, judgement.reason, judgement.detail)
        self._bus.publish(
            OUTCOMES,
            CloudEvent.of(events.OUTCOME, source, outcome, traceparent=telemetry.traceparent()),
            key=ref.key,
        )

    def _park(self, delivery: Delivery, error: Exception) -> None:
        """Put an event aside that cannot be handled, or whose study cannot be judged. Retry is raised again."""
        if isinstance(error, Retry):
            raise error
        if isinstance(error, DeadLetter):
            problem = error
        elif isinstance(error, Refused):
            problem = DeadLetter(error.reason, str(error.args[0]))
        else:
            # A bug's text may quote a patient.
            problem = DeadLetter("unexpected-error", f"unexpected {type(error).__name__}; report it")
        place = delivery.topic, delivery.partition, delivery.offset
        _log.error("topic %s, partition %d, offset %d: parked: %s", *place, problem)
        park(self._bus, delivery, problem, tries=1, service="/listen/assembler")

    def _commit(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in self._ledger.done(deliveries):
            self._subscription.commit(delivery)

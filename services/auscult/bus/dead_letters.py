"""Parking events that cannot be handled, listing them, and sending them again.

A parked event is the event as it was, under its own key, with extension attributes that say why it is here.
The key stays the message key alone, because it holds a study UID; the attributes have its pseudonym.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus, Delivery
from auscult.bus.events import MALFORMED, OUTCOME, REPLAYED, Outcome, Replayed
from auscult.bus.topics import ALL, DEAD_LETTERS, OUTCOMES, QUARANTINE, REPLAYS, Topic
from auscult.domain.identity import pseudonym
from auscult.platform.errors import DeadLetter, Quarantine

_PARKED = (
    "reason",
    "detail",
    "sourcetopic",
    "sourcepartition",
    "sourceoffset",
    "sourcekey",
    "tries",
    "service",
    "parkedat",
)
"""The extension attributes of a parked event, which sending it again takes away."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A parked event as an operator sees it: no PHI."""

    id: str
    type: str
    reason: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_key: str
    """Pseudonym of the study."""
    tries: int
    service: str
    time: str
    """When it was parked, RFC 3339."""
    replayed: bool

    @property
    def key(self) -> str:
        """Names the event and where it failed: a letter that was parked twice has it twice."""
        return f"{self.source_topic}/{self.source_partition}/{self.source_offset}/{self.id}"


def park(bus: Bus, delivery: Delivery, problem: DeadLetter, *, tries: int, service: str) -> None:
    """Put the event aside, durably, and tell the operators by an Outcome. Raises Retry where the bus fails."""
    tenant, study = _study(delivery.key)
    detail = str(problem.args[0])
    extensions = {
        **dict(delivery.event.extensions),
        "reason": problem.reason,
        "detail": detail,
        "sourcetopic": delivery.topic,
        "sourcepartition": str(delivery.partition),
        "sourceoffset": str(delivery.offset),
        "sourcekey": study,
        "tries": str(tries),
        "service": service,
        "parkedat": _now(),
    }
    doubt = isinstance(problem, Quarantine)
    bus.publish(
        QUARANTINE if doubt else DEAD_LETTERS,
        replace(delivery.event, extensions=tuple(extensions.items())),
        key=delivery.key,
    )
    outcome = Outcome(tenant, study, "quarantined" if doubt else "dead-lettered", problem.reason, detail)
    bus.publish(
        OUTCOMES,
        CloudEvent.of(OUTCOME, service, outcome, traceparent=delivery.event.traceparent),
        key=delivery.key,
    )


def listing(bus: Bus, topic: Topic) -> Iterator[Letter]:
    """Yield what is parked in `topic`, DEAD_LETTERS or QUARANTINE."""
    sent = _sent(bus)
    for delivery in bus.read(topic):
        letter = _letter(delivery.event)
        if letter is not None:
            yield replace(letter, replayed=letter.key in sent)


def replay(
    bus: Bus, topic: Topic, *, ids: Collection[str] | None, again: bool = False, note: str = "", by: str = ""
) -> int:
    """Send parked events to the topic and key that they came from; return how many.

    `ids`: the events' ids; None for all. `note`, `by`: why, and who says so; an outcome tells both. What was sent
    before is left out unless `again`. An event keeps its id,
    time, type, source and data. It loses its traceparent, since this is a new run, and its deadline: that passed
    long ago, and the answer would be degraded at once. Its extension `replayedat` says when it was sent again. A
    message that was no CloudEvent is never sent again: it would fail again.

    A process that dies between sending an event and noting it sends it again the next time: handlers write each
    result once, whatever the number of deliveries.
    """
    sent = _sent(bus)
    skipped: set[str] = set() if again else sent
    count = 0
    for delivery in bus.read(topic):
        letter = _letter(delivery.event)
        if letter is None or letter.type == MALFORMED or letter.key in skipped:
            continue
        if ids is not None and letter.id not in ids:
            continue
        bus.publish(_topic(letter.source_topic), _restored(delivery.event), key=delivery.key)
        noted = CloudEvent.of(REPLAYED, "/replay", Replayed(letter.source_topic, letter.id, note, by))
        bus.publish(REPLAYS, noted, key=letter.key)
        detail = "; ".join(filter(None, (f"sent again by {by}" if by else "sent again", note)))
        released = Outcome(_study(delivery.key)[0], letter.source_key, "released", letter.reason, detail)
        bus.publish(OUTCOMES, CloudEvent.of(OUTCOME, "/replay", released), key=delivery.key)
        skipped.add(letter.key)
        count += 1
    return count


def _restored(event: CloudEvent) -> CloudEvent:
    """Return the event as it was before it was parked, ready for a new run."""
    kept = [(name, value) for name, value in event.extensions if name not in (*_PARKED, "replayedat")]
    return replace(event, traceparent="", deadline=None, extensions=(*kept, ("replayedat", _now())))


def _letter(event: CloudEvent) -> Letter | None:
    """Read a parked event's attributes; None where it has none of them, so that nobody parked it."""
    given = dict(event.extensions)
    try:
        return Letter(
            id=event.id,
            type=event.type,
            reason=given["reason"],
            detail=given["detail"],
            source_topic=given["sourcetopic"],
            source_partition=int(given["sourcepartition"]),
            source_offset=int(given["sourceoffset"]),
            source_key=given["sourcekey"],
            tries=int(given["tries"]),
            service=given["service"],
            time=given["parkedat"],
            replayed=False,
        )
    except (KeyError, ValueError):
        return None


def _sent(bus: Bus) -> set[str]:
    """Return the keys of the letters that were sent again."""
    return {delivery.key for delivery in bus.read(REPLAYS)}


def _topic(name: str) -> Topic:
    return next((topic for topic in ALL if topic.name == name), Topic(name))


def _study(key: str) -> tuple[str, str]:
    """Return the tenant and the study's pseudonym: keys are `tenant|study UID`, perhaps with more behind."""
    tenant, *rest = key.split("|")
    return (tenant, pseudonym(tenant, rest[0])) if rest else ("", pseudonym(key))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

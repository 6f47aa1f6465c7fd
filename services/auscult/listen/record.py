"""What the adapters in this folder ask of a FHIR server, and what they announce of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.topics import RECORD
from auscult.domain.identity import NAMESPACE, pseudonym
from auscult.listen.notifications import Change
from auscult.platform import telemetry
from auscult.platform.errors import RefuseToStart


class Record(Protocol):
    """The one FHIR server. Retry where it cannot answer now, DeadLetter where it will not."""

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None where there is none."""

    def search(self, resource_type: str, parameters: Mapping[str, str]) -> Sequence[dict[str, Any]]:
        """Return all matches."""

    def entries(self, place: str) -> Iterator[list[dict[str, Any]]]:
        """Yield the entries of a Bundle at `place`, page by page."""

    def save(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """Update a resource that has an id, create another."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched: `criteria` (`Type?parameters`), and the canonical of a SubscriptionTopic where one serves."""

    criteria: str
    topic: str = ""

    @classmethod
    def parse(cls, text: str, setting: str) -> Watch:
        """Read `Type?parameters`, or `TOPIC Type?parameters`; RefuseToStart names the setting."""
        *topic, criteria = text.split()
        kind, _, parameters = criteria.partition("?")
        wrong = not (kind.isalpha() and kind[:1].isupper()) or len(topic) > 1 or "|" in kind
        if wrong or (topic and "://" not in topic[0]) or not all(32 < ord(letter) < 127 for letter in parameters):
            raise RefuseToStart(
                "settings-invalid", f"{setting}: write each entry as Type?parameters, or TOPIC-URL Type?parameters"
            )
        return cls(criteria, topic[0] if topic else "")

    @property
    def name(self) -> str:
        """Stands for it in URLs, logs and keys: a search may name a patient."""
        return pseudonym(self.topic, self.criteria)

    @property
    def kind(self) -> str:
        """The resource type."""
        return self.criteria.partition("?")[0]


def event_id(tenant: str, change: Change, token: str) -> str:
    """Return the id of the event about a change: the same however often, and by which way, it is told.

    `token`: tells changes apart where the server did not name the version.
    """
    return str(uuid.uuid5(NAMESPACE, "|".join((tenant, change.reference, change.version or token))))


def announce(bus: Bus, tenant: str, adapter: str, change: Change, token: str = "") -> str:
    """Publish a change, durably, and return its event's id. Raises Retry where the bus fails."""
    told = events.RecordChanged(tenant, change.reference, change.version, change.patient, change.deleted)
    event = CloudEvent.of(
        events.RECORD_CHANGED, f"/{tenant}/listen/{adapter}", told, traceparent=telemetry.traceparent()
    )
    event = identified(event, event_id(tenant, change, token))
    bus.publish(RECORD, event, key=f"{tenant}|{change.patient or change.reference}")
    return event.id


def identified(event: CloudEvent, identity: str) -> CloudEvent:
    """Return the event with an id of its own."""
    return CloudEvent(event.type, event.source, event.data, id=identity, traceparent=event.traceparent)

"""The events' types and data. References only: no pixels and no names of people travel on the bus."""

from __future__ import annotations

from dataclasses import dataclass

INSTANCE_STORED = "org.auscult.instance.stored.v1"
INSTANCES_DELIVERED = "org.auscult.instances.delivered.v1"
STUDY_COMPLETE = "org.auscult.study.complete.v1"
RESULT = "org.auscult.result.v1"
OUTCOME = "org.auscult.outcome.v1"
REPLAYED = "org.auscult.replayed.v1"
TOKENS_USED = "org.auscult.tokens-used.v1"
MALFORMED = "org.auscult.malformed.v1"
"""Stands for a message that is no CloudEvent; its data are that message's bytes."""


@dataclass(frozen=True, slots=True)
class InstanceStored:
    """An instance is in the image store, durably."""

    tenant: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    association: str
    """Names the association or request that brought it."""


@dataclass(frozen=True, slots=True)
class InstancesDelivered:
    """An association ended; all that it stored of this study is stored. `count`: instances it brought."""

    tenant: str
    study_uid: str
    association: str
    count: int
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class StudyComplete:
    """A study can be computed. `digest`: `identity.sop_digest` of what it held when it was judged."""

    tenant: str
    study_uid: str
    digest: str
    last_stored: float
    """Seconds since the epoch at which its last instance became durable."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an object or a study. `status` is one of OUTCOMES; `detail` is for the operator, no PHI."""

    tenant: str
    study: str
    """Pseudonym of the study (`identity.pseudonym(tenant, study_uid)`); empty where it has none."""
    status: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """A parked event was sent to its topic again; keyed by `dead_letters.Letter.key`."""

    topic: str
    """Where it was sent."""
    id: str


@dataclass(frozen=True, slots=True)
class TokensUsed:
    """Tokens that `replica` of the hooks service was given: a hash of each, and when it expires (epoch seconds)."""

    replica: str
    tokens: dict[str, float]


STATUSES = (
    "published",
    "degraded",
    "incomplete",
    "refused",
    "quarantined",
    "dead-lettered",
    "superseded",
    "skipped",
)

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
PROGRESS = "org.auscult.progress.v1"
MODEL_SWITCHED = "org.auscult.model-switched.v1"
FEEDBACK = "org.auscult.feedback.v1"
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


@dataclass(frozen=True, slots=True)
class Progress:
    """A pathway works on a study of a patient (`Patient/<id>`). `state`: `started`, `ended` or `failed`."""

    tenant: str
    study_uid: str
    pathway: str
    patient: str
    state: str
    at: float
    """Seconds since the epoch."""
    modality: str
    acquired: str | None
    """FHIR dateTime."""
    budget: float
    """Seconds within which the pathway means to have its result published."""
    took: float = 0.0
    """Seconds it took, where it ended."""


@dataclass(frozen=True, slots=True)
class ModelSwitched:
    """An operator switched a model off or on; `model` is `*` for all. Of one model the highest `number` counts."""

    model: str
    enabled: bool
    number: int
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class CardFeedback:
    """What a clinician did with a card, and on whose words the card rested. No patient, no user, no free text."""

    tenant: str
    client: str
    """The registered EHR."""
    card: str
    """Its uuid."""
    outcome: str
    """`accepted` or `overridden`."""
    at: str
    """RFC 3339, as the EHR says."""
    reason: str
    """Code of the override reason, empty where there is none."""
    suggestions: tuple[str, ...]
    pathway: str
    """Empty where the card is not known any more; then the rest is, too."""
    models: tuple[str, ...]
    """Each `name version`."""
    sex: str
    age_band: str


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

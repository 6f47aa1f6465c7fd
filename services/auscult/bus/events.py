"""The events' types and data. References only: no pixels and no names of people travel on the bus."""

from __future__ import annotations

from dataclasses import dataclass

INSTANCE_STORED = "org.auscult.instance.stored.v1"
INSTANCES_DELIVERED = "org.auscult.instances.delivered.v1"
STUDY_EXPECTED = "org.auscult.study.expected.v1"
STUDY_COMPLETE = "org.auscult.study.complete.v1"
RESULT = "org.auscult.result.v1"
OUTCOME = "org.auscult.outcome.v1"
REPLAYED = "org.auscult.replayed.v1"
TOKENS_USED = "org.auscult.tokens-used.v1"
PROGRESS = "org.auscult.progress.v1"
MODEL_SWITCHED = "org.auscult.model-switched.v1"
FEEDBACK = "org.auscult.feedback.v1"
RECORD_CHANGED = "org.auscult.record.changed.v1"
MESSAGE_RECEIVED = "org.auscult.hl7v2.received.v1"
FETCH_WANTED = "org.auscult.fetch.wanted.v1"
MARK_SET = "org.auscult.mark.set.v1"
RUN_WAITS = "org.auscult.run.waits.v1"
STUDY_MOVED = "org.auscult.study.moved.v1"
STUDY_AWAITED = "org.auscult.study.awaited.v1"
"""What a run waits for may be there now, or its time is over: look again. Its data are the RunWaits."""
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
class StudyExpected:
    """The image store knows more of what a study should hold: a modality's step began or ended, a PACS told it."""

    tenant: str
    study_uid: str


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
    note: str = ""
    """Why an operator released it."""
    by: str = ""


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


@dataclass(frozen=True, slots=True)
class RecordChanged:
    """A resource of the FHIR record was created, changed or deleted; what it says stays there."""

    tenant: str
    reference: str
    """`Type/id`."""
    version: str = ""
    """Empty where the server did not say."""
    patient: str = ""
    """`Patient/<id>` that it is about; empty where the notification did not say."""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An HL7 v2 message is in the message store. `message`: its SHA-256 there; `kind`: such as `ADT^A40`."""

    tenant: str
    message: str
    kind: str


@dataclass(frozen=True, slots=True)
class FetchWanted:
    """Somebody may have missed changes that `criteria` (`Type?parameters`) finds.

    `since`: an RFC 3339 instant, empty for the search's own mark. `subscription`: id on the server, where its missed
    events from number `first` on can be asked for by `$events`.
    """

    tenant: str
    criteria: str
    since: str = ""
    subscription: str = ""
    first: int = 0
    topic: str = ""
    """Canonical of the subscription's topic, where it has one."""


@dataclass(frozen=True, slots=True)
class MarkSet:
    """Up to where something was read: an RFC 3339 instant of the server's clock, and an event number."""

    high: str = ""
    number: int = 0
    seen: tuple[str, ...] = ()
    """Ids of the events that were told and may be found again, because searches overlap."""
    asked: str = ""
    """When the search that led here began, by our clock."""


@dataclass(frozen=True, slots=True)
class RunWaits:
    """A run waits for what the record does not have yet. `state`: `waiting`, `started` or `given-up`."""

    tenant: str
    study_uid: str
    digest: str
    pathway: str
    patient: str
    """`Patient/<id>` when it was looked at last."""
    missing: tuple[str, ...]
    """Names of what is needed."""
    kinds: tuple[str, ...]
    """Resource types in which it may come."""
    since: float
    """Seconds since the epoch, as is `until`, after which the run goes on without or is given up."""
    until: float
    acquired: str = ""
    """Date of the study, ISO 8601."""
    state: str = "waiting"
    reason: str = ""
    """Why it was given up, where the patient's chart is to say that no result comes."""
    modality: str = ""
    """Of the images."""

    @property
    def key(self) -> str:
        """The bus key."""
        return f"{self.tenant}|{self.study_uid}|{self.pathway}"


@dataclass(frozen=True, slots=True)
class StudyMoved:
    """The patient `prior` (`Patient/<id>`) was merged into `patient`: what was found in the study follows."""

    tenant: str
    study_uid: str
    pathway: str
    prior: str
    patient: str


STATUSES = (
    "published",
    "degraded",
    "incomplete",
    "refused",
    "quarantined",
    "dead-lettered",
    "superseded",
    "skipped",
    "waiting",
    "denied",
    "merged",
    "released",
)

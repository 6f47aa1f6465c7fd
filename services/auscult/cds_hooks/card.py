"""A pathway's card as CDS Hooks JSON (CDS Hooks 2.0, Card Attributes), rendered once, when its event arrives."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import msgspec

from auscult.cds_hooks.markdown import one_line, sanitise, shorten
from auscult.domain.finding import ModelReference, Result
from auscult.platform.errors import DeadLetter

URGENCY = {"critical": 0, "warning": 1, "info": 2}
"""The specification's indicators, the most urgent first."""
TOPICS = "urn:auscult:cds-hooks:topic"
"""Code system of `source.topic`: its codes are the pathways' names, so an EHR can route on them."""
NOT_VALIDATED = "Reference model: not for clinical use until validated at this site"
_PATIENT = re.compile(r"Patient/[^/\s]+")


class Topic(msgspec.Struct, frozen=True):
    """A Coding."""

    system: str
    code: str
    display: str


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the card comes from. `url`: the evidence page of the first model."""

    label: str
    url: str = ""
    topic: Topic | None = None


class Link(msgspec.Struct, frozen=True):
    """A link; ours are all absolute."""

    label: str
    url: str
    type: str = "absolute"


class CardJson(msgspec.Struct, frozen=True, omit_defaults=True):
    """The card as it is sent: what has no value is left out, never null or empty."""

    summary: str
    indicator: str
    source: Source
    uuid: str = ""
    detail: str = ""
    links: tuple[Link, ...] = ()


LOADING = msgspec.json.encode(
    CardJson(
        summary="Auscult is loading its results: some may be missing here",
        indicator="info",
        detail="Results that are not shown yet are in the patient's record. Open the chart again in a moment.",
        source=Source("Auscult"),
    )
)
"""Said beside what is known while the store has not caught up: an empty answer would read as `nothing found`."""


def evidence_url(public_url: str, model: ModelReference) -> str:
    """Return the address of the page that says on what evidence `model` rests."""
    return f"{public_url.rstrip('/')}/models/{quote(model.name, safe='')}?{urlencode({'version': model.version})}"


def released(result: Result) -> bool:
    """Whether the card may be seen.

    A card is one text, which cannot be taken apart again, so it is as releasable as its least releasable
    model: one that is in shadow or retired withholds all of it. A pathway that wants the rest of its answer
    shown leaves such a model's findings out of the card, and the model out of the card's models.
    """
    return all(model.stage == "active" for model in result.card.models)


def recorded_at(result: Result) -> datetime:
    """Return the time of the computation; DeadLetter (`malformed-event`) where it is not a time with an offset."""
    try:
        moment = datetime.fromisoformat(result.recorded)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise DeadLetter("malformed-event", "the result's time is not an RFC 3339 timestamp with an offset")
    return moment.astimezone(UTC)


def seen_at(result: Result) -> int:
    """Return when the images were taken, or else when it was computed: seconds since the epoch, never negative."""
    try:
        moment = datetime.fromisoformat(result.acquired or "")
    except ValueError:
        moment = recorded_at(result)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0, int((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())), 2**32 - 1)


def card_uuid(result: Result) -> uuid.UUID:
    """Return the card's identity: the same for the same result on every replica."""
    return result.identity(ModelReference(result.pathway, result.version, ""), "card")


def render(result: Result, public_url: str) -> bytes:
    """Return the card as JSON. DeadLetter (`malformed-card`) says what a pathway has to correct."""
    card = result.card
    if card.indicator not in URGENCY:
        raise DeadLetter("malformed-card", f"the indicator must be one of {', '.join(URGENCY)}")
    if not one_line(card.summary) or not one_line(card.source_label):
        raise DeadLetter("malformed-card", "a card needs a summary and a source label")
    if result.findings and not card.models:
        raise DeadLetter("malformed-card", "a card with findings names the models on which it rests")
    if not _PATIENT.fullmatch(result.patient):
        raise DeadLetter("malformed-card", "the patient must be a reference of the form Patient/<id>")
    label = one_line(card.source_label)
    return msgspec.json.encode(
        CardJson(
            uuid=str(card_uuid(result)),
            summary=shorten(card.summary),
            indicator=card.indicator,
            detail=sanitise(f"{card.detail}\n\n{_provenance(result)}".strip()),
            source=Source(
                label,
                evidence_url(public_url, card.models[0]) if card.models else "",
                Topic(TOPICS, result.pathway, label),
            ),
            links=tuple(
                Link(f"Evidence: {one_line(model.name)} {one_line(model.version)}", evidence_url(public_url, model))
                for model in card.models
            ),
        )
    )


def _provenance(result: Result) -> str:
    """Say which models spoke, when, and which of them are not validated here."""
    when = f"Computed {recorded_at(result):%Y-%m-%d %H:%M} UTC"
    if result.acquired:
        when += f" from images of {result.acquired[:10]}"
    lines = [f"{when} by {result.pathway} {result.version}."]
    if result.card.models:
        lines.append("")
    for model in result.card.models:
        lines.append(f"- {one_line(f'{model.name} {model.version}')}: {one_line(model.evidence)}")
        if not model.clinical_use:
            lines[-1] = f"{lines[-1].rstrip('.')}. **{NOT_VALIDATED}.**"
    return "\n".join(lines)

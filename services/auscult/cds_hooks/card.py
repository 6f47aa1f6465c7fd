"""A card as CDS Hooks JSON (CDS Hooks 2.0.1, Card Attributes), rendered once, when its event arrives."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import msgspec

from auscult.cds_hooks.drafts import suggestions
from auscult.cds_hooks.elements import CardJson, Coding, Link, Source, Suggestion
from auscult.cds_hooks.markdown import one_line, sanitise, shorten
from auscult.domain.finding import Card, ModelReference, Result
from auscult.platform.errors import DeadLetter

URGENCY = {"critical": 0, "warning": 1, "info": 2}
"""The specification's indicators, the most urgent first."""
TOPICS = "urn:auscult:cds-hooks:topic"
"""Code system of `source.topic`: its codes are the pathways' names, so an EHR can route on them."""
NOT_VALIDATED = "Reference model: not for clinical use until validated at this site"
_PATIENT = re.compile(r"Patient/[^/\s]+")


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


@dataclass(frozen=True, slots=True)
class SmartApp:
    """The site's app that cards link to (CDS Hooks 2.0.1, Link; SMART App Launch 2.2, EHR launch)."""

    url: str
    """Its launch URL, to which the EHR adds `iss` and `launch`."""
    label: str

    def link(self, result: Result) -> Link:
        """Return the link; the app learns from `appContext` what to open in the patient's context."""
        told = {"pathway": result.pathway, "study": result.study.study_uid}
        return Link(one_line(self.label), self.url, "smart", msgspec.json.encode(told).decode())


def render(result: Result, public_url: str, app: SmartApp | None = None) -> bytes:
    """Return a result's card as JSON. DeadLetter (`malformed-card`) says what a pathway has to correct."""
    if result.findings and not result.card.models:
        raise DeadLetter("malformed-card", "a card with findings names the models on which it rests")
    if not _PATIENT.fullmatch(result.patient):
        raise DeadLetter("malformed-card", "the patient must be a reference of the form Patient/<id>")
    when = f"Computed {recorded_at(result):%Y-%m-%d %H:%M} UTC"
    if result.acquired:
        when += f" from images of {result.acquired[:10]}"
    return rendered(
        result.card,
        public_url,
        topic=result.pathway,
        identity=card_uuid(result),
        computed=f"{when} by {result.pathway} {result.version}.",
        suggested=suggestions(result),
        links=(app.link(result),) if app else (),
    )


def rendered(
    card: Card,
    public_url: str,
    *,
    topic: str,
    identity: uuid.UUID,
    computed: str,
    suggested: Sequence[Suggestion] = (),
    links: Sequence[Link] = (),
) -> bytes:
    """Return a card as JSON, with when it was `computed` and by which models; DeadLetter as `render`."""
    if card.indicator not in URGENCY:
        raise DeadLetter("malformed-card", f"the indicator must be one of {', '.join(URGENCY)}")
    label = one_line(card.source_label)
    if not one_line(card.summary) or not label:
        raise DeadLetter("malformed-card", "a card needs a summary and a source label")
    return msgspec.json.encode(
        CardJson(
            uuid=str(identity),
            summary=shorten(card.summary),
            indicator=card.indicator,  # type: ignore[arg-type]
            detail=sanitise(f"{card.detail}\n\n{_provenance(computed, card.models)}".strip()),
            source=Source(
                label,
                evidence_url(public_url, card.models[0]) if card.models else "",
                Coding(TOPICS, topic, label),
            ),
            suggestions=tuple(suggested),
            selection_behavior="at-most-one" if suggested else "",
            override_reasons=tuple(Coding(each.system, each.code, each.display) for each in card.override_reasons),
            links=tuple(links)
            + tuple(
                Link(
                    f"Evidence: {one_line(model.name)} {one_line(model.version)}",
                    evidence_url(public_url, model),
                    "absolute",
                )
                for model in card.models
            ),
        )
    )


def _provenance(computed: str, models: Sequence[ModelReference]) -> str:
    """Say which models spoke, when, and which of them are not validated here."""
    lines = [computed]
    if models:
        lines.append("")
    for model in models:
        lines.append(f"- {one_line(f'{model.name} {model.version}')}: {one_line(model.evidence)}")
        if not model.clinical_use:
            lines[-1] = f"{lines[-1].rstrip('.')}. **{NOT_VALIDATED}.**"
    return "\n".join(lines)

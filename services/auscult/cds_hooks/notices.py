"""Cards that no model made: what is being computed or waited for, what failed, what was switched off, what is old."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from auscult.bus.events import ModelSwitched
from auscult.bus.switches import EVERY
from auscult.cds_hooks.elements import CardJson, Source
from auscult.cds_hooks.markdown import sanitise, shorten
from auscult.domain.identity import NAMESPACE

_SOURCE = Source("Auscult")


def coming(study: str, acquired: str, *, left: float | None, pathway: str) -> bytes:
    """Return the card for a study that is being computed. `left`: expected seconds; None: longer than expected."""
    when = "longer than usual" if left is None else f"about {max(1, round(left))} s"
    return _notice(
        "info",
        f"{acquired} being analysed, {when}",
        f"{pathway} is not done yet. Its result is here when the chart is opened again after that.",
        key=f"coming|{study}",
    )


def failed(study: str, acquired: str, *, pathway: str) -> bytes:
    """Return the card for a study whose computation ended without a result."""
    return _notice(
        "warning",
        f"{acquired}: the analysis did not finish",
        f"There is no result of {pathway} for these images, and none is expected before an operator looks "
        "into it. Read them as if no model had been asked.",
        key=f"failed|{study}",
    )


def awaiting(study: str, images: str, *, pathway: str, missing: Sequence[str], since: str, until: str) -> bytes:
    """Return the card for images that are not analysed yet because the record does not say what is needed."""
    return _notice(
        "info",
        f"{images}: waiting for {', '.join(missing)} since {since}",
        f"{pathway} needs from the record: {', '.join(missing)}. It begins when that is there. If it is not "
        f"at {until}, the images are analysed without it, or not at all where it cannot be done without.",
        key=f"awaiting|{study}",
    )


def not_in_time(study: str, images: str, *, pathway: str, missing: Sequence[str], until: str) -> bytes:
    """Return the card for images that are not analysed because the record did not say in time what is needed."""
    return _notice(
        "warning",
        f"{images}: not analysed, the record had no {' and no '.join(missing)} by {until}",
        f"There is no result of {pathway} for these images. Enter into the record: {', '.join(missing)}; "
        "then ask an operator to replay the study. Read the images as if no model had been asked.",
        key=f"not-in-time|{study}",
    )


def switched_off(switch: ModelSwitched) -> bytes:
    """Return the card in place of those that rest on what was switched off."""
    what = "All models are" if switch.model == EVERY else f"The model {switch.model} is"
    return _notice(
        "warning",
        f"Results are withheld: {what[0].lower()}{what[1:]} switched off at this site",
        f"{what} switched off by the site's operators. Reason: {switch.reason}\n\nResults that rest on it "
        "are not shown; do not rely on those that you saw before.",
    )


def not_current(card: bytes, seen: int, days: float) -> bytes:
    """Return the card marked as older than `days`: no alarm, and its age before anything else."""
    since = datetime.fromtimestamp(seen, UTC).date().isoformat()
    content = msgspec.json.decode(card)
    content["summary"] = shorten(f"Not current, of {since}: {content['summary']}")
    content["indicator"] = "info"
    content["detail"] = f"**Of {since}, more than {days:g} days ago.**\n\n{content.get('detail', '')}".rstrip()
    return msgspec.json.encode(content)


def _notice(indicator: Literal["info", "warning"], summary: str, detail: str, *, key: str = "") -> bytes:
    """Return a card. `key`: from which its uuid follows, where it has one."""
    return msgspec.json.encode(
        CardJson(
            summary=shorten(summary),
            indicator=indicator,
            uuid=str(uuid.uuid5(NAMESPACE, key)) if key else "",
            detail=sanitise(detail),
            source=_SOURCE,
        )
    )

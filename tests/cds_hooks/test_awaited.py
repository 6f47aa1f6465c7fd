"""A chart says what a study waits for, since when, and how that ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from auscult.bus import events, topics
from auscult.cds_hooks.store import CardStore

if TYPE_CHECKING:
    from conftest import Topic

NOW = datetime.now(UTC).replace(hour=9, minute=12, second=0).timestamp()
"""Today: the card leaves its date out."""


@pytest.fixture
def tell(topic: Topic) -> Callable[..., None]:
    """Return a function that publishes that a run of study 1.2.3 waits, or does not any more."""

    def told(state: str = "waiting", **changes: Any) -> None:
        given: dict[str, Any] = {
            "tenant": "default",
            "study_uid": "1.2.3",
            "digest": "d1",
            "pathway": "lung_nodule",
            "patient": "Patient/42",
            "missing": ("creatinine",),
            "kinds": ("Observation",),
            "since": NOW,
            "until": time.time() + 3600,
            "acquired": "2026-01-30",
            "modality": "CT",
        }
        waits = events.RunWaits(**(given | changes), state=state)
        topic.publish(waits, kind=events.RUN_WAITS, on=topics.WAITING)
        topic.wait()

    return told


def cards(store: CardStore, patient: str = "Patient/42") -> list[tuple[str, str]]:
    """Return summary and indicator of each of a patient's cards."""
    told = [json.loads(card) for card in store.cards("default", patient)]
    return [(card["summary"], card["indicator"]) for card in told]


def test_what_a_study_waits_for_is_on_the_chart(
    topic: Topic, store: CardStore, make_result: Callable[..., Any], tell: Callable[..., None]
) -> None:
    """With the names of what is missing, as they come in; until the run starts, or its result is there."""
    tell(missing=("creatinine", "smoking history"))
    assert cards(store) == [("CT of 2026-01-30: waiting for creatinine, smoking history since 09:12 UTC", "info")]
    tell()
    assert cards(store) == [("CT of 2026-01-30: waiting for creatinine since 09:12 UTC", "info")]
    assert cards(store, "Patient/1") == []
    tell("started")
    assert cards(store) == []
    tell()
    topic.publish(make_result())
    topic.wait()
    assert cards(store) == [("Lung nodule 8.4 mm", "info")]


def test_a_wait_in_vain_ends_in_a_card(store: CardStore, tell: Callable[..., None]) -> None:
    """At its limit the chart says what the record did not; after two days nothing any more."""
    tell("given-up", reason="needs-missing", until=NOW)
    summary = "CT of 2026-01-30: not analysed, the record had no creatinine by 09:12 UTC"
    assert cards(store) == [(summary, "warning")]
    tell("given-up", reason="study-missing", until=NOW)
    assert cards(store) == [("CT of 2026-01-30: the analysis did not finish", "warning")]
    tell(until=time.time() - 4000)
    assert cards(store) == [("CT of 2026-01-30: the analysis did not finish", "warning")], "no worker lives"
    tell("given-up", reason="needs-missing", until=time.time() - 3 * 86400)
    assert cards(store) == []


def test_what_nobody_is_to_see_is_on_no_chart(store: CardStore, tell: Callable[..., None]) -> None:
    """A run that was denied, or of which it is in doubt whose it is, has no reason for charts."""
    tell()
    tell("given-up")
    assert cards(store) == []


def test_the_wait_follows_its_patient(store: CardStore, tell: Callable[..., None]) -> None:
    """After a merge it is on the surviving patient's chart alone."""
    tell()
    tell(patient="Patient/43")
    assert (cards(store), len(cards(store, "Patient/43"))) == ([], 1)

"""What operators do about the record: see who waits, ask for what was missed, see what would be registered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.contract import Bus
from auscult.bus.factory import open_bus
from auscult.bus.topics import FETCHES, WAITING
from auscult.domain.identity import pseudonym
from auscult.entrypoints.cli import main


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """Return the bus of a home that the commands use."""
    monkeypatch.setenv("AUSCULT_HOME", str(tmp_path))
    with closing(open_bus(f"sqlite:{tmp_path / 'bus.db'}")) as opened:
        yield opened


def run(*arguments: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, arguments)


def test_an_operator_sees_what_each_study_waits_for(bus: Bus) -> None:
    """By pseudonym, with what is missing; a run that started is not shown."""
    now = time.time()
    for study, state in (("1.2.3", "waiting"), ("1.2.4", "started")):
        waits = events.RunWaits(
            "default", study, "d", "p", "Patient/7", ("creatinine",), ("Observation",), now, now + 60, "", state
        )
        bus.publish(WAITING, CloudEvent.of(events.RUN_WAITS, "/test", waits), key=waits.key)
    shown = run("waiting").output
    assert pseudonym("default", "1.2.3") in shown
    assert "creatinine" in shown
    assert pseudonym("default", "1.2.4") not in shown
    assert "Patient/7" not in shown


def test_a_backfill_is_asked_for_and_not_waited_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is named, or of all that is watched."""
    monkeypatch.setenv("AUSCULT_FHIR_POLL", '["Observation?category=laboratory"]')
    assert run("fhir", "backfill", "--since", "2026-01-01", "Condition?code=x").exit_code == 0
    assert run("fhir", "backfill", "--since", "2026-01-01").exit_code == 0
    wanted = [delivery.event.payload(events.FetchWanted) for delivery in bus.read(FETCHES)]
    assert [one.criteria for one in wanted] == ["Condition?code=x", "Observation?category=laboratory"]
    assert {one.since for one in wanted} == {"2026-01-01T00:00:00+00:00"}


def test_a_backfill_of_nothing_says_what_to_name(bus: Bus) -> None:
    """Where nothing is watched."""
    assert bus
    told = run("fhir", "backfill", "--since", "2026-01-01")
    assert told.exit_code == 1
    assert "nothing is watched" in told.output


def test_what_would_be_registered_is_shown_without_its_secret(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is sent; without a secret the setting is named."""
    assert bus
    monkeypatch.setenv("AUSCULT_FHIR_SUBSCRIPTIONS", '["Observation?code=2160-0"]')
    monkeypatch.setenv("AUSCULT_FHIR_NOTIFY_URL", "https://auscult.example")
    assert "AUSCULT_FHIR_NOTIFY_SECRET_FILE" in run("fhir", "subscribe", "--dry-run").output
    (tmp_path / "secret").write_text("a-secret-of-the-record\n")
    monkeypatch.setenv("AUSCULT_FHIR_NOTIFY_SECRET_FILE", str(tmp_path / "secret"))
    shown = run("fhir", "subscribe", "--dry-run").output
    assert "https://auscult.example/fhir-notifications/" in shown
    assert "a-secret" not in shown

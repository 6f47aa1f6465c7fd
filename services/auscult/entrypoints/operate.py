"""What operators ask: what became of each study, what could not be handled, and to send it again."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from getpass import getuser

import click
from rich.console import Console
from rich.table import Table

from auscult.bus import events, topics
from auscult.bus.dead_letters import listing, replay
from auscult.bus.factory import open_bus
from auscult.domain.study import StudyRef
from auscult.entrypoints.timeline import budget, draw, spans
from auscult.platform.errors import DeadLetter
from auscult.platform.settings import load

PARKED = {topic.name.removeprefix("auscult."): topic for topic in (topics.DEAD_LETTERS, topics.QUARANTINE)}


def show(table: Table) -> None:
    """Print a table."""
    # Reasons are read whole, also through a pipe, where the terminal has no width.
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)


@click.command()
@click.option("--status", type=click.Choice(events.STATUSES), help="Only these.")
def outcomes(status: str | None) -> None:
    """List what became of each object and study."""
    bus = open_bus(load())
    table = Table("time", "study", "status", "reason", "detail", box=None)
    try:
        for delivery in bus.read(topics.OUTCOMES):
            try:
                outcome = delivery.event.payload(events.Outcome)
            except DeadLetter:
                continue
            if status in {None, outcome.status}:
                table.add_row(delivery.event.time, outcome.study, outcome.status, outcome.reason, outcome.detail)
    finally:
        bus.close()
    show(table)


@click.command("waiting")
def waiting() -> None:
    """List the runs that wait for something of the record: for what, since when, and for how long yet."""
    bus = open_bus(load())
    newest: dict[str, events.RunWaits] = {}
    try:
        for delivery in bus.read(topics.WAITING):
            with suppress(DeadLetter):
                newest[delivery.key] = delivery.event.payload(events.RunWaits)
    finally:
        bus.close()
    table = Table("study", "pathway", "waits for", "since", "until", box=None)
    for run in sorted(newest.values(), key=lambda one: one.until):
        if run.state == "waiting":
            study = StudyRef(run.tenant, run.study_uid, run.digest).pseudonym
            table.add_row(study, run.pathway, ", ".join(run.missing), _when(run.since), _when(run.until))
    show(table)


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@click.command("parked")
@click.argument("topic", type=click.Choice(tuple(PARKED)), default="dead-letters")
def parked(topic: str) -> None:
    """List events that wait in the dead-letter or quarantine topic."""
    bus = open_bus(load())
    table = Table("id", "parked at", "study", "reason", "detail", "source", "tries", "sent again", box=None)
    try:
        for row in listing(bus, PARKED[topic]):
            source = f"{row.source_topic} {row.source_partition}:{row.source_offset}"
            again = "yes" if row.replayed else "no"
            table.add_row(row.id, row.time, row.source_key, row.reason, row.detail, source, str(row.tries), again)
    finally:
        bus.close()
    show(table)


@click.command("replay")
@click.argument("topic", type=click.Choice(tuple(PARKED)), default="dead-letters")
@click.option("--id", "ids", multiple=True, help="Only this event; may be given several times.")
@click.option("--again", is_flag=True, help="Also those that were replayed before.")
@click.option("--note", default="", help="Why: kept with who did it and when. Name no patient.")
def replay_command(topic: str, ids: tuple[str, ...], again: bool, note: str) -> None:  # noqa: FBT001 - click passes flags so
    """Send parked events to their source topics again, after their cause was mended. Each is told as an outcome."""
    bus = open_bus(load())
    try:
        count = replay(bus, PARKED[topic], ids=ids or None, again=again, note=note, by=getuser())
    finally:
        bus.close()
    click.echo(f"{count} sent again")


@click.command("trace")
@click.argument("trace_id", required=False)
def trace_command(trace_id: str | None) -> None:
    """Draw one trace as a timeline; without an id, the newest one that begins with a received study."""
    folder = load().home / "traces"
    records = spans(folder)
    if trace_id is None:
        roots = [record for record in records if record.name == "receive study"]
        trace_id = roots[-1].trace if roots else None
    records = [record for record in records if record.trace == trace_id]
    if not records:
        click.echo("no such trace in this home; set AUSCULT_HOME to the one the services use", err=True)
        sys.exit(1)
    show(draw(records))
    if spent := budget(records):
        click.echo(f"\n{spent}")

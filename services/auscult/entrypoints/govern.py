"""For those who answer for the models: switch one off, see who switched what, and what clinicians did with cards."""

from __future__ import annotations

import csv
import getpass
import json
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime

import click
from rich.table import Table

from auscult.bus import events, topics
from auscult.bus.contract import Delivery
from auscult.bus.factory import open_bus
from auscult.bus.switches import EVERY, Switches, history, switch
from auscult.entrypoints.operate import show
from auscult.platform.errors import AuscultError, DeadLetter
from auscult.platform.settings import load

FIELDS = ("model", "reason", "sex", "age-band", "pathway", "client", "card-known")
UNKNOWN = "not known"


def _switch(name: str | None, every: bool, reason: str, by: str | None, *, enabled: bool) -> None:  # noqa: FBT001
    if every == bool(name):
        raise click.UsageError("give the name of a model, or --all")
    settings = load()
    model = EVERY if every else str(name)
    try:
        with closing(open_bus(settings)) as bus:
            switch(bus, model, enabled=enabled, reason=reason, by=by or getpass.getuser())
            state = Switches()
            for _, told in history(bus):
                state.take(told)
    except AuscultError as problem:
        raise click.ClickException(f"NOT switched: {problem}") from None
    if name and not (settings.models / name).is_dir():
        click.echo(f"note: this machine's model repository has no {name}; check the spelling", err=True)
    click.echo(f"{'all models' if every else name} switched {'on' if enabled else 'off'}")
    click.echo(f"off now: {', '.join('all' if each == EVERY else each for each in state.now_off) or 'none'}")


@click.command("disable")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All models.")
@click.option("--reason", required=True, help="For the audit, and shown to clinicians: no names of patients.")
@click.option("--by", help="Who decided. Default: this account.")
def disable(name: str | None, every: bool, reason: str, by: str | None) -> None:  # noqa: FBT001 - click passes flags so
    """Switch a model off everywhere: cards that rest on it become a notice, and no pathway asks it."""
    _switch(name, every, reason, by, enabled=False)


@click.command("enable")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Undo `disable --all`; models switched off by name stay so.")
@click.option("--reason", required=True, help="For the audit.")
@click.option("--by", help="Who decided. Default: this account.")
def enable(name: str | None, every: bool, reason: str, by: str | None) -> None:  # noqa: FBT001 - click passes flags so
    """Switch a model on again."""
    _switch(name, every, reason, by, enabled=True)


@click.command("switches")
@click.option("--format", "form", type=click.Choice(("table", "csv", "json")), default="table", show_default=True)
def switches(form: str) -> None:
    """List who switched which model off or on, when and why."""
    with closing(open_bus(load())) as bus:
        rows = [
            {
                "time": time,
                "model": "all" if told.model == EVERY else told.model,
                "switched": "on" if told.enabled else "off",
                "by": told.by,
                "reason": told.reason,
            }
            for time, told in sorted(history(bus), key=lambda each: each[0])
        ]
    _show(("time", "model", "switched", "by", "reason"), rows, form)


@click.command("feedback")
@click.option("--model", help="Only cards that rest on this model, in any version, or `NAME VERSION`.")
@click.option("--reason", help="Only outcomes with this override reason's code.")
@click.option("--since", type=click.DateTime(("%Y-%m-%d",)), help="Only outcomes from this day on (UTC).")
@click.option(
    "--by", "by", multiple=True, type=click.Choice(FIELDS), help="Group by this; may be given several times."
)
@click.option("--format", "form", type=click.Choice(("table", "csv", "json")), default="table", show_default=True)
def feedback(model: str | None, reason: str | None, since: datetime | None, by: tuple[str, ...], form: str) -> None:
    """Count what clinicians did with cards, by model and reason unless --by says otherwise.

    A card that rests on several models counts for each of them, where it is grouped by model.
    """
    fields = by or ("model", "reason")
    first = since.replace(tzinfo=UTC) if since else None
    counts: dict[tuple[str, ...], Counter[str]] = {}
    with closing(open_bus(load())) as bus:
        for told in _feedback(bus.read(topics.FEEDBACK)):
            named = [each for each in told.models if model in {None, each, each.rpartition(" ")[0]}]
            if (
                (model and not named)
                or (reason and told.reason != reason)
                or (first and datetime.fromisoformat(told.at) < first)
            ):
                continue
            for each in named or [UNKNOWN] if "model" in fields else [""]:
                group = tuple(_value(field, told, each) for field in fields)
                counts.setdefault(group, Counter())[told.outcome] += 1
    rows = [
        dict(zip(fields, group, strict=True))
        | {
            "accepted": str(count["accepted"]),
            "overridden": str(count["overridden"]),
            "overridden %": f"{100 * count['overridden'] / count.total():.0f}",
        }
        for group, count in sorted(counts.items())
    ]
    _show((*fields, "accepted", "overridden", "overridden %"), rows, form)


def _feedback(deliveries: Iterable[Delivery]) -> Iterable[events.CardFeedback]:
    """Yield each outcome once: compaction comes when it comes."""
    seen: dict[str, events.CardFeedback] = {}
    for delivery in deliveries:
        try:
            seen[delivery.key] = delivery.event.payload(events.CardFeedback)
        except DeadLetter:
            continue
    return seen.values()


def _value(field: str, told: events.CardFeedback, model: str) -> str:
    return {
        "model": model,
        "reason": told.reason or ("none" if told.outcome == "overridden" else ""),
        "sex": told.sex or UNKNOWN,
        "age-band": told.age_band or UNKNOWN,
        "pathway": told.pathway or UNKNOWN,
        "client": told.client,
        "card-known": "yes" if told.pathway else "no",
    }[field]


def _show(columns: tuple[str, ...], rows: list[dict[str, str]], form: str) -> None:
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, columns)
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table(*columns, box=None)
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        show(table)

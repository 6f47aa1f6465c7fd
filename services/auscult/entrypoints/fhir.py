"""What operators do between Auscult and the FHIR server: subscribe, and fetch what was missed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from auscult.bus.factory import open_bus
from auscult.entrypoints.fhir_keys import jwks, keygen, retire
from auscult.entrypoints.record_in import secrets_of, subscribed
from auscult.listen.fhir_poll import want
from auscult.listen.record import Watch
from auscult.listen.registration import Registrar
from auscult.platform.errors import AuscultError
from auscult.platform.settings import load
from auscult.publish.fhir.smart import fhir_client


@click.group()
def fhir() -> None:
    """Subscribe at the FHIR server, fetch what was missed, and keep our keys for its tokens."""


for command in (keygen, jwks, retire):
    fhir.add_command(command)


@fhir.command()
@click.option("--dry-run", is_flag=True, help="Print the Subscriptions, without their secret, and send nothing.")
def subscribe(dry_run: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Create, repair or renew the subscriptions of AUSCULT_FHIR_SUBSCRIPTIONS. `listen` does so by itself, too."""
    settings = load()
    try:
        with fhir_client(settings) as client:
            registrar = Registrar(settings, client, secrets_of(settings))
            for watch in subscribed(settings):
                if dry_run:
                    shown = registrar.resource(watch)
                    shown["channel"]["header"] = ["Authorization: Bearer …"]
                    click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
                else:
                    click.echo(f"{watch.topic or watch.criteria}: {registrar.ensure(watch)}")
    except AuscultError as problem:
        raise click.ClickException(str(problem)) from None


@fhir.command()
@click.option("--since", required=True, type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S")), help="In UTC.")
@click.argument("criteria", nargs=-1)
def backfill(since: datetime, criteria: tuple[str, ...]) -> None:
    """Tell all changes since an instant again, of CRITERIA (`Type?parameters`) or of all that is watched.

    `listen` fetches them; what was told before is known by its event's id, and changes nothing.
    """
    settings = load()
    try:
        watches = [Watch.parse(text, "CRITERIA") for text in criteria] or [
            Watch.parse(text.split()[-1], "AUSCULT_FHIR_…")
            for text in (*settings.fhir_subscriptions, *settings.fhir_poll)
        ]
        if not watches:
            raise click.ClickException(
                "nothing is watched: name what to fetch, e.g. 'Observation?category=laboratory'"
            )
        bus = open_bus(settings)
        try:
            for watch in watches:
                want(bus, settings.tenant, watch, since=since.replace(tzinfo=UTC).isoformat())
        finally:
            bus.close()
    except AuscultError as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(f"{len(watches)} searches are asked for; `auscult parked` shows what fails")

"""`auscult export`: cohorts without identities, for validation and training."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import click

from auscult.bus import events, topics
from auscult.bus.factory import open_bus
from auscult.domain.finding import Result
from auscult.imaging.stores import open_images
from auscult.platform.errors import AuscultError
from auscult.platform.settings import load
from auscult.publish.deidentified.cohort import Exporter
from auscult.publish.deidentified.pseudonyms import read_key
from auscult.publish.fhir.smart import fhir_client


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Secret key of pseudonyms; made if new.")
@click.option("--pathway", help="Only patients with results of this pathway.")
@click.option("--patients", type=click.File(), help="Only these: one FHIR Patient id a line.")
@click.option("--images/--no-images", default=True, show_default=True, help="Also the DICOM objects.")
@click.option("--keep-labels", is_flag=True, help="Keep names of outlines where they are plain words.")
def export_command(
    folder: Path,
    *,
    key: Path,
    pathway: str | None,
    patients: TextIO | None,
    images: bool,
    keep_labels: bool,
) -> None:
    """Write a cohort into FOLDER without identities: DICOM per PS3.15 Annex E, FHIR as NDJSON by allow-list.

    The cohort is whom results on the bus are about. Whoever has the key can undo the pseudonyms: keep it here.
    """
    settings = load()
    wanted = {f"Patient/{line.strip().removeprefix('Patient/')}" for line in patients} if patients else None
    bus = open_bus(settings)
    try:
        found = (each.event.payload(Result) for each in bus.read(topics.FINDINGS) if each.event.type == events.RESULT)
        results = [
            result
            for result in found
            if pathway in {None, result.pathway} and (wanted is None or result.patient in wanted)
        ]
        store = open_images(settings) if images else None
        with fhir_client(settings) as record:
            exporter = Exporter(folder, read_key(key), record, store, keep_labels=keep_labels)
            manifest = exporter.export(results)
    except AuscultError as problem:
        raise click.ClickException(str(problem)) from None
    finally:
        bus.close()
    for name, value in manifest.items():
        click.echo(f"{name}: {value}")

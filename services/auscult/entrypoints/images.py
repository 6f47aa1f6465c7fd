"""`auscult images`: fetching from the PACS, erasure by patient, and retention."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from getpass import getuser

import click

from auscult.bus.factory import open_bus
from auscult.domain.identity import is_uid, pseudonym
from auscult.imaging.gate import admit
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.imaging.stores import open_images
from auscult.listen import pacs
from auscult.listen.reception import Reception
from auscult.platform.errors import Refused, RefuseToStart, Retry
from auscult.platform.settings import Settings, load

DAY = 86_400.0

_log = logging.getLogger(__name__)


@click.group("images")
def images() -> None:
    """Fetch studies, and erase them. The home's `audit/images.jsonl` records each erasure, without names."""


@images.command("fetch")
@click.argument("study_uid")
def fetch(study_uid: str) -> None:
    """Take a study from the PACS (AUSCULT_PACS_URL), as if it were sent: by WADO-RS, C-GET or C-MOVE."""
    settings = load()
    if not is_uid(study_uid):
        raise click.UsageError("STUDY_UID is a StudyInstanceUID")
    store = open_images(settings)
    with closing(open_bus(settings)) as bus:
        reception = Reception(settings.tenant, bus, store, "fetch")
        try:
            taken, refused = asyncio.run(pacs.fetch(settings, store, reception, study_uid))
        except (Retry, RefuseToStart) as problem:
            raise click.ClickException(str(problem)) from None
    click.echo(f"{taken} instances taken, {refused} refused")


@images.command("erase")
@click.option("--patient-id", prompt=True, hide_input=True, help="DICOM PatientID; asked for where it is not given.")
@click.option("--issuer", default="", help="IssuerOfPatientID; empty: any.")
@click.option("--dry-run", is_flag=True, help="Only count.")
def erase(patient_id: str, issuer: str, dry_run: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Erase all studies of a patient: those in which any instance bears the PatientID."""

    def theirs(header: InstanceHeader) -> bool:
        patient = header.patient
        return patient.patient_id == patient_id and issuer in {"", patient.issuer}

    _erase("patient", lambda store, tenant, study: any(map(theirs, _headers(store, tenant, study))), dry_run=dry_run)


@images.command("expire")
@click.option("--days", type=click.FloatRange(min=0), required=True, help="Since its last instance came.")
@click.option("--dry-run", is_flag=True, help="Only count.")
def expire(days: float, dry_run: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Erase studies that have been here for longer than they are kept; for a daily job."""
    limit = time.time() - days * DAY

    def old(store: ImageStore, tenant: str, study: str) -> bool:
        return store.newest(tenant, study) < limit

    _erase("retention", old, dry_run=dry_run)


def _erase(why: str, chosen: Callable[[ImageStore, str, str], bool], *, dry_run: bool) -> None:
    settings = load()
    store = open_images(settings)
    studies = [study for study in store.studies(settings.tenant) if chosen(store, settings.tenant, study)]
    count = 0
    for study in studies:
        if dry_run:
            count += store.count(settings.tenant, study)
        else:
            # Before it is done: an erasure that fails is one that was asked for.
            _audit(settings, why, study)
            count += store.erase(settings.tenant, study)
    click.echo(f"{len(studies)} studies with {count} instances {'would be ' if dry_run else ''}erased")


def _headers(store: ImageStore, tenant: str, study: str) -> Iterator[InstanceHeader]:
    for path in store.instances(tenant, study):
        try:
            yield admit(path)
        except Refused as refused:
            _log.warning("study %s: an instance cannot be read: %s", pseudonym(tenant, study), refused.reason)


def _audit(settings: Settings, why: str, study: str) -> None:
    """Append who erased which study, and why, durably."""
    path = settings.home / "audit" / "images.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "action": "erase",
        "why": why,
        "by": getuser(),
        "study": pseudonym(settings.tenant, study),
    }
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())

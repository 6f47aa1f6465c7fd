"""The demo's story: start the services, send the study, follow it, ask the hook, show card, trace and picture."""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markdown import Markdown
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from auscult.bus import events, topics
from auscult.bus.factory import open_bus
from auscult.cds_hooks.card import card_uuid
from auscult.domain.finding import Result
from auscult.entrypoints.demo.patient import register, systems_of
from auscult.entrypoints.demo.picture import draw as draw_picture
from auscult.entrypoints.demo.processes import SERVICES, Services, demo_settings, running
from auscult.entrypoints.demo.study import DemoError, describe, dicom_files, send, write_later, write_phantom
from auscult.entrypoints.timeline import budget, draw, spans
from auscult.imaging.stores import open_images
from auscult.platform.errors import AuscultError
from auscult.platform.settings import Settings, load

RESULT_SECONDS = 180.0
WIDTH = 130
DOUBLING_DAYS = 200.0
FOLLOWED = (topics.STUDIES, topics.FINDINGS, topics.OUTCOMES)
ENDS_WITHOUT_CARD = {"incomplete", "quarantined", "dead-lettered", "skipped"}
"""A refused file is not among them: it is told beside the others, and the study may still be complete."""


def run(dicom: Path | None, *, seed: int, with_seg: bool, later: int = 0) -> None:
    """Run the demo and exit: 0 with a card, 1 with the named outcome where there is none.

    `later`: days after which the phantom comes again, with a nodule that grew; 0: it does not.
    """
    console = Console()
    if not console.is_terminal:  # a pipe has no width; the timeline needs one
        console = Console(width=WIDTH)
    base = load()
    home = base.home / "demo"
    shutil.rmtree(home, ignore_errors=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            truth, visits = "", list[Path]()
            if dicom is None:
                making = progress.add_task(f"Making the chest phantom, seed {seed}", total=None)
                dicom = home / "phantom"
                truth = describe(write_phantom(dicom, seed=seed, seg=with_seg))
                if later:
                    visits.append(home / "later")
                    grown = write_later(visits[-1], seed=seed, seg=with_seg, days=later, doubling_days=DOUBLING_DAYS)
                    truth += f"; {later} days later {describe(grown)}; doubling time {DOUBLING_DAYS:.0f} days"
                progress.update(making, total=1, completed=1)
            visits.insert(0, dicom)
            files, unsent = dicom_files(dicom)
            if not files:
                raise DemoError("no-dicom", "no DICOM file was found in the folder")
            settings = demo_settings(home, base.models.resolve(), systems_of(files))
            with running(settings) as services:
                starting = progress.add_task("Starting the services", total=len(SERVICES))
                for _ in services.wait_ready(SERVICES):
                    progress.advance(starting)
                patient = register(files, settings)
                with httpx.Client(base_url=settings.hooks_public_url) as ehr:
                    hook = _discover(ehr)
                    for number, visit in enumerate(visits, start=1):
                        _send(dicom_files(visit)[0], settings, progress, console)
                        result, traceparent = _follow(services, progress, number)
                        card = _ask_hook(ehr, hook, patient, traceparent, str(card_uuid(result)))
        _show(console, result, card, settings, traceparent)
        if truth:
            console.print(f"The phantom's truth: {truth}")
        for file in unsent:
            console.print(f"{file.path.name}: {file.reason}")
    except AuscultError as problem:
        console.print(f"[red]No card.[/red] {problem}", highlight=False)
        sys.exit(1)


def _send(files: list[Path], settings: Settings, progress: Progress, console: Console) -> None:
    sending = progress.add_task("Sending the CT by C-STORE", total=len(files))
    for sent in send(files, settings.dicom_host, settings.dicom_port, settings.ae_title):
        progress.advance(sending)
        if sent.status != 0:
            status = "" if sent.status is None else f"refused with status 0x{sent.status:04X}"
            console.print(f"{sent.path.name}: {status} {sent.reason}", highlight=False)


def _follow(services: Services, progress: Progress, number: int) -> tuple[Result, str]:
    """Follow the studies on the bus to the result of the one with this number; return it with its traceparent."""
    following = progress.add_task("Study complete, models, record", total=2 * number)
    with closing(open_bus(services.settings)) as bus, bus.tail(*FOLLOWED) as tail:
        end = time.monotonic() + RESULT_SECONDS
        while time.monotonic() < end:
            for process in services.processes.values():
                process.check()
            delivery = tail.poll(0.5)
            if delivery is None:
                continue
            if delivery.topic != topics.OUTCOMES.name:
                progress.advance(following)
            if delivery.topic == topics.FINDINGS.name and (number := number - 1) == 0:
                return delivery.event.payload(Result), delivery.event.traceparent
            if delivery.topic == topics.OUTCOMES.name:
                outcome = delivery.event.payload(events.Outcome)
                if outcome.status in ENDS_WITHOUT_CARD:
                    raise DemoError(outcome.status, f"{outcome.reason}: {outcome.detail}")
    raise DemoError(
        "no-result", f"nothing came back within {RESULT_SECONDS:.0f} s; see the logs in {services.settings.home}/logs"
    )


def _ask_hook(ehr: httpx.Client, hook: str, patient: str, traceparent: str, wanted: str) -> dict[str, Any]:
    """Call the hook as an EHR does, until the card store has the card with the uuid `wanted`."""
    request = {
        "hook": "patient-view",
        "hookInstance": str(uuid.uuid4()),
        "context": {"userId": "Practitioner/demo", "patientId": patient.removeprefix("Patient/")},
    }
    for _ in range(200):
        answer = ehr.post(hook, json=request, headers={"traceparent": traceparent}).raise_for_status().json()
        # Others say that a study is being analysed, or are about an earlier one.
        cards = [card for card in answer["cards"] if card.get("uuid") == wanted]
        if cards:
            card: dict[str, Any] = cards[0]
            return card
        time.sleep(0.01)
    raise DemoError("no-card", "the hook answered without the card")


def _discover(ehr: httpx.Client) -> str:
    """Return the path of the patient-view service, which an EHR looks up when it is set up, not at each call."""
    services = ehr.get("/cds-services").raise_for_status().json()["services"]
    return f"/cds-services/{next(service['id'] for service in services if service['hook'] == 'patient-view')}"


def _show(console: Console, result: Result, card: dict[str, Any], settings: Settings, traceparent: str) -> None:
    colour = {"info": "blue", "warning": "yellow", "critical": "red"}[card["indicator"]]
    console.print()
    console.print(
        Panel(
            Markdown(card["detail"]),
            title=f"[bold]{card['summary']}[/bold]",
            subtitle=card["source"]["label"],
            border_style=colour,
        )
    )
    records = spans(settings.home / "traces", traceparent.split("-")[1])
    if records:
        console.print()
        console.print(draw(records))
        if spent := budget(records):
            console.print(f"\n{spent}")
    if result.findings:
        outline = result.findings[0].outline
        store = open_images(settings)
        file = store.path(result.study.tenant, result.study.study_uid, outline.series_uid, outline.sop_instance_uid)
        console.print(f"\nPicture: {draw_picture(file, result.findings[0], settings.home / 'slice.png')}")
    console.print(f"Record, images, events, traces, logs: {settings.home}")

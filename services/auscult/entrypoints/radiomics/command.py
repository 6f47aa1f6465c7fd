"""`auscult radiomics`, the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from auscult.entrypoints.radiomics.measuring import Outcome, key, outcomes
from auscult.entrypoints.radiomics.rows import Row, read_table
from auscult.entrypoints.radiomics.writing import Fhir, Form, JsonLines, Table, earlier
from auscult.imaging.files import Selection
from auscult.platform.errors import RefuseToStart
from auscult.radiomics.parameters import DEFAULT, TEMPLATE, Parameters, read

UNUSABLE = 78
"""Exit status of a configuration that cannot be used (EX_CONFIG)."""
NOT_ALL = 1
"""Exit status where a region was not measured."""


@click.command("radiomics")
@click.argument("image", required=False, type=click.Path(path_type=Path))
@click.argument("mask", required=False, type=click.Path(path_type=Path))
@click.option("--batch", type=click.Path(path_type=Path), help="CSV with a row per region: image, mask, and more.")
@click.option("--parameters", type=click.Path(path_type=Path), help="YAML; default: own voxels, bins of 25.")
@click.option("--print-parameters", is_flag=True, help="Print all parameters with their defaults, or those given.")
@click.option("--label", type=int, help="Of a label map: the value inside the region.")
@click.option("--segment", "--roi", default="", help="Of a SEG, RTSTRUCT or .seg.nrrd: name or number.")
@click.option("--series", default="", help="Of a folder with several DICOM series: number or UID.")
@click.option(
    "--format", "form", type=click.Choice(("csv", "wide", "json", "fhir")), default="csv", show_default=True
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: standard output.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes, of a batch.")
@click.option("--resume", is_flag=True, help="Keep what --output already holds of a batch; measure the rest.")
@click.option("--subject", default="", help="Of FHIR Observations, such as Patient/123.")
@click.pass_context
def radiomics(
    context: click.Context,
    *,
    image: Path | None,
    mask: Path | None,
    batch: Path | None,
    parameters: Path | None,
    print_parameters: bool,
    label: int | None,
    segment: str,
    series: str,
    form: str,
    output: Path | None,
    jobs: int,
    resume: bool,
    subject: str,
) -> None:
    """Measure the IBSI's features of the region that MASK outlines in IMAGE.

    IMAGE is NIfTI, NRRD or a folder with a DICOM series; MASK is NIfTI, NRRD, DICOM SEG or RTSTRUCT. Exit status: 0
    all measured; 1 a region was not, its reason is in the output; 2 wrong usage; 78 parameters, table or output
    cannot be used.
    """
    try:
        chosen = read(parameters) if parameters else DEFAULT
        if print_parameters:
            click.echo(_printed(chosen) if parameters else TEMPLATE.read_text(encoding="utf-8"), nl=False)
            return
        if (batch is None) == (image is None or mask is None) or (batch and image):
            raise click.UsageError("give IMAGE and MASK, or --batch TABLE.csv")
        if resume and (batch is None or output is None):
            raise click.UsageError("--resume needs --batch and --output")
        selection = Selection(label, segment, series)
        rows = (
            [Row("1", str(image), str(mask), selection, chosen)]
            if batch is None
            else read_table(batch, chosen, selection)
        )
        writer = _form(form, subject, indent=2 if batch is None else None)
        failed = _write(rows, writer, output, jobs=jobs, resume=resume)
    except RefuseToStart as problem:
        click.echo(f"radiomics: {problem}", err=True)
        context.exit(UNUSABLE)
    context.exit(NOT_ALL if failed else 0)


def _form(form: str, subject: str, indent: int | None) -> Form:
    if form == "json":
        return JsonLines(indent)
    if form == "fhir":
        return Fhir(indent, subject)
    return Table(wide=form == "wide")


def _write(rows: list[Row], form: Form, output: Path | None, *, jobs: int, resume: bool) -> bool:
    """Write each row's block as soon as those before it are written; return whether one was not measured."""
    part = output.with_name(f"{output.name}.part") if output else None
    kept: dict[str, str] = {}
    if resume and output and part:
        kept = earlier(form, output, part)
        # What is kept is on the disk at any time: the part is written anew only when it is.
        with _replacing(output, output.with_name(f"{output.name}.kept")) as file:
            file.write(form.head + "".join(kept[each] for each in map(key, rows) if each in kept))
    missing = [row for row in rows if key(row) not in kept]
    failed = False
    with _replacing(output, part) as file, _progress(len(rows)) as advance:
        file.write(form.head)
        found = outcomes(missing, min(jobs, len(missing) or 1))
        for row in rows:
            block = kept.get(key(row))
            if block is None:
                outcome = next(found)
                failed |= _told(outcome)
                block = form.block(outcome)
            file.write(block)
            file.flush()
            advance()
    return failed


def _told(outcome: Outcome) -> bool:
    """Say on the standard error what could not be measured, and whether."""
    if outcome.problem:
        click.echo(f"{outcome.row.image}, {outcome.row.mask}: {outcome.problem}", err=True)
    return bool(outcome.problem)


@contextmanager
def _replacing(output: Path | None, part: Path | None) -> Iterator[TextIO]:
    """Give a file that takes the place of `output` when all is written; without one the standard output."""
    if output is None or part is None:
        yield sys.stdout
        return
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except OSError as error:
        raise RefuseToStart(
            "output-unwritable", f"the output cannot be written ({type(error).__name__}); check its folder and space"
        ) from None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Give what is called after each row. The bar is on the standard error, and only where a person looks at it."""
    console = Console(stderr=True)
    columns = (TextColumn("regions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal or total == 1) as progress:
        task = progress.add_task("regions", total=total)
        yield lambda: progress.advance(task)


def _printed(parameters: Parameters) -> str:
    return msgspec.yaml.encode(parameters).decode()

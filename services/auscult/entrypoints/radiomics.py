"""`auscult radiomics`: the features of regions outlined in NIfTI images, as CSV or JSON."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec
from numpy.typing import NDArray

from auscult import __version__
from auscult.domain.ibsi_features import FEATURES
from auscult.imaging.nifti import read_pair
from auscult.inference.repository import RefusedModelError, Repository, UnknownModelError
from auscult.platform.errors import AuscultError, RefuseToStart
from auscult.platform.settings import load
from auscult.radiomics.chain import Chain, parse
from auscult.radiomics.measure import MODELS, Infer, measure

DEFAULT = Chain(bin_width=25)
"""The image's own voxels, in bins of 25 HU."""


@click.command("radiomics")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--settings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The image-processing chain, YAML or JSON. Default: the image's own voxels, bins of 25.",
)
@click.option("--label", type=int, help="The mask's value inside the region. Default: all above 0.")
@click.option("--format", "form", type=click.Choice(("csv", "json")), default="csv", show_default=True)
@click.option("--out", type=click.File("w", lazy=True), default="-", help="Default: the terminal.")
def radiomics(files: tuple[Path, ...], settings: Path | None, label: int | None, form: str, out: TextIO) -> None:
    """Measure every IBSI feature of FILES: IMAGE MASK [IMAGE MASK ...], NIfTI.

    CSV has a row per pair. A pair that cannot be measured is named on the standard error, and the exit status is 1.
    """
    if len(files) % 2:
        raise click.UsageError("give each IMAGE with its MASK")
    failed = False
    results = []
    try:
        chain = parse(settings.read_text(encoding="utf-8")) if settings else DEFAULT
        infer, versions = local_models(load().models)
    except RefuseToStart as problem:
        raise click.ClickException(str(problem)) from None
    pairs = list(zip(files[::2], files[1::2], strict=True))
    with click.progressbar(pairs, file=sys.stderr, label="regions") as bar:
        for image, mask in bar:
            try:
                pair = read_pair(image, mask, label)
                values = measure(pair.image, pair.mask, pair.spacing, chain, infer)
            except AuscultError as problem:
                failed = True
                click.echo(f"\n{image}: {problem}", err=True)
                continue
            results.append(
                {
                    "image": str(image),
                    "mask": str(mask),
                    "label": label,
                    "software": f"auscult {__version__}",
                    "models": versions,
                    "settings": msgspec.to_builtins(chain),
                    "features": values,
                }
            )
    (_write_csv if form == "csv" else _write_json)(results, out)
    if failed:
        sys.exit(1)


def local_models(root: Path) -> tuple[Infer, dict[str, str]]:
    """Return a function that runs the radiomics models in this process, and their versions; RefuseToStart."""
    repository = Repository(root)
    found = {}
    for name in MODELS:
        try:
            found[name] = repository.find(name)
        except (UnknownModelError, RefusedModelError) as problem:
            raise RefuseToStart("model-missing", f"{problem}; run `auscult models build`") from None

    def run(name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        model, version = found[name]
        return {"features": model.sessions[version].run(["features"], inputs)[0]}

    return run, {name: version for name, (_, version) in found.items()}


def _write_csv(results: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Write a row per region: what it was computed from, then each feature; empty where one has no value."""
    said = ("image", "mask", "label", "software", "models", "settings")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*said, *(feature.name for feature in FEATURES)))
    for result in results:
        row = [result[key] if isinstance(result[key], str) else json.dumps(result[key]) for key in said]
        values = (result["features"][feature.name] for feature in FEATURES)
        writer.writerow((*row, *("" if math.isnan(value) else repr(value) for value in values)))


def _write_json(results: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Write a list of regions, each feature with its IBSI code, aggregation, unit and whether it is compliant."""
    written = []
    for result in results:
        features = [
            {
                "name": feature.name,
                "ibsi": feature.code.code,
                "display": feature.code.display,
                "family": feature.family,
                "aggregation": feature.aggregation,
                "unit": feature.unit,
                "compliant": feature.compliant,
                "value": None if math.isnan(result["features"][feature.name]) else result["features"][feature.name],
            }
            for feature in FEATURES
        ]
        written.append({**result, "features": features})
    json.dump(written, out, indent=1)
    out.write("\n")

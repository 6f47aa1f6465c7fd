"""`auscult models import` and `verify`: models that others trained, and whether they still answer as they did."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import numpy as np

from auscult.inference import loading, sources
from auscult.inference.config_checks import WrongModelError
from auscult.inference.integrity import Trust, verified
from auscult.inference.manifest import UntrustedModelError
from auscult.models.importing import detect, entry
from auscult.models.importing.golden import GOLDEN, Golden
from auscult.models.importing.source import CannotImport, Request, Tensors, Wanted
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import load


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """Say what is wrong in one sentence, without a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (CannotImport, RefuseToStart) as error:
            raise click.ClickException(str(error)) from error

    return run


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@click.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="The model's name in the repository.")
@click.option("--overwrite", is_flag=True, help="Replace the model of this name.")
@click.option("--trust-pickle", is_flag=True, help="Unpickle SOURCE, which runs whatever code it holds.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME:TYPE:SIZES", help="E.g. image:FP32:-1,1,96,96; repeat."
)
@click.option(
    "--example",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Inputs to compare with, .npz by name. They are kept beside the model: nothing of a patient's.",
)
@click.option("--labels", default="", help="What the outputs stand for, in order: benign,malignant.")
@click.option("--unit", "units", multiple=True, metavar="FEATURE=UCUM", help="A feature's unit, e.g. age=a; repeat.")
@click.option("--folds", default="", help="nnU-Net: which folds, averaged, e.g. 0,1,2,3,4.")
@click.option(
    "--checkpoint", default="checkpoint_final.pth", show_default=True, help="nnU-Net: which file of a fold."
)
@click.option("--orientation", default="", help="Axis codes of the arrays it was trained on, e.g. SPL or RAS.")
@click.option("--network-only", is_flag=True, help="Leave out what comes before and after the network.")
@click.option("--seed", default=1, show_default=True, help="Of the inputs that are compared.")
@_told
def import_model(
    source: Path,
    name: str,
    *,
    overwrite: bool,
    inputs: tuple[str, ...],
    example: Path | None,
    labels: str,
    units: tuple[str, ...],
    folds: str,
    **rest: Any,
) -> None:
    """Bring a trained model into the repository.

    SOURCE: a MONAI bundle or nnU-Net v2 results (folder or .zip), a scikit-learn, XGBoost, LightGBM, PyTorch or ONNX
    file. Nothing is written where ONNX Runtime answers otherwise than the source's own framework.
    """
    settings = load()
    if isinstance(settings.model_repository, str):
        raise CannotImport(
            "repository-remote",
            "set AUSCULT_MODEL_REPOSITORY to a folder to import into, then copy the model to the bucket",
        )
    root = settings.models
    entry.check_name(root, name, overwrite=overwrite)
    request = Request(
        source,
        inputs=dict(_input(text) for text in inputs),
        example=_example(example) if example else {},
        labels=_split(labels),
        units=dict(_unit(text) for text in units),
        folds=_split(folds),
        **rest,
    )
    converted = detect.convert(request)
    written = entry.write(root, name, converted, accept=_accept, seed=request.seed, overwrite=overwrite)
    click.echo(f"imported {name} from {converted.framework} into {written.folder}")
    click.echo(
        f"ONNX Runtime differs from the source by at most {written.difference:.2g}; tolerated are "
        f"{converted.tolerance.absolute:g} + {converted.tolerance.relative:g} of the value"
    )
    for sentence in written.not_carried:
        click.echo(f"note: {sentence}")
    click.echo(f"Its stage is shadow. Complete {written.folder / 'card.yaml'}: not for clinical use until validated.")


@click.command("verify")
@click.argument("names", nargs=-1)
@_told
def verify(names: tuple[str, ...]) -> None:
    """Check models as the service does, and replay their golden pairs; without NAMES, all that have one."""
    settings = load()
    source = sources.bucket(settings) or sources.Folder(settings.models, sources.trust(settings))
    present = source.look()
    if unknown := sorted(set(names) - present.keys()):
        raise CannotImport(
            "model-unknown", f"the repository has no model {unknown[0]!r}; it has {', '.join(present)}"
        )
    failed = False
    for name in names or sorted(present):
        try:
            files = source.read(name)
            model = loading.load(name, files, settings.inference_threads, sources.trust(settings))
            if GOLDEN not in files:
                click.echo(f"{name}: served, but it has no {GOLDEN} to replay")
                failed = failed or bool(names)
                continue
            pair = Golden.decode(files[GOLDEN])
            difference = pair.replay(model.sessions[model.latest])
        except (UntrustedModelError, WrongModelError, CannotImport, OSError, *_UNREADABLE) as error:
            click.echo(f"{name}: FAILED: {error}")
            failed = True
        else:
            click.echo(f"{name}: answers as {pair.framework} did, within {difference:.2g}")
    if failed:
        sys.exit(1)


_UNREADABLE = (KeyError, ValueError, zipfile.BadZipFile)


def _accept(repository: Path) -> None:
    """Load the one model of the repository as the service does."""
    for folder in repository.iterdir():
        try:
            loading.load(folder.name, verified(folder, Trust()), 1, Trust())
        except (UntrustedModelError, WrongModelError) as error:
            raise CannotImport("not-servable", f"the inference service would refuse the model: {error}") from error


def _input(text: str) -> tuple[str, Wanted]:
    try:
        name, dtype, sizes = text.rsplit(":", 2)
        shape = tuple(int(size) for size in sizes.split(",") if size)
    except ValueError:
        raise CannotImport("input-wrong", f"--input {text}: NAME:TYPE:SIZES is needed, e.g. x:FP32:-1,20") from None
    if any(size == 0 or size < -1 for size in shape):
        raise CannotImport("input-wrong", f"--input {text}: sizes above 0 are needed, or -1 for an open one")
    return name, Wanted(dtype.upper(), shape)


def _unit(text: str) -> tuple[str, str]:
    feature, separator, unit = text.rpartition("=")
    if not separator:
        raise CannotImport("unit-wrong", f"--unit {text}: FEATURE=UCUM is needed, e.g. age=a")
    return feature, unit


def _example(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, OSError, zipfile.BadZipFile, TypeError) as error:
        raise CannotImport("example-wrong", f"{path.name} is not an .npz of arrays: {error}") from None

"""`auscult models seal`: a folder in Triton's layout, of whatever origin, becomes one that the service serves."""

from __future__ import annotations

from pathlib import Path

import click

from auscult.inference import loading, model_config, sources
from auscult.inference.config_checks import WrongModelError
from auscult.inference.integrity import Trust, unverified
from auscult.inference.manifest import CARD, SIGNATURE, SUMS, UntrustedModelError
from auscult.models.build import sums
from auscult.models.importing.card import skeleton
from auscult.models.importing.source import Facts
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import load


@click.command("seal")
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def seal(folders: tuple[Path, ...]) -> None:
    """Vouch for the files of models as they are, each in its FOLDER in Triton's layout.

    Writes SHA256SUMS again, and a card to complete where there is none. A model that the service would refuse is left
    as it is. Look through what you seal: from now on it is what its author released.
    """
    try:
        accepted = sources.trust(load())
    except (RefuseToStart, ValueError) as error:
        raise click.ClickException(str(error)) from None
    for folder in folders:
        try:
            made = _seal(folder, accepted)
        except (UntrustedModelError, WrongModelError, OSError) as error:
            raise click.ClickException(f"{folder} is not sealed: {error}") from None
        click.echo(f"sealed {folder}" + (f", with a card to complete: {folder / CARD}" if made else ""))
        if (folder / SIGNATURE).exists():
            click.echo("note: its signature is of what it was; sign it again with `auscult models sign`")


def _seal(folder: Path, accepted: Trust) -> bool:
    """Write the manifest, and the card where there is none; return whether there was none."""
    name, files = folder.resolve().name, unverified(folder, accepted)
    made = CARD not in files
    if made:
        text = files.get(loading.CONFIG, b"").decode(errors="replace")
        model = loading.load(name, files, 1, accepted, model_config.parse(text, name))
        files[CARD] = skeleton(name, model.latest, _FACTS, (), "").encode()
    loading.load(name, files, 1, accepted)
    if made:
        (folder / CARD).write_bytes(files[CARD])
    (folder / SUMS).write_bytes(sums(files))
    return made


_FACTS = Facts(summary="A model of a repository in Triton's layout; what it is for is not documented yet.")

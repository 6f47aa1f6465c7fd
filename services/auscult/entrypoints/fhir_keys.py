"""`auscult fhir keygen`, `jwks`, `retire`: the keys by which the FHIR server's authorization server knows us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click

from auscult.publish.fhir.keys import Algorithm, add_key, public_keys, remove_key

FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command("keygen")
@FILE
@click.option("--algorithm", type=click.Choice(get_args(Algorithm)), default="ES384", show_default=True)
def keygen(file: Path, algorithm: Algorithm) -> None:
    """Add a new private key to FILE, which is made if new, and print its kid. Running services take it up."""
    with _told(file):
        click.echo(add_key(file, algorithm))


@click.command("jwks")
@FILE
def jwks(file: Path) -> None:
    """Print the public keys of FILE as a JWK set, to register, or to serve at the client's jwks_uri."""
    with _told(file):
        click.echo(json.dumps(public_keys(file), indent=2))


@click.command("retire")
@FILE
@click.argument("kid")
def retire(file: Path, kid: str) -> None:
    """Remove the key KID from FILE, once the server knows a newer one."""
    with _told(file):
        remove_key(file, kid)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Tell what is wrong without a traceback."""
    try:
        yield
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None

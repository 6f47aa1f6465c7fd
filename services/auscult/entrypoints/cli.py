"""The command line: `auscult COMMAND`. Imports are lazy, so that each command starts only what it needs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

SERVICES = {
    "listen": "Events in: DICOM by DIMSE and DICOMweb, FHIR notifications and polling, HL7 v2.",
    "inference": "The Open Inference Protocol gRPC server.",
    "pathways": "The worker that runs the clinical pathways.",
    "cds-hooks": "CDS Hooks over HTTP, answered from memory.",
    "fhir-sandbox": "A FHIR server in memory, for the demo alone.",
}
MODEL_COMMANDS = {
    "import": ("import_model", "import_model"),
    "verify": ("import_model", "verify"),
    "seal": ("seal_model", "seal"),
    "disable": ("govern", "disable"),
    "enable": ("govern", "enable"),
    "switches": ("govern", "switches"),
}
"""By name: the module and its function."""
OPERATIONS = {
    "outcomes": "outcomes",
    "waiting": "waiting",
    "parked": "parked",
    "replay": "replay_command",
    "trace": "trace_command",
}


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all commands, the services first."""
        return [
            *SERVICES,
            *OPERATIONS,
            "feedback",
            "fhir",
            "radiomics",
            "export",
            "images",
            *super().list_commands(ctx),
        ]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name in SERVICES:
            module = f"auscult.entrypoints.{cmd_name.replace('-', '_')}"

            def start() -> None:
                import_module(module).main()

            return click.Command(cmd_name, callback=start, help=SERVICES[cmd_name])
        if cmd_name == "radiomics":
            measuring: click.Command = import_module("auscult.entrypoints.radiomics.command").radiomics
            return measuring
        if cmd_name in {"feedback", "fhir", "images"}:
            module = {"feedback": "govern", "fhir": "fhir", "images": "images"}[cmd_name]
            named: click.Command = getattr(import_module(f"auscult.entrypoints.{module}"), cmd_name)
            return named
        if cmd_name == "export":
            exporting: click.Command = import_module("auscult.entrypoints.export").export_command
            return exporting
        if cmd_name in OPERATIONS:
            command: click.Command = getattr(import_module("auscult.entrypoints.operate"), OPERATIONS[cmd_name])
            return command
        return super().get_command(ctx, cmd_name)


class LazyModels(click.Group):
    """A group whose commands on models that exist are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all commands."""
        return sorted([*MODEL_COMMANDS, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name in MODEL_COMMANDS:
            module, function = MODEL_COMMANDS[cmd_name]
            command: click.Command = getattr(import_module(f"auscult.entrypoints.{module}"), function)
            return command
        return super().get_command(ctx, cmd_name)


@click.group(cls=Lazy)
@click.version_option(package_name="auscult")
def main() -> None:
    """Clinical decision support from imaging and the record. Settings: AUSCULT_… in the environment."""


@main.group(cls=LazyModels)
def models() -> None:
    """Work on the model repository."""


@models.command("build")
@click.option("--if-changed", is_flag=True, help="Do nothing where the repository is up to date.")
def build(if_changed: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Write the reference models as ONNX, with cards and digests, into the model repository."""
    from auscult.models.build import build_repository  # noqa: PLC0415
    from auscult.platform.errors import RefuseToStart  # noqa: PLC0415
    from auscult.platform.settings import load  # noqa: PLC0415

    try:
        changed = build_repository(load().models_to_write, if_changed=if_changed)
    except RefuseToStart as problem:
        raise click.ClickException(str(problem)) from None
    for name in changed:
        click.echo(f"built {name}")


@models.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
def keygen(file: Path) -> None:
    """Write a new private key to FILE, to sign models with, and print its public key, for those who trust it."""
    from auscult.inference.signing import generate  # noqa: PLC0415

    try:
        public = generate(file)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    click.echo(f"{file} is the private key: keep it, and show it to nobody. Sites add to AUSCULT_MODEL_TRUSTED_KEYS:")
    click.echo(public)


@models.command("sign")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="The signer's private key.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def sign(key: Path, folders: tuple[Path, ...]) -> None:
    """Sign models, each in its FOLDER, so that sites that trust the key serve them."""
    from auscult.inference import integrity  # noqa: PLC0415
    from auscult.inference.manifest import UntrustedModelError  # noqa: PLC0415
    from auscult.inference.signing import private_key  # noqa: PLC0415

    for folder in folders:
        try:
            integrity.sign(folder, private_key(key))
        except (UntrustedModelError, ValueError, OSError) as error:
            raise click.ClickException(f"{folder} is not signed: {error}") from None
        click.echo(f"signed {folder}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=1, show_default=True)
@click.option("--seg/--no-seg", default=True, show_default=True, help="Also write the nodule's truth as a DICOM SEG.")
@click.option("--later", type=click.IntRange(1), help="Also write the CT of so many days later, in FOLDER/later.")
@click.option("--doubling", default=200.0, show_default=True, help="Days in which the nodule's volume doubles.")
def phantom(folder: Path, seed: int, seg: bool, later: int | None, doubling: float) -> None:  # noqa: FBT001 - click
    """Write a synthetic chest CT with a nodule of known size as a DICOM series."""
    from auscult.entrypoints.demo.study import DemoError, describe, write_later, write_phantom  # noqa: PLC0415

    click.echo(describe(write_phantom(folder, seed=seed, seg=seg)))
    if later:
        try:
            truth = write_later(folder / "later", seed=seed, seg=seg, days=later, doubling_days=doubling)
        except DemoError as problem:
            raise click.ClickException(str(problem)) from None
        click.echo(f"{later} days later: {describe(truth)}")


@main.command()
@click.option("--dicom", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Your own CT series.")
@click.option("--seed", default=1, show_default=True, help="Which phantom, without --dicom.")
@click.option(
    "--region",
    type=click.Choice(("auto", "seg")),
    default="auto",
    show_default=True,
    help="Outline by the model, or the phantom's own SEG.",
)
@click.option("--later", type=click.IntRange(0), default=0, help="The phantom comes again after so many days.")
def demo(dicom: Path | None, seed: int, region: str, later: int) -> None:
    """Run the whole product on this machine: a chest CT goes in, a card comes out."""
    from auscult.entrypoints.demo.run import run  # noqa: PLC0415

    run(dicom, seed=seed, with_seg=region == "seg", later=later)


if __name__ == "__main__":
    main()

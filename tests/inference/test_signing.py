"""A site that trusts keys serves what they signed, and nothing else."""

from __future__ import annotations

import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from auscult.entrypoints.cli import main
from auscult.inference.integrity import Trust
from auscult.inference.repository import LoadError, Override, Repository
from auscult.inference.signing import generate, public_key
from auscult.platform.errors import RefuseToStart


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., Path], double: bytes) -> Path:
    """Return a sealed model folder that nobody signed."""
    return write(tmp_path / "models/double", "max_batch_size: 4", double)


@pytest.fixture
def signed(folder: Path, tmp_path: Path) -> Trust:
    """Sign the model by the commands, and return the trust of a site that knows the signer."""
    made = CliRunner().invoke(main, ["models", "keygen", str(tmp_path / "key.pem")])
    assert made.exit_code == 0, made.output
    done = CliRunner().invoke(main, ["models", "sign", "--key", str(tmp_path / "key.pem"), str(folder)])
    assert done.exit_code == 0, done.output
    return Trust(keys=(public_key(made.output.split()[-1]),))


def reason(folder: Path, trust: Trust) -> str:
    """Return why the model is refused."""
    return Repository(folder.parent, 1, trust).refused["double"]


def test_signed_model_is_served(folder: Path, signed: Trust) -> None:
    """By a site that trusts the signer, and by one that asks for no signature."""
    assert list(Repository(folder.parent, 1, signed).models) == ["double"]
    assert list(Repository(folder.parent, 1).models) == ["double"]


def test_openssl_verifies_the_signature(folder: Path, signed: Trust, tmp_path: Path) -> None:
    """The signature is plain Ed25519 of SHA256SUMS, which other tools can check."""
    (tmp_path / "signature").write_bytes(b64decode((folder / "SHA256SUMS.sig").read_bytes().split()[1]))
    command = "openssl pkeyutl -verify -rawin -inkey key.pem -in models/double/SHA256SUMS -sigfile signature"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done
    assert signed.keys


def test_unsigned_model_is_refused(folder: Path, signed: Trust) -> None:
    """A site that trusts keys serves no model without a signature."""
    (folder / "SHA256SUMS.sig").unlink()
    assert reason(folder, signed).startswith("SHA256SUMS.sig is missing, and only signed models are served here")


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"AAAA\n", b"\xff\xfe", b"A" * 87 + b"=\n"])
def test_what_is_no_signature_is_refused(folder: Path, signed: Trust, content: bytes) -> None:
    """Whatever lies in the signature's place."""
    (folder / "SHA256SUMS.sig").write_bytes(content)
    assert "of those who signed this SHA256SUMS (nobody) none is trusted here" in reason(folder, signed)


def test_model_of_another_signer_is_refused_until_ours_signs_it_too(
    folder: Path, signed: Trust, tmp_path: Path
) -> None:
    """Signatures lie beside each other: a second signer does not undo the first."""
    other = Trust(keys=(public_key(generate(tmp_path / "other.pem")),))
    signer = b64encode(signed.keys[0].public_bytes_raw()).decode()
    assert f"({signer}) none is trusted here" in reason(folder, other)
    for _ in range(2):
        CliRunner().invoke(main, ["models", "sign", "--key", str(tmp_path / "other.pem"), str(folder)])
    for trust in (signed, other):
        assert list(Repository(folder.parent, 1, trust).models) == ["double"]
    assert len((folder / "SHA256SUMS.sig").read_bytes().splitlines()) == 2


def test_file_that_was_changed_with_its_digest_is_refused(
    folder: Path, signed: Trust, seal: Callable[[Path], None]
) -> None:
    """Who can write the folder can make the digests right, but not the signature."""
    (folder / "config.pbtxt").write_text("max_batch_size: 2")
    seal(folder)
    assert "(nobody) none is trusted here" in reason(folder, signed)


def test_signature_of_what_was_leaves_when_it_is_signed_again(
    folder: Path, signed: Trust, seal: Callable[[Path], None], tmp_path: Path
) -> None:
    """A signer who signs again takes the place of its own line, and of those that hold no longer."""
    generate(tmp_path / "other.pem")
    CliRunner().invoke(main, ["models", "sign", "--key", str(tmp_path / "other.pem"), str(folder)])
    (folder / "config.pbtxt").write_text("max_batch_size: 2")
    seal(folder)
    CliRunner().invoke(main, ["models", "sign", "--key", str(tmp_path / "key.pem"), str(folder)])
    assert list(Repository(folder.parent, 1, signed).models) == ["double"]
    assert len((folder / "SHA256SUMS.sig").read_bytes().splitlines()) == 1


def test_model_that_does_not_fit_its_digests_is_not_signed(folder: Path, tmp_path: Path) -> None:
    """The command vouches for nothing that is not whole."""
    generate(tmp_path / "key.pem")
    (folder / "config.pbtxt").write_text("")
    done = CliRunner().invoke(main, ["models", "sign", "--key", str(tmp_path / "key.pem"), str(folder)])
    assert done.exit_code == 1
    assert "config.pbtxt is not the file that SHA256SUMS lists" in done.output
    assert not (folder / "SHA256SUMS.sig").exists()


def test_private_key_is_its_owners_and_never_overwritten(tmp_path: Path) -> None:
    """A key file is readable by its owner alone; to make another one in its place is refused."""
    generate(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    again = CliRunner().invoke(main, ["models", "keygen", str(tmp_path / "key.pem")])
    assert again.exit_code == 1
    assert "exists" in again.output


def test_key_that_is_none_is_told(tmp_path: Path, folder: Path) -> None:
    """In the settings, and in the command."""
    with pytest.raises(RefuseToStart, match="AUSCULT_MODEL_TRUSTED_KEYS"):
        public_key("c2hvcnQ=")
    (tmp_path / "key.pem").write_text("nonsense")
    done = CliRunner().invoke(main, ["models", "sign", "--key", str(tmp_path / "key.pem"), str(folder)])
    assert done.exit_code == 1
    assert "not an unencrypted private key in PEM" in done.output


def test_what_a_request_brings_is_not_signed(folder: Path, signed: Trust) -> None:
    """A site that trusts keys takes no configuration or file from a request."""
    repository = Repository(folder.parent, 1, signed)
    with pytest.raises(LoadError, match=r"what a request brings is not signed; .* goes on serving"):
        repository.load("double", Override("{}", {}))

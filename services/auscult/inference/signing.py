"""Who vouches for a model: Ed25519 signatures of its manifest, SHA256SUMS, which has all other files' digests.

`SHA256SUMS.sig` has a line for each signer: the 32 bytes of its public key and the 64 of its signature of SHA256SUMS
(RFC 8032), both in base64, so that `openssl pkeyutl -verify -rawin` checks one, too. A private key is a PEM file
(PKCS #8).
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from auscult.inference.manifest import SIGNATURE, SUMS, UntrustedModelError
from auscult.platform.errors import RefuseToStart


def public_key(text: str) -> Ed25519PublicKey:
    """Read a public key; RefuseToStart where it is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise RefuseToStart(
            "model-key-invalid",
            f"AUSCULT_MODEL_TRUSTED_KEYS: {text!r} is not an Ed25519 key in base64; "
            "`auscult models keygen` prints one that is",
        ) from None


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half as `public_key` reads it."""
    return b64encode(key.public_key().public_bytes_raw()).decode()


def generate(path: Path) -> str:
    """Write a new private key to `path`, for its owner alone, and return the public key; FileExistsError."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    return public_text(key)


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key that `generate` or openssl wrote; ValueError where it is none."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{path} is not an unencrypted private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is not an Ed25519 key; `auscult models keygen` makes one")  # noqa: TRY004
    return key


def sign(manifest: bytes, key: Ed25519PrivateKey, present: bytes = b"") -> bytes:
    """Return what SHA256SUMS.sig is to hold: this signature, and those of `present` by others that still hold."""
    signed = {key.public_key().public_bytes_raw(): key.sign(manifest)}
    signed |= {other: signature for other, signature in _signers(manifest, present).items() if other not in signed}
    lines = (b" ".join(map(b64encode, line)) + b"\n" for line in sorted(signed.items()))
    return b"".join(lines)


def check(manifest: bytes, signatures: bytes | None, keys: Collection[Ed25519PublicKey]) -> None:
    """UntrustedModelError unless one of `keys` signed `manifest`."""
    if signatures is None:
        raise UntrustedModelError(
            f"{SIGNATURE} is missing, and only signed models are served here; sign it with `auscult models sign`"
        )
    signers = _signers(manifest, signatures)
    if not signers.keys() & {key.public_bytes_raw() for key in keys}:
        told = ", ".join(b64encode(signer).decode() for signer in sorted(signers)) or "nobody"
        raise UntrustedModelError(
            f"{SIGNATURE}: of those who signed this {SUMS} ({told}) none is trusted here; "
            "sign the model again, or add its signer to AUSCULT_MODEL_TRUSTED_KEYS"
        )


def _signers(manifest: bytes, signatures: bytes) -> Mapping[bytes, bytes]:
    """Return the signatures that hold for `manifest`, by the public keys that they name, trusted or not."""
    found = {}
    for line in signatures.splitlines():
        with suppress(binascii.Error, ValueError, InvalidSignature):
            key, signature = (b64decode(part, validate=True) for part in line.split())
            Ed25519PublicKey.from_public_bytes(key).verify(signature, manifest)
            found[key] = signature
    return found

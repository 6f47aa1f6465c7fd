"""Our keys for SMART Backend Services: a JWK set (RFC 7517) with private keys, whose public half servers are given.

The newest key is last. It signs first; a server that does not know it yet is asked again with the one before, so a
new key can be added, its public half published, and the old one removed later, without a restart or a gap.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

Algorithm = Literal["ES384", "RS384"]
PUBLIC = ("kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops")
RSA_BITS = 3072
"""NIST SP 800-57: as strong as P-256 at least; servers take 2048 and more."""


def add_key(file: Path, algorithm: Algorithm) -> str:
    """Add a new key to the set in `file`, which is made if new, readable by its owner alone; return its kid."""
    keys = _read(file) if file.exists() else []
    kid = uuid.uuid4().hex
    jwk = _new(algorithm)
    keys.append({**jwk, "kid": kid, "alg": algorithm, "use": "sig", "key_ops": ["sign"]})
    _write(file, keys)
    return kid


def remove_key(file: Path, kid: str) -> None:
    """Remove a key; ValueError where it is not there or is the last."""
    keys = _read(file)
    rest = [key for key in keys if key.get("kid") != kid]
    if len(rest) == len(keys):
        raise ValueError(f"{file} has no key {kid}")
    if not rest:
        raise ValueError(f"{kid} is the only key in {file}; add another first")
    _write(file, rest)


def public_keys(file: Path) -> dict[str, Any]:
    """Return the set that servers are given: nothing in it is secret."""
    shown = [{name: key[name] for name in PUBLIC if name in key} for key in _read(file)]
    return {"keys": [{**key, "key_ops": ["verify"]} for key in shown]}


def signing_keys(file: Path) -> list[PyJWK]:
    """Return the private keys, the newest first; ValueError where there is none that can sign."""
    try:
        keys = [PyJWK(key) for key in reversed(_read(file)) if key.get("alg") in {"ES384", "RS384"} and "d" in key]
    except PyJWTError as error:
        raise ValueError(f"{file} has a key that cannot be read ({type(error).__name__})") from None
    if not keys or any(key.key_id is None for key in keys):
        raise ValueError(f"{file} has no private key with kid and the alg ES384 or RS384")
    return keys


def _new(algorithm: Algorithm) -> dict[str, Any]:
    if algorithm == "ES384":
        return ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()), as_dict=True)
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, RSA_BITS), as_dict=True)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        keys = json.loads(file.read_bytes())["keys"]
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is no JWK set") from None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise ValueError(f"{file} is no JWK set")
    return keys


def _write(file: Path, keys: list[dict[str, Any]]) -> None:
    """Replace the file at once, so that a service that reads it never sees half of it."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        json.dump({"keys": keys}, target, indent=2)
        target.flush()
        os.fsync(target.fileno())
    temporary.replace(file)

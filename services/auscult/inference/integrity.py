"""A model's files: read once, compared with their manifest, and handed on.

What is hashed are the bytes that are parsed, so nothing can change a file between the check and its use.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from auscult.inference import signing
from auscult.inference.manifest import LARGEST_TEXT, SIGNATURE, SUMS, UntrustedModelError, check_digest, digests

LARGEST = 16 * 2**30
"""Bytes of a model's files together, by default."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a site accepts as a model."""

    keys: tuple[Ed25519PublicKey, ...] = ()
    """Of those that may sign models; where there is one, a model without their signature is refused."""
    operators: frozenset[str] = frozenset()
    """SHA-256 digests, in hex, of the libraries of custom operators that may be loaded into the process."""
    largest: int = LARGEST
    """Bytes of a model's files together: they are read into memory."""

    def listed(self, manifest: bytes | None, signatures: bytes | None, present: Collection[str]) -> Mapping[str, str]:
        """Return the digest of every file by its path; UntrustedModelError where one is wrong."""
        listed = digests(manifest, present)
        if self.keys and manifest is not None:
            signing.check(manifest, signatures, self.keys)
        return listed

    def check_size(self, size: int) -> None:
        """UntrustedModelError where the files are too large together."""
        if size > self.largest:
            raise UntrustedModelError(
                f"its files have {size} bytes together, of which {self.largest} are allowed; "
                "remove what does not belong there, or raise AUSCULT_MODEL_LARGEST_BYTES"
            )


def verified(folder: Path, trust: Trust) -> dict[str, bytes]:
    """Return the content of every file in `folder` by its relative path, `/` between its parts.

    UntrustedModelError where a file is missing, unlisted or changed, where a signature is needed and is not there, or
    where the folder holds anything but folders and regular files of its own: a link could lead out of it.
    """
    found = _found(folder, trust)
    manifest, signatures = (
        _read(name, found.pop(name)[0], LARGEST_TEXT) if name in found else None for name in (SUMS, SIGNATURE)
    )
    listed = trust.listed(manifest, signatures, found)
    contents = {}
    for path, (file, status) in found.items():
        contents[path] = _read(path, file, status.st_size)
        check_digest(path, contents[path], listed[path])
    return contents


def unverified(folder: Path, trust: Trust) -> dict[str, bytes]:
    """Return the content of every file in `folder` but the manifest and its signatures, to write a manifest of.

    UntrustedModelError as for `verified`, where the folder holds links or is too large.
    """
    found = _found(folder, trust)
    return {
        path: _read(path, file, status.st_size)
        for path, (file, status) in found.items()
        if path not in {SUMS, SIGNATURE}
    }


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Sign the model in `folder`, beside those who signed it before; UntrustedModelError where it is not whole."""
    verified(folder, Trust(largest=sys.maxsize))
    place = folder / SIGNATURE
    present = place.read_bytes() if place.exists() else b""
    place.write_bytes(signing.sign((folder / SUMS).read_bytes(), key, present))


def _found(folder: Path, trust: Trust) -> dict[str, tuple[Path, os.stat_result]]:
    found = dict(_files(folder, PurePosixPath()))
    _check_links(found)
    trust.check_size(sum(status.st_size for _, status in found.values()))
    return found


def _files(folder: Path, relative: PurePosixPath) -> Iterator[tuple[str, tuple[Path, os.stat_result]]]:
    for entry in sorted(folder.iterdir()):
        path = relative / entry.name
        status = entry.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise UntrustedModelError(f"{path} is a symbolic link; put the file itself there")
        if stat.S_ISDIR(status.st_mode):
            yield from _files(entry, path)
        elif stat.S_ISREG(status.st_mode):
            yield str(path), (entry, status)
        else:
            raise UntrustedModelError(f"{path} is neither a file nor a folder; remove it")


def _check_links(found: Mapping[str, tuple[Path, os.stat_result]]) -> None:
    """Refuse a file that has another name outside of the folder, under which others can write to it."""
    names = [(status.st_dev, status.st_ino) for _, status in found.values()]
    for path, (_, status) in found.items():
        if status.st_nlink > names.count((status.st_dev, status.st_ino)):
            raise UntrustedModelError(f"{path} is a hard link to a file outside of the folder; put a copy there")


def _read(path: str, file: Path, size: int) -> bytes:
    """Read a file of at most `size` bytes, that must still be the regular file that was found."""
    # Without O_NONBLOCK, to open a pipe that took the file's place would wait for its other end.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise UntrustedModelError(f"{path} is neither a file nor a folder; remove it")
        content = opened.read(size + 1)
    if len(content) > size:
        raise UntrustedModelError(f"{path} has more than {size} bytes; is it still being written?")
    return content

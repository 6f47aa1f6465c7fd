"""A model's manifest: `SHA256SUMS`, as `sha256sum` writes it, with a line `<hex>  <relative path>` for every file.

It is compared with what is there, and its own signature with the keys that are trusted, before any file is parsed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

CARD = "card.yaml"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"

LARGEST_TEXT = 2**20
"""Bytes of a file that is read before its digest is known: the manifest and its signatures."""

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<path>.+)")


class UntrustedModelError(Exception):
    """The model is not what its author signed off; the text says which file and what to do."""


def digests(manifest: bytes | None, present: Collection[str]) -> Mapping[str, str]:
    """Return the digest of every file by its path; UntrustedModelError unless they are exactly those `present`."""
    if manifest is None:
        raise UntrustedModelError(
            f"{SUMS} is missing; look through the folder and write it with `auscult models seal`"
        )
    listed = read(manifest)
    listed.pop(SIGNATURE, None)  # where it was signed before it was sealed; what it says is checked by itself
    if unlisted := sorted(set(present) - listed.keys()):
        raise UntrustedModelError(f"{SUMS} does not list {', '.join(unlisted)}; remove it or list it")
    if missing := sorted(listed.keys() - set(present)):
        raise UntrustedModelError(f"{SUMS} lists {', '.join(missing)}, which is not there; restore it")
    return listed


def check_digest(path: str, content: bytes, digest: str) -> None:
    """UntrustedModelError where `content` has not this SHA-256 digest."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise UntrustedModelError(f"{path} is not the file that {SUMS} lists; restore the original")


def read(content: bytes) -> dict[str, str]:
    """Return the digest of every file that a manifest lists by its path; UntrustedModelError where it is none."""
    listed: dict[str, str] = {}
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise UntrustedModelError(f"{SUMS} is not UTF-8 text; write it with sha256sum") from None
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UntrustedModelError(f"{SUMS}, line {number}: expected a SHA-256 digest, two spaces and a path")
        # sha256sum run as `sha256sum ./*` or by find writes the leading `./`, which PurePosixPath drops.
        path = str(PurePosixPath(match["path"]))
        if path in listed:
            raise UntrustedModelError(f"{SUMS}, line {number}: {path} is listed twice")
        listed[path] = match["digest"]
    return listed

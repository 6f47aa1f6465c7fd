"""A model's files, read once and compared with its SHA256SUMS before anything is parsed.

`SHA256SUMS` is what `sha256sum` writes: a line `<hex>  <relative path>` for every file of the folder but itself.
What is hashed are the bytes that are handed on, so nothing can change a file between the check and its use;
for the same reason a hard link is harmless.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

SUMS = "SHA256SUMS"

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<path>.+)")


class UntrustedModelError(Exception):
    """The model is not what its author signed off; the text says which file and what to do."""


def verified(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in `folder` by its relative path, `/` between its parts.

    UntrustedModelError where a file is missing, unlisted or changed, or where the folder holds anything but
    folders and regular files: a symbolic link could lead out of it.
    """
    found = dict(_files(folder, PurePosixPath()))
    if SUMS not in found:
        raise UntrustedModelError(f"{SUMS} is missing; write it with sha256sum, one line for every file")
    listed = _read_sums(found.pop(SUMS).read_bytes())
    if unlisted := sorted(found.keys() - listed.keys()):
        raise UntrustedModelError(f"{SUMS} does not list {', '.join(unlisted)}; remove it or list it")
    if missing := sorted(listed.keys() - found.keys()):
        raise UntrustedModelError(f"{SUMS} lists {', '.join(missing)}, which is not there; restore it")
    contents = {path: file.read_bytes() for path, file in found.items()}
    for path, content in contents.items():
        if hashlib.sha256(content).hexdigest() != listed[path]:
            raise UntrustedModelError(f"{path} is not the file that {SUMS} lists; restore the original")
    return contents


def _files(folder: Path, relative: PurePosixPath) -> Iterator[tuple[str, Path]]:
    for entry in sorted(folder.iterdir()):
        path = relative / entry.name
        if entry.is_symlink():
            raise UntrustedModelError(f"{path} is a symbolic link; put the file itself there")
        if entry.is_dir():
            yield from _files(entry, path)
        elif entry.is_file():
            yield str(path), entry
        else:
            raise UntrustedModelError(f"{path} is neither a file nor a folder; remove it")


def _read_sums(content: bytes) -> dict[str, str]:
    listed: dict[str, str] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UntrustedModelError(f"{SUMS}, line {number}: expected a SHA-256 digest, two spaces and a path")
        # sha256sum run as `sha256sum ./*` or by find writes the leading `./`, which PurePosixPath drops.
        path = str(PurePosixPath(match["path"]))
        if path in listed:
            raise UntrustedModelError(f"{SUMS}, line {number}: {path} is listed twice")
        listed[path] = match["digest"]
    return listed

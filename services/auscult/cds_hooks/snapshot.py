"""The card store on disk, so that a replica starts without reading the whole topic again.

One file, replaced whole (written beside, synced, renamed), readable by this account alone: it holds cards, which are
PHI. Its SHA-256 is at its end; a file that is cut, changed, of another version or of another public URL is not used,
and the topic is read from its beginning instead.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from platform import node

import msgspec

from auscult.cds_hooks.shelf import KEY, Basis, Shelf
from auscult.domain.finding import ModelReference

MAGIC = b"auscult-cards-1\n"
_SIZE = struct.Struct("<Q")
_RECORD = struct.Struct("<I")
_BATCH = 2000
_BREATH = 0.002
"""Seconds between two batches: those who answer hooks have the interpreter to themselves."""
_log = logging.getLogger(__name__)

Place = tuple[str, int]
"""A topic's name and a partition."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last event that was taken from a partition; its id tells whether the log is still the same."""

    topic: str
    partition: int
    offset: int
    event: str


class _Header(msgspec.Struct):
    rendering: str
    """What made the cards: version and public URL."""
    positions: list[Position]
    bases: list[Basis]
    dictionaries: list[bytes]
    pathways: dict[str, int]
    models: dict[str, ModelReference]
    records: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file held."""

    shelf: Shelf
    positions: dict[Place, Position]
    models: dict[str, ModelReference]


def save(
    path: Path, rendering: str, shelf: Shelf, positions: dict[Place, Position], models: dict[str, ModelReference]
) -> int:
    """Write the file; return its bytes. OSError where the disk does not take it: the file before stays.

    Runs beside the thread that fills the shelf. The positions are taken first: what is put meanwhile is read again
    after a start, and changes nothing.
    """
    known = list(positions.values())
    records = shelf.records.copy()
    header = msgspec.json.encode(
        _Header(rendering, known, shelf.bases, shelf.dictionaries, shelf.pathways, dict(models), len(records))
    )
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{node()}-{os.getpid()}.part")
    try:
        with open(os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            for part in (MAGIC, _SIZE.pack(len(header)), header):
                digest.update(part)
                file.write(part)
            items = iter(records.items())
            while batch := list(islice(items, _BATCH)):
                part = b"".join(key + _RECORD.pack(len(record)) + record for key, record in batch)
                digest.update(part)
                file.write(part)
                time.sleep(_BREATH)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return size


def load(path: Path, rendering: str) -> Saved | None:
    """Read the file; None, said in the log, where there is none that can be used."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        _log.warning("the snapshot of the cards cannot be read (%s); all results are read anew", problem.strerror)
        return None
    body = memoryview(content)[:-32]
    if not content.startswith(MAGIC) or hashlib.sha256(body).digest() != content[-32:]:
        _log.warning("the snapshot of the cards is damaged; all results are read anew")
        return None
    start = len(MAGIC) + _SIZE.size
    end = start + _SIZE.unpack_from(content, len(MAGIC))[0]
    header = msgspec.json.decode(content[start:end], type=_Header)
    if header.rendering != rendering:
        _log.info("the snapshot of the cards is of another version or public URL; all results are read anew")
        return None
    shelf = Shelf()
    shelf.resume(header.bases, header.dictionaries, header.pathways)
    at = end
    for _ in range(header.records):
        key = content[at : at + KEY]
        begin = at + KEY + _RECORD.size
        at = begin + _RECORD.unpack_from(content, at + KEY)[0]
        shelf.restore(key, content[begin:at])
    return Saved(shelf, {(each.topic, each.partition): each for each in header.positions}, header.models)

"""An object on its way in: in memory while it is small, then a file; never more than its limit."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import IO

from auscult.imaging.part10 import CANNOT_UNDERSTAND, Bytes
from auscult.imaging.store import OUT_OF_RESOURCES, ImageStore, out_of_space
from auscult.platform.errors import Refused

IN_MEMORY = 4 * 2**20
"""Bytes above which an object goes to a file: a CT slice stays in memory, a multi-frame object does not."""
INFLATED = 256 * 2**20
"""Bytes that a deflated data set may become: 2,000 frames of a segmentation have 65 million."""
PIECE = 2**20


class Spool(BytesIO):
    """Takes an object's bytes as they come; beyond its limit, or on a full disk, it takes no more and says so.

    `preface`: gives what comes before the bytes in the file, and is asked when they no longer fit into memory.
    """

    def __init__(self, store: ImageStore, limit: int, preface: Callable[[], bytes] = bytes) -> None:
        super().__init__()
        self._store, self._limit, self._preface = store, limit, preface
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self.size = 0
        self.problem: Refused | None = None

    def write(self, data: Iterable[int]) -> int:  # type: ignore[override]
        """Take bytes; what came when there was a problem is dropped."""
        piece = bytes(data)
        self.size += len(piece)
        if self.problem is None:
            try:
                self._take(piece)
            except Refused as problem:
                self.problem = problem
            except (ValueError, TypeError, KeyError, AttributeError):
                # `preface` has nothing to begin a file with.
                self.problem = Refused(
                    "not-dicom", "the request does not name its SOP class and instance", status=CANNOT_UNDERSTAND
                )
            except OSError as error:
                full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
                self.problem = out_of_space() if full else _unwritable(error)
        return len(piece)

    @property
    def source(self) -> bytes | Path:
        """The object: its bytes without `preface`, or its file with it. Refused where it could not be taken."""
        if self.problem is not None:
            raise self.problem
        if self._file is None or self._path is None:
            return self.getvalue()
        self._file.flush()
        return self._path

    def close(self) -> None:
        """Let go of the bytes, and of the file, unless the store took it."""
        super().close()
        if self._file is not None and self._path is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)

    def _take(self, piece: bytes) -> None:
        if self.size > self._limit:
            raise _too_large(self._limit)
        if self._file is None and self.size > IN_MEMORY:
            self._store.make_room(self.size)
            self._path = self._store.incoming()
            self._file = self._path.open("wb")
            self._file.write(self._preface())
            self._file.write(self.getvalue())
            self.seek(0)
            self.truncate()
        if self._file is not None:
            self._store.make_room(len(piece))
            self._file.write(piece)
        else:
            super().write(piece)


def inflate(data: Bytes, start: int, into: Spool) -> None:
    """Inflate a deflated data set (PS3.5, A.5) that begins at `start`. Refused: `truncated`, `deflate-bomb`."""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    at, rest = start, b""
    try:
        while not inflating.eof and (rest or at < len(data)):
            piece = rest or bytes(data[at : at + PIECE])
            at += 0 if rest else len(piece)
            into.write(inflating.decompress(piece, PIECE))
            rest = inflating.unconsumed_tail
            if into.problem is not None:
                break
    except zlib.error:
        raise Refused("not-dicom", "the deflated data set cannot be inflated", status=CANNOT_UNDERSTAND) from None
    if into.problem is not None and into.problem.reason == "too-large":
        raise Refused(
            "deflate-bomb",
            f"the deflated data set becomes more than {INFLATED >> 20} MiB; send it in Explicit VR Little Endian",
            status=CANNOT_UNDERSTAND,
        )
    if not inflating.eof:
        raise Refused("truncated", "the deflated data set ends early; send it again", status=CANNOT_UNDERSTAND)


def _too_large(limit: int) -> Refused:
    return Refused(
        "too-large",
        f"the object has more than {limit >> 20} MiB; raise AUSCULT_MAX_OBJECT_BYTES or leave it in the PACS",
        status=OUT_OF_RESOURCES,
    )


def _unwritable(error: OSError) -> Refused:
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    return Refused(
        "store-failed",
        f"the image store cannot be written ({name}); check its folder and permissions",
        status=OUT_OF_RESOURCES,
    )

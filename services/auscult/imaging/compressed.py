"""Compressed frames to stored values. The decoders are C and C++ that read hostile bytes: they run in `sandbox`."""

from __future__ import annotations

from pathlib import Path

from pydicom.pixels.utils import iter_pixels

from auscult.platform.errors import DeadLetter


def decode(path: Path, first: int, count: int) -> tuple[str, bytes]:
    """Return the numpy type and the bytes, `(frame, y, x)`, of `count` frames. DeadLetter: as raised below."""
    try:
        frames = list(iter_pixels(path, indices=range(first, first + count), raw=True))
        return frames[0].dtype.str, b"".join(frame.tobytes() for frame in frames)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - each decoder raises its own types
        raise DeadLetter(
            "undecodable-transfer-syntax",
            f"the compressed pixels cannot be decoded ({type(error).__name__}); "
            "have the sender use Explicit VR Little Endian",
        ) from None

"""A sandbox child in which parsers go wrong as parsers of hostile bytes do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from auscult.imaging import sandbox_child


def _allocate(size: int) -> None:
    bytearray(size)


if __name__ == "__main__":
    sandbox_child.TASKS.update(
        sleep=time.sleep,
        allocate=_allocate,
        crash=lambda: os.kill(os.getpid(), signal.SIGSEGV),
        write=lambda path: Path(path).write_bytes(b"owned"),
    )
    sandbox_child.main()

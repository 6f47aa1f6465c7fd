"""What every deployable does alike: settings, telemetry, a stop signal, a sign that it is ready."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auscult.platform import allocator, telemetry
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings, load


@contextmanager
def service(name: str) -> Iterator[tuple[Settings, threading.Event]]:
    """Give the settings and an event that SIGTERM and SIGINT set. RefuseToStart exits with 78 (EX_CONFIG)."""
    allocator.keep_freed_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = load()
        telemetry.start(name, settings)
        sign = ready_file(settings, name)
        sign.unlink(missing_ok=True)
        try:
            yield settings, stop
        finally:
            sign.unlink(missing_ok=True)
    except RefuseToStart as problem:
        sys.stderr.write(f"{name} does not start: {problem}\n")
        sys.exit(78)
    finally:
        telemetry.flush()


def ready_file(settings: Settings, name: str) -> Path:
    """Return the file that exists while service `name` serves; readiness probes look at it."""
    return settings.home / "run" / f"{name}.ready"


def ready(settings: Settings, name: str) -> None:
    """Say that service `name` serves from now on."""
    path = ready_file(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()

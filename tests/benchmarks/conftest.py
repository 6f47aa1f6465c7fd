"""The measurements' stopwatch and a place on a real disk.

Run by `make benchmarks`. Files are named `bench_*.py`, so that the tests do not collect them; nothing is asserted
about time. What each one measured goes into `docs/performance.md` by `table.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from auscult.models.build import build_repository
from auscult.platform import allocator, telemetry
from auscult.platform.settings import Settings
from benchmarks.table import HOP, SIDE

ROOT = Path(__file__).resolve().parents[2]

LOAD = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep how busy the machine was before anything was measured, and memory as the services do."""
    allocator.keep_freed_memory()
    config.stash[LOAD] = os.getloadavg()[0]


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Say with the numbers how busy the machine was."""
    output_json["load"] = config.stash[LOAD]


@pytest.fixture
def measure(benchmark: BenchmarkFixture, _traced: None) -> Callable[..., Any]:
    """Return a function that measures `act`, the arguments of each round from `setup`, for one side of a hop."""

    def measure(
        hop: str,
        side: str,
        act: Callable[..., Any],
        *,
        rounds: int = 50,
        setup: Callable[[], tuple[Any, ...]] | None = None,
        warm: int = 3,
    ) -> Any:
        benchmark.group = hop
        benchmark.extra_info.update({HOP: hop, SIDE: side})
        arguments = (lambda: (setup(), {})) if setup else None
        return benchmark.pedantic(act, setup=arguments, rounds=rounds, warmup_rounds=warm)

    return measure


@pytest.fixture(scope="session")
def disk() -> Iterator[Path]:
    """Return a folder on the disk that the checkout is on: in a temporary one an fsync may cost nothing."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=cache, prefix="benchmarks-") as folder:
        yield Path(folder)


@pytest.fixture
def folder(disk: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder of the test's own."""
    made = disk / request.node.name
    made.mkdir()
    return made


@pytest.fixture(scope="session")
def _traced(disk: Path) -> Iterator[None]:
    """Record this process's spans as every service does: they are part of what a hop costs."""
    telemetry.start("benchmarks", Settings(home=disk))
    yield
    telemetry.flush()


@pytest.fixture(scope="session")
def models() -> Path:
    """Return the reference models' repository."""
    root = ROOT / ".auscult" / "models"
    build_repository(root, if_changed=True)
    return root

"""Rows to results, in this process or in several, in the order of the rows."""

from __future__ import annotations

import json
import multiprocessing
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from auscult import __version__
from auscult.domain.identity import NAMESPACE
from auscult.domain.volume import BECQUERELS
from auscult.entrypoints.radiomics.rows import Row
from auscult.imaging.files import read_pair
from auscult.platform.errors import AuscultError, RefuseToStart
from auscult.radiomics.measure import measure

SOFTWARE = f"auscult {__version__}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: its values by feature (NaN where one has none), or the reason why there are none."""

    row: Row
    key: str
    values: dict[str, float] | None = None
    problem: str = ""
    unit: str = ""
    study_uid: str = ""


def key(row: Row) -> str:
    """Return the identity of a row's result: from which files, not their content, and how it is computed."""
    selection = row.selection
    said = (
        *(row.id, row.image, row.mask, selection.label, selection.segment, selection.series),
        *(row.parameters.settings(), row.parameters.families, row.parameters.aggregations),
        *(row.parameters.intensity_unit, SOFTWARE),
    )
    return str(uuid.uuid5(NAMESPACE, json.dumps(said)))


def measured(row: Row) -> Outcome:
    """Measure one row. Whatever is wrong with it is its own problem, never the others'."""
    identity = key(row)
    try:
        wanted = (row.parameters.intensity_unit or "").casefold()
        selection = replace(row.selection, becquerels=wanted == BECQUERELS.casefold())
        pair = read_pair(row.folder / row.image, row.folder / row.mask, selection)
        values = measure(pair.image, pair.mask, pair.spacing, row.parameters)
    except RefuseToStart:
        raise
    except AuscultError as problem:
        return Outcome(row, identity, problem=str(problem))
    except OSError as error:
        return Outcome(
            row, identity, problem=f"path-unreadable: {type(error).__name__}; check the path and its rights"
        )
    except MemoryError:
        return Outcome(row, identity, problem="out-of-memory: the region needs more memory; choose a larger spacing")
    except Exception as error:  # noqa: BLE001 - one row must not end the others
        return Outcome(row, identity, problem=f"failed: {type(error).__name__}; please report it")
    return Outcome(row, identity, values, unit=row.parameters.unit(pair.unit), study_uid=pair.study_uid)


def outcomes(rows: Iterable[Row], jobs: int) -> Iterator[Outcome]:
    """Measure rows in `jobs` processes; yield in the order of the rows.

    A process that dies takes its row with it, not the run: rows that were under way are tried again, each alone.
    """
    if jobs == 1:
        yield from map(measured, rows)
        return
    waiting = iter(rows)
    pool = _pool(jobs)
    running: deque[tuple[Row, Future[Outcome]]] = deque()
    try:
        while True:
            while len(running) < 2 * jobs and (row := next(waiting, None)) is not None:
                running.append((row, pool.submit(measured, row)))
            if not running:
                return
            row, future = running.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                pool.shutdown()
                yield _alone(row)
                pool = _pool(jobs)
                running = deque((row, pool.submit(measured, row)) for row, _ in running)
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(row: Row) -> Outcome:
    with _pool(1) as pool:
        try:
            return pool.submit(measured, row).result()
        except BrokenProcessPool:
            problem = "process-died: the process that measured it was killed, as for memory; choose a larger spacing"
            return Outcome(row, key(row), problem=problem)


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Not forked: threads of libraries do not survive it.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))

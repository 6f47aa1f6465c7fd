"""Rows to results, in this process or in several, in the order of the rows."""

from __future__ import annotations

import json
import multiprocessing
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from typing import Any

from numpy.typing import NDArray

from auscult import __version__
from auscult.domain.finding import ModelReference
from auscult.domain.identity import NAMESPACE
from auscult.entrypoints.radiomics.rows import Row
from auscult.imaging.files import read_pair
from auscult.inference import loading
from auscult.inference.config_checks import WrongModelError
from auscult.inference.loading import Model
from auscult.inference.manifest import UntrustedModelError
from auscult.inference.sources import Folder, bucket, trust
from auscult.platform.errors import AuscultError, RefuseToStart
from auscult.platform.settings import Settings, load
from auscult.radiomics.measure import MODELS, measure

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


@dataclass(frozen=True)
class Models:
    """The radiomics models of one repository, run in this process."""

    loaded: dict[str, Model]
    references: dict[str, ModelReference]
    """Who answers, from each model's card."""

    @property
    def versions(self) -> dict[str, str]:
        """The version of each."""
        return {name: model.latest for name, model in self.loaded.items()}

    def infer(self, name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one."""
        model = self.loaded[name]
        return {"features": model.sessions[model.latest].run(["features"], inputs)[0]}

    def key(self, row: Row) -> str:
        """Return the identity of a row's result: from which files, not their content, and how it is computed."""
        selection = row.selection
        said = (
            *(row.id, row.image, row.mask, selection.label, selection.segment, selection.series),
            *(row.parameters.settings(), row.parameters.families, row.parameters.aggregations),
            *(row.parameters.intensity_unit, SOFTWARE, self.versions),
        )
        return str(uuid.uuid5(NAMESPACE, json.dumps(said)))

    def measure(self, row: Row) -> Outcome:
        """Measure one row. Whatever is wrong with it is its own problem, never the others'."""
        key = self.key(row)
        try:
            pair = read_pair(row.folder / row.image, row.folder / row.mask, row.selection)
            values = measure(pair.image, pair.mask, pair.spacing, row.parameters, self.infer)
        except RefuseToStart:
            raise
        except AuscultError as problem:
            return Outcome(row, key, problem=str(problem))
        except MemoryError:
            return Outcome(row, key, problem="out-of-memory: the region needs more memory; choose a larger spacing")
        except Exception as error:  # noqa: BLE001 - one row must not end the others
            return Outcome(row, key, problem=f"failed: {type(error).__name__}; please report it")
        return Outcome(row, key, values, unit=row.parameters.unit(pair.modality), study_uid=pair.study_uid)


def local_models(settings: Settings, threads: int = 0) -> Models:
    """Load the radiomics models of the repository, verified; RefuseToStart where they are not there or not right."""
    accepted = trust(settings)
    loaded, references = {}, {}
    for name in MODELS:
        try:
            source = bucket(settings) or Folder(settings.models, accepted)
            model = loading.load(name, source.read(name), threads, accepted)
        except (UntrustedModelError, WrongModelError, OSError) as problem:
            raise RefuseToStart(
                "model-missing", f"the model {name} cannot be loaded ({problem}); run `auscult models build`"
            ) from None
        loaded[name] = model
        if model.card is not None:
            references[name] = model.card.reference()
    return Models(loaded, references)


def outcomes(rows: Iterable[Row], models: Models, jobs: int) -> Iterator[Outcome]:
    """Measure rows in `jobs` processes; yield in the order of the rows.

    A process that dies takes its row with it, not the run: rows that were under way are tried again, each alone.
    """
    if jobs == 1:
        yield from map(models.measure, rows)
        return
    waiting = iter(rows)
    pool = _pool(jobs)
    running: deque[tuple[Row, Future[Outcome]]] = deque()
    try:
        while True:
            while len(running) < 2 * jobs and (row := next(waiting, None)) is not None:
                running.append((row, pool.submit(_measure, row)))
            if not running:
                return
            row, future = running.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                pool.shutdown()
                yield _alone(row, models)
                pool = _pool(jobs)
                running = deque((row, pool.submit(_measure, row)) for row, _ in running)
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(row: Row, models: Models) -> Outcome:
    with _pool(1) as pool:
        try:
            return pool.submit(_measure, row).result()
        except BrokenProcessPool:
            problem = "process-died: the process that measured it was killed, as for memory; choose a larger spacing"
            return Outcome(row, models.key(row), problem=problem)


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Not forked: ONNX Runtime's threads do not survive it.
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


@cache
def _models() -> Models:
    return local_models(load(), threads=1)


def _measure(row: Row) -> Outcome:
    return _models().measure(row)

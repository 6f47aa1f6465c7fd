"""Results as text, one block per region, and the blocks of an earlier run that need not be computed again."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from auscult import __version__
from auscult.domain.finding import ModelReference
from auscult.domain.ibsi_features import FEATURES
from auscult.domain.radiomics import described, unit
from auscult.entrypoints.radiomics.measuring import SOFTWARE, Outcome
from auscult.publish.fhir import collection

MEASURED, FAILED = "measured", "failed"
ROW = ("id", "image", "mask", "label", "segment", "series")
RUN = ("software", "settings", "result", "status", "problem")
FEATURE = ("feature", "ibsi", "display", "family", "aggregation", "value", "unit", "compliant")
ALGORITHM = ModelReference("auscult.radiomics", __version__, "https://arxiv.org/abs/1612.07003")


class Form(Protocol):
    """How results are written. A block is a whole number of lines."""

    @property
    def head(self) -> str:
        """What the blocks come after."""

    def block(self, outcome: Outcome) -> str:
        """Return a region as text."""

    def done(self, text: str, *, partial: bool) -> dict[str, str]:
        """Return the whole blocks of regions that were measured, by `Outcome.key`. `partial`: the end may be cut."""


@dataclass(frozen=True)
class Table:
    """CSV: a row per feature, or (`wide`) a row per region with a column per feature."""

    wide: bool

    @property
    def head(self) -> str:
        """The names of the columns."""
        if self.wide:
            return _lines([*ROW, *RUN, *(feature.name for feature in FEATURES)])
        return _lines([*ROW, *FEATURE, *RUN])

    def block(self, outcome: Outcome) -> str:
        """Return a region's rows. A feature that has no value here is empty; a region that failed is one row."""
        row, run = _row(outcome), _run(outcome)
        wanted = outcome.row.parameters.features()
        if self.wide:
            numbers = outcome.values or {}
            shown = {feature.name: _number(numbers.get(feature.name)) for feature in wanted}
            return _lines([*row.values(), *run.values(), *(shown.get(feature.name, "") for feature in FEATURES)])
        if outcome.values is None:
            return _lines([*row.values(), *("" for _ in FEATURE), *run.values()])
        return _lines(
            *([*row.values(), *feature.values(), *run.values()] for feature in _features(outcome, text=True))
        )

    def done(self, text: str, *, partial: bool) -> dict[str, str]:
        """Return the blocks of regions that were measured; without the last one where it may be cut."""
        names = next(csv.reader(io.StringIO(self.head)))
        rows = [row for row in list(csv.reader(io.StringIO(text)))[1:] if len(row) == len(names)]
        key, status = names.index("result"), names.index("status")
        found: dict[str, list[list[str]]] = {}
        for row in rows:
            found.setdefault(row[key], []).append(row)
        if partial and found:
            found.popitem()
        return {each: _lines(*block) for each, block in found.items() if block[0][status] == MEASURED}


@dataclass(frozen=True)
class JsonLines:
    """JSON: an object per region, on a line of its own in a batch."""

    indent: int | None
    head: str = ""

    def block(self, outcome: Outcome) -> str:
        """Return a region with its features; one that has no value here is null."""
        features = [] if outcome.values is None else _features(outcome, text=False)
        run: dict[str, Any] = _run(outcome) | {"settings": json.loads(outcome.row.parameters.settings())}
        return json.dumps({**_row(outcome), **run, "features": features}, indent=self.indent) + "\n"

    def done(self, text: str, *, partial: bool) -> dict[str, str]:  # noqa: ARG002 - half a line is no JSON
        """Return the lines of regions that were measured."""
        return {each["result"]: line for line, each in _objects(text) if each.get("status") == MEASURED}


@dataclass(frozen=True)
class Fhir:
    """FHIR R4: a Bundle per region, on a line of its own in a batch."""

    indent: int | None
    subject: str = ""
    head: str = ""

    def block(self, outcome: Outcome) -> str:
        """Return a Bundle with an Observation per family and aggregation, or with an OperationOutcome."""
        if outcome.values is None:
            bundle = collection.failed(outcome.key, outcome.row.id, outcome.problem)
        else:
            groups = described(
                outcome.row.parameters.features(),
                outcome.values,
                model=lambda _: ALGORITHM,
                settings=outcome.row.parameters.settings(),
                intensity_unit=outcome.unit,
            )
            bundle = collection.measured(
                outcome.key, outcome.row.id, groups, subject=self.subject, study_uid=outcome.study_uid
            )
        text = msgspec.json.Encoder(decimal_format="number").encode(bundle)
        return (msgspec.json.format(text, indent=self.indent) if self.indent else text).decode() + "\n"

    def done(self, text: str, *, partial: bool) -> dict[str, str]:  # noqa: ARG002 - half a line is no JSON
        """Return the lines of Bundles that hold Observations."""
        return {
            collection.key(each): line
            for line, each in _objects(text)
            if any(entry["resource"]["resourceType"] == "Observation" for entry in each.get("entry", ()))
        }


def earlier(form: Form, output: Path, part: Path) -> dict[str, str]:
    """Return what an earlier run did, by `Outcome.key`. `part`: what it left where it came to no end."""
    found: dict[str, str] = {}
    for path, partial in ((output, False), (part, True)):
        if path.exists():
            found |= form.done(path.read_text(encoding="utf-8", errors="replace"), partial=partial)
    return found


def _row(outcome: Outcome) -> dict[str, Any]:
    row, selection = outcome.row, outcome.row.selection
    chosen = (selection.label, selection.segment, selection.series)
    return dict(zip(ROW, (row.id, row.image, row.mask, *chosen), strict=True))


def _run(outcome: Outcome) -> dict[str, str]:
    return {
        "software": SOFTWARE,
        "settings": outcome.row.parameters.settings(),
        "result": outcome.key,
        "status": FAILED if outcome.values is None else MEASURED,
        "problem": outcome.problem,
    }


def _features(outcome: Outcome, *, text: bool) -> list[dict[str, Any]]:
    values = outcome.values or {}
    return [
        {
            "feature": feature.name,
            "ibsi": feature.code.code,
            "display": feature.code.display,
            "family": feature.family,
            "aggregation": feature.aggregation,
            "value": _number(values[feature.name]) if text else _finite(values[feature.name]),
            "unit": unit(feature, outcome.unit),
            "compliant": feature.compliant,
        }
        for feature in outcome.row.parameters.features()
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)


def _lines(*rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _objects(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines that are JSON objects; the last one may be half a line."""
    for line in text.splitlines(keepends=True):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and line.endswith("\n"):
            yield line, found

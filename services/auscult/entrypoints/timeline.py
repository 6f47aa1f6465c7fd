"""Reads the spans that the services left, and draws one trace as a timeline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

BAR = 34


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One line of a trace file. Times are nanoseconds since the epoch."""

    trace: str
    span: str
    parent: str | None
    service: str
    name: str
    start: int
    end: int
    attributes: dict[str, Any]
    error: str | None


def spans(folder: Path, trace: str | None = None) -> list[SpanRecord]:
    """Return the spans in `folder` (of one trace, if named), by start."""
    decoder = msgspec.json.Decoder(SpanRecord)
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_bytes().splitlines():
            try:
                record = decoder.decode(line)
            except msgspec.DecodeError:
                continue  # a process that was killed leaves half a line
            if trace is None or record.trace == trace:
                found.append(record)
    return sorted(found, key=lambda record: record.start)


def _in_order(records: list[SpanRecord]) -> Iterator[tuple[int, SpanRecord]]:
    known = {record.span for record in records}
    children: dict[str | None, list[SpanRecord]] = defaultdict(list)
    for record in records:
        children[record.parent if record.parent in known else None].append(record)

    def walk(parent: str | None, depth: int) -> Iterator[tuple[int, SpanRecord]]:
        for record in children[parent]:
            yield depth, record
            yield from walk(record.span, depth + 1)

    return walk(None, 0)


def draw(records: list[SpanRecord]) -> Table:
    """Return the trace as a table: service, hop, when it began and how long it took, in ms, and a bar."""
    table = Table(title=f"Trace {records[0].trace}", title_justify="left", pad_edge=False, box=None)
    table.add_column("service", style="cyan", no_wrap=True)
    table.add_column("hop", no_wrap=True)
    table.add_column("at ms", justify="right")
    table.add_column("ms", justify="right")
    table.add_column("", no_wrap=True)
    first = min(record.start for record in records)
    whole = max(record.end for record in records) - first or 1
    for depth, record in _in_order(records):
        begin = int(BAR * (record.start - first) / whole)
        length = max(1, round(BAR * (record.end - record.start) / whole))
        style = "red" if record.error else "green" if record.name.startswith("onnxruntime") else "blue"
        table.add_row(
            record.service,
            "  " * depth + record.name + (f"  ! {record.error}" if record.error else ""),
            f"{(record.start - first) / 1e6:.1f}",
            f"{(record.end - record.start) / 1e6:.1f}",
            Text(" " * begin + "━" * min(length, BAR - begin or 1), style=style),
        )
    return table


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the time from the last stored instance to the answered hook went, in ms."""

    total: float
    models: float

    @property
    def services(self) -> float:
        """What the services add beyond the models' own time."""
        return self.total - self.models

    def __str__(self) -> str:
        return (
            f"Last instance stored to hook answered: {self.total:.0f} ms, of which the models {self.models:.0f} ms "
            f"and the services {self.services:.0f} ms"
        )


def budget(records: list[SpanRecord]) -> Budget | None:
    """Return the budget of a whole trace, None where it has no stored instance or no hook."""
    stored = [record.end for record in records if record.name.startswith("C-STORE")]
    hooks = [record.end for record in records if record.name.startswith("hook ")]
    if not stored or not hooks:
        return None
    models = sum(record.end - record.start for record in records if record.name.startswith("onnxruntime"))
    return Budget((max(hooks) - max(stored)) / 1e6, models / 1e6)

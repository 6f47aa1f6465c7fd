"""What is to be measured: one image and mask from the command line, or a table of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from auscult.imaging.files import Selection
from auscult.platform.errors import RefuseToStart
from auscult.radiomics.parameters import Parameters, read

COLUMNS = ("image", "mask", "id", "label", "segment", "series", "parameters")
"""Of a table; `image` and `mask` must be there. `roi` is another name of `segment`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One region. Paths as the user wrote them; `folder`: what they are relative to."""

    id: str
    image: str
    mask: str
    selection: Selection
    parameters: Parameters
    folder: Path = Path()


def read_table(path: Path, parameters: Parameters, selection: Selection) -> list[Row]:
    """Read a CSV with a row per region; paths are relative to its folder, columns of either case.

    `parameters`, `selection`: for rows that say nothing else. RefuseToStart, before any is measured:
    `radiomics-table`, which names the row that is wrong; `radiomics-settings`, as `parameters.read`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            # Spreadsheets part columns by a semicolon where the comma is the decimal sign.
            between = next((each for each in ",;\t" if each in head), ",")
            file.seek(0)
            table = csv.DictReader(file, delimiter=between)
            names = [name.strip().casefold() for name in table.fieldnames or ()]
            lines = [
                {name: (value or "").strip() for name, value in zip(names, line.values(), strict=False)}
                for line in table
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong(f"it cannot be read as CSV in UTF-8 ({type(error).__name__})") from None
    unknown = [name for name in names if name not in {*COLUMNS, "roi"}]
    if unknown or not {"image", "mask"} <= set(names):
        raise _wrong(f"its columns are {', '.join(names) or 'none'}; those known are {', '.join(COLUMNS)}")
    known: dict[str, Parameters] = {"": parameters}
    rows = []
    for number, line in enumerate(lines, start=1):
        if not any(line.values()):
            continue
        if not (line["image"] and line["mask"]):
            raise _wrong(f"row {number} has no image or no mask")
        own = line.get("parameters", "")
        if own not in known:
            known[own] = read(path.parent / own)
        rows.append(
            Row(
                id=line.get("id") or str(number),
                image=line["image"],
                mask=line["mask"],
                selection=_selection(line, number, selection),
                parameters=known[own],
                folder=path.parent,
            )
        )
    if not rows:
        raise _wrong("it has no rows")
    ids = [row.id for row in rows]
    if twice := sorted({each for each in ids if ids.count(each) > 1}):
        raise _wrong(f"the id {twice[0]!r} is there more than once")
    return rows


def _selection(line: Mapping[str, str], number: int, otherwise: Selection) -> Selection:
    label = line.get("label", "")
    if label and not label.removeprefix("-").isdecimal():
        raise _wrong(f"the label of row {number} is no whole number")
    return Selection(
        label=int(label) if label else otherwise.label,
        segment=line.get("segment") or line.get("roi") or otherwise.segment,
        series=line.get("series") or otherwise.series,
    )


def _wrong(what: str) -> RefuseToStart:
    return RefuseToStart("radiomics-table", f"the table of regions cannot be used: {what}")

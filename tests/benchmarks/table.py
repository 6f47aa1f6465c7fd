"""Turns what pytest-benchmark measured into the tables of docs/performance.md, between its markers.

python tests/benchmarks/table.py RESULTS.json docs/performance.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HOP, SIDE, WHOLE, SERVING, HOOKS, CPU, PACED = "hop", "side", "whole", "serving", "hooks", "cpu", "paced"
"""Keys of a benchmark's `extra_info`. WHOLE: what `spent.summary` returns; SERVING, HOOKS: a row of `serving` or
`hooks` by server; CPU: by side its ms and features, a row each of `radiomics`; PACED: by side its times at a rate,
and how busy the machine was."""
OURS = "Auscult"
COMMAND = "make benchmarks"
GOAL_MS = 500
LEAST_MS = 1
"""Spans that took less are told in one row."""


def ms(value: float) -> str:
    """Return milliseconds with about three digits."""
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if value >= least:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def hops(results: dict[str, Any]) -> str:
    """Return a row for each hop and peer: both medians in ms, and their ratio."""
    medians: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for benchmark in results["benchmarks"]:
        told = benchmark["extra_info"]
        if not told.keys() & {WHOLE, SERVING, HOOKS, CPU, PACED}:
            medians[told[HOP]][told[SIDE]] = benchmark["stats"]["median"] * 1e3
    rows = [_row("hop", "ours, ms", "peer or raw limit", "its ms", "ratio"), "| --- | ---: | --- | ---: | ---: |"]
    for hop, sides in medians.items():
        ours = sides.pop(OURS, None)
        if ours is None:  # ours was skipped, as where there is no Kafka
            continue
        rows += [_row(hop, ms(ours), peer, ms(theirs), _ratio(ours / theirs)) for peer, theirs in sides.items()]
    return "\n".join(rows)


def serving(results: dict[str, Any]) -> str:
    """Return a row for each load and inference server: the same client, all servers in one run."""
    rows = [
        _row("load", "server", "p50, ms", "requests/s", "server CPU, us/request"),
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for benchmark in results["benchmarks"]:
        for server, told in benchmark["extra_info"].get(SERVING, {}).items():
            load = benchmark["extra_info"][HOP]
            if isinstance(told, str):
                rows.append(_row(load, server, told, "", ""))
            else:
                rows.append(_row(load, server, ms(told["p50"]), f"{told['rate']:.0f}", f"{told['cpu']:.0f}"))
    return "\n".join(rows)


def paced(results: dict[str, Any]) -> str:
    """Return a row for each hop and side: its times at 200 a second, from when each was due."""
    rows = [
        _row("at 200 a second", "by", "p50, ms", "p99, ms", "longest, ms", "CPU, ms each", "load average"),
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for benchmark in results["benchmarks"]:
        told = dict(benchmark["extra_info"].get(PACED, {}))
        load = told.pop("load", 0.0)
        rows += [
            _row(
                benchmark["extra_info"][HOP], side, *(ms(times[name]) for name in ("p50", "p99", "most")),
                ms(times["cpu"]) if "cpu" in times else "", f"{load:.1f}",
            )
            for side, times in told.items()
        ]  # fmt: skip
    return "\n".join(rows)


def hooks(results: dict[str, Any]) -> str:
    """Return a row for each load and hook server: the same client, all servers in one run."""
    rows = [
        _row("load", "server", "p50, ms", "p99, ms", "calls/s", "server CPU, us/call"),
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for benchmark in results["benchmarks"]:
        load = benchmark["extra_info"][HOP]
        for server, told in benchmark["extra_info"].get(HOOKS, {}).items():
            if isinstance(told, str):
                rows.append(_row(load, server, told, "", "", ""))
            else:
                numbers = (ms(told["p50"]), ms(told["p99"]), f"{told['rate']:.0f}", f"{told['cpu']:.0f}")
                rows.append(_row(load, server, *numbers))
    return "\n".join(rows)


def whole(results: dict[str, Any]) -> str:
    """Return for each kind of study the medians from the last stored instance to the answered hook."""
    parts = []
    for benchmark in results["benchmarks"]:
        told = benchmark["extra_info"].get(WHOLE)
        if told is None:
            continue
        verdict = "within" if told["services"] <= GOAL_MS else "over"
        parts.append(
            f"{benchmark['extra_info'][HOP]} ({told['studies']} studies; findings, median: {told['found']}): "
            f"total {ms(told['total'])} ms, of it the models {ms(told['models'])} ms and the services "
            f"**{ms(told['services'])} ms** (largest {ms(told['most'])} ms), {verdict} the goal of {GOAL_MS} ms.\n"
        )
        parts += [_row("where the time is spent", "ms"), "| --- | ---: |"]
        small = [spent for _, spent in told["where"] if spent < LEAST_MS]
        parts += [_row(name, ms(spent)) for name, spent in told["where"] if spent >= LEAST_MS]
        parts += [_row(f"{len(small)} others, each below {LEAST_MS} ms", ms(sum(small)))] if small else []
        parts.append("")
    return "\n".join(parts).strip()


def radiomics(results: dict[str, Any]) -> str:
    """Return for each region and scope the CPU milliseconds of each side, and how many times ours that is."""
    rows = [_row("radiomics", "by", "features", "CPU ms", "times ours"), "| --- | --- | ---: | ---: | ---: |"]
    for benchmark in results["benchmarks"]:
        sides = benchmark["extra_info"].get(CPU, {})
        ours = next(iter(sides.values()), None)
        rows += [
            _row(benchmark["extra_info"][HOP], side, str(number), ms(spent), _ratio(spent / ours[0]))
            for side, (spent, number) in sides.items()
        ]
    return "\n".join(rows)


def machine(results: dict[str, Any], cpuinfo: str) -> str:
    """Return one line on the machine; it holds no names of hosts."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    names = [value.strip() for key, _, value in lines if key.strip() == "model name"]
    python = results["machine_info"]["python_version"]
    return (
        f"{len(names) or '?'} cores of {names[0] if names else 'an unknown processor'}, Python {python}; "
        f"load average before the run {results['load']:.1f}; {results['datetime'][:10]}; `{COMMAND}`"
    )


def render(results: dict[str, Any], cpuinfo: str) -> str:
    """Return all that stands between the markers."""
    return "\n\n".join(
        (
            machine(results, cpuinfo),
            hops(results),
            "### Notifications at a rate",
            paced(results),
            "### CDS Hooks under load",
            hooks(results),
            "### Inference servers",
            serving(results),
            "### Radiomics",
            radiomics(results),
            "### The whole",
            whole(results),
        )
    )


def put(document: str, measured: str) -> str:
    """Replace what stands between the markers of `document`; ValueError where it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{measured}\n\n{END}{after}"


def main(results: Path, document: Path) -> None:
    """Write the tables into `document`."""
    measured = render(json.loads(results.read_text()), Path("/proc/cpuinfo").read_text())
    document.write_text(put(document.read_text(), measured))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))

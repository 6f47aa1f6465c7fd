"""The tables say what was measured."""

from __future__ import annotations

import pytest

from auscult.entrypoints.timeline import SpanRecord, budget
from benchmarks.spent import BETWEEN, spent
from benchmarks.table import (
    BEGIN,
    END,
    HOOKS,
    HOP,
    OURS,
    PACED,
    SERVING,
    hooks,
    hops,
    machine,
    paced,
    put,
    render,
    serving,
)

CPUINFO = "processor : 0\nmodel name : Abacus 1\n\nprocessor : 1\nmodel name : Abacus 1\n"
WHERE = {
    "studies": 5,
    "found": 4,
    "total": 900.0,
    "models": 300.0,
    "services": 600.0,
    "most": 700.0,
    "where": [["load", 400.0], ["a", 0.5], ["b", 0.25]],
}
RESULTS = {
    "load": 0.25,
    "datetime": "2026-01-31T12:00:00",
    "machine_info": {"python_version": "3.11.2", "node": "secret-host"},
    "benchmarks": [
        {"extra_info": {"hop": "publish", "side": "Auscult"}, "stats": {"median": 0.003}},
        {"extra_info": {"hop": "publish", "side": "fsync"}, "stats": {"median": 0.0015}},
        {
            "extra_info": {"hop": "a ball", "cpu": {"Auscult": [20.0, 482], "a peer": [400.0, 107]}},
            "stats": {"median": 1},
        },
        {"extra_info": {"hop": "A study", "whole": WHERE}, "stats": {"median": 3}},
    ],
}


def record(name: str, start: int, end: int) -> SpanRecord:
    """Return a span; times in ms."""
    return SpanRecord("t", name, None, "service", name, start * 10**6, end * 10**6, {}, None)


def test_each_hop_stands_beside_its_peer() -> None:
    """Medians in ms and their ratio; the whole with its goal; no name of a host."""
    told = render(RESULTS, CPUINFO)
    assert "| publish | 3.00 | fsync | 1.50 | 2.0 |" in told
    assert "total 900 ms" in told
    assert "over the goal of 500 ms" in told
    assert "| load | 400 |" in told
    assert "| 2 others, each below 1 ms | 0.750 |" in told
    assert "| a ball | a peer | 107 | 400 | 20 |" in told
    assert "secret-host" not in told


def test_the_machine_is_described() -> None:
    """Cores, processor, Python, how busy it was, the date and the command."""
    assert machine(RESULTS, CPUINFO) == (
        "2 cores of Abacus 1, Python 3.11.2; load average before the run 0.2; 2026-01-31; `make benchmarks`"
    )


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    """The prose around stays; a second run replaces the first."""
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = put(document, "new")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert put(once, "new") == once
    with pytest.raises(ValueError, match="markers"):
        put("no markers", "new")


def test_every_moment_goes_to_the_innermost_span() -> None:
    """What was spent adds up to the total; a moment without a span is told as such."""
    records = [
        record("C-STORE", 0, 10),
        record("pathway", 20, 60),
        record("infer", 30, 50),
        record("onnxruntime run", 35, 45),
        record("hook patient-view", 65, 70),
    ]
    shares = spent(records)
    assert shares == {BETWEEN: 15, "pathway": 20, "infer": 10, "onnxruntime run": 10, "hook patient-view": 5}
    told = budget(records)
    assert told is not None
    assert sum(shares.values()) == told.total


def test_inference_servers_have_a_row_each() -> None:
    """What was measured stands beside what is not there, and why; the hops leave both out."""
    told = {OURS: {"p50": 0.5, "rate": 2000.0, "cpu": 250.0}, "Other": "it is not installed"}
    results = {"benchmarks": [{"extra_info": {HOP: "a load", SERVING: told}}]}
    assert serving(results).splitlines()[2:] == [
        "| a load | Auscult | 0.500 | 2000 | 250 |",
        "| a load | Other | it is not installed |  |  |",
    ]
    assert len(hops(results).splitlines()) == 2


def test_what_comes_at_a_rate_has_a_row_for_each_side() -> None:
    """With how busy the machine was, which both sides had to bear; the hops leave it out."""
    told = {OURS: {"p50": 1.5, "p99": 12.0, "most": 30.0, "cpu": 0.9}, "bare": {"p50": 0.5, "p99": 9.0, "most": 20.0}}
    results = {"benchmarks": [{"extra_info": {HOP: "a hop", PACED: {**told, "load": 3.04}}}]}
    assert paced(results).splitlines()[2:] == [
        "| a hop | Auscult | 1.50 | 12.0 | 30.0 | 0.900 | 3.0 |",
        "| a hop | bare | 0.500 | 9.00 | 20.0 |  | 3.0 |",
    ]
    assert len(hops(results).splitlines()) == 2


def test_a_hook_server_that_is_missing_is_said_to_be() -> None:
    """Each server has its row, with its latencies, calls a second and CPU, or with what to do about it."""
    told = {OURS: {"p50": 0.4, "p99": 2.0, "rate": 9000.4, "cpu": 57.2}, "FastAPI": "run prepare.sh"}
    rows = hooks({"benchmarks": [{"extra_info": {HOP: "a load", HOOKS: told}}]}).splitlines()
    assert rows[2:] == [
        "| a load | Auscult | 0.400 | 2.00 | 9000 | 57 |",
        "| a load | FastAPI | run prepare.sh |  |  |  |",
    ]

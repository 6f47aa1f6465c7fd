"""The inference service beside MLServer and NVIDIA Triton: one run, the same models, the same tritonclient."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from peers.processes import NotInstalledError, Peer, mlserver, triton
from pytest_benchmark.fixture import BenchmarkFixture

from auscult.entrypoints.demo.processes import demo_settings, running
from benchmarks.bench_inference import write_model
from benchmarks.table import HOP, OURS, SERVING

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache/tritonclient/bin/python"
ROUNDS = 3
LOADS = {
    "20 floats, 1 at once": ("risk", "1,20", 1, 1000, ""),
    "20 floats, 8 at once": ("risk", "1,20", 8, 4000, ""),
    "20 floats, 32 at once": ("risk", "1,20", 32, 4000, ""),
    "8 MB in and out": ("volume", "32,256,256", 1, 30, ""),
    "8 MB in shared memory": ("volume", "32,256,256", 1, 30, "in"),
    "8 MB in and out in shared memory": ("volume", "32,256,256", 1, 30, "inout"),
}
"""Model, shape, requests at once and in all, and what lies in system shared memory."""

SHAPES = 'input {{ name: "x" data_type: TYPE_FP32 dims: {} }}\noutput {{ name: "y" data_type: TYPE_FP32 dims: {} }}\n'


def write_models(root: Path) -> Path:
    """Write a risk model of 20 numbers and one that returns a volume, its negative voxels as 0."""
    rng = np.random.default_rng(0)
    sizes = {"a": (20, 32), "b": (32,), "c": (32, 1), "d": (1,)}
    weights = [
        numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name) for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "c", "d"], ["l"]),
        helper.make_node("Sigmoid", ["l"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n]) for name, n in (("x", 20), ("y", 1)))
    risk = helper.make_graph(nodes, "risk", [x], [y], weights)
    write_model(root / "risk", 2, "max_batch_size: 64\n" + SHAPES.format([20], [1]), _model(risk))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in "xy")
    volume = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "volume", [x], [y])
    write_model(root / "volume", 3, SHAPES.format([-1] * 3, [-1] * 3), _model(volume))
    return root


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@contextmanager
def ours(repository: Path, work: Path) -> Iterator[Peer]:
    """Run the inference service as it runs in the product."""
    settings = demo_settings(work, repository, {})
    with running(settings, ("inference",)) as services:
        assert list(services.wait_ready(("inference",))) == ["inference"]
        yield Peer(settings.inference_target, services.processes["inference"].popen)


@pytest.fixture(scope="module")
def servers(disk: Path) -> Iterator[dict[str, Peer | str]]:
    """Run all servers until the module ends; for one that is not installed: what to do."""
    repository = write_models(disk / "served")
    with ExitStack() as stack:
        found: dict[str, Peer | str] = {}
        for name, start in ((OURS, ours), ("Triton, Python backend", triton), ("MLServer", mlserver)):
            work = disk / f"serving-{len(found)}"
            work.mkdir()
            try:
                found[name] = stack.enter_context(start(repository, work))
            except NotInstalledError as missing:
                found[name] = str(missing)
        yield found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of those that it started, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for child in children.split())


def measured(server: Peer, load: tuple[Any, ...]) -> dict[str, float]:
    """Send the load; return the median latency in ms, requests a second, and the server's CPU in us a request."""
    command = [PYTHON, Path(__file__).parent / "triton_load.py", server.target, *load]
    # The client's allocator is none of the servers' doing: it is given what lets it keep up with all.
    keeps = {f"MALLOC_{name}_": "1000000000" for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD")}
    with subprocess.Popen(
        [str(part) for part in command if part != ""],
        env=os.environ | keeps,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        if not client.stdout.readline():
            return {}
        before = cpu_seconds(server.process.pid)
        client.stdin.write("\n")
        client.stdin.flush()
        told = json.loads(client.stdout.readline())
        spent = cpu_seconds(server.process.pid) - before
    count = len(told["ms"])
    return {"p50": median(told["ms"]), "rate": count / told["seconds"], "cpu": spent * 1e6 / count}


@pytest.mark.skipif(not PYTHON.exists(), reason="integration/stack/prepare.sh makes tritonclient's environment")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LOADS)
def test_serving(benchmark: BenchmarkFixture, servers: dict[str, Peer | str], name: str) -> None:
    """A load goes to each server in turn, several times; the medians are told."""
    rounds: dict[str, list[dict[str, float]]] = {server: [] for server in servers}

    def act() -> None:
        for server, peer in servers.items():
            if isinstance(peer, Peer) and (told := measured(peer, LOADS[name])):
                rounds[server].append(told)

    benchmark.pedantic(act, rounds=ROUNDS)
    benchmark.extra_info[HOP] = name
    benchmark.extra_info[SERVING] = {
        server: {key: median(one[key] for one in told) for key in told[0]}
        if (told := rounds[server])
        else (peer if isinstance(peer, str) else "it has no such method")
        for server, peer in servers.items()
    }

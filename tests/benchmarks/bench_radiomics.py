"""Radiomics: a region's features, from its files, beside PyRadiomics and Pictologics; CPU time of all threads.

`sh tests/benchmarks/peers.sh` makes the peers' environments; without, their rows are missing. Where ONNX Runtime has
a GPU, the models answer batches of regions there, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numpy as np
import onnxruntime as ort
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.ndimage import gaussian_filter

from auscult.radiomics import native
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import MODELS, modelled
from auscult.radiomics.process import process
from benchmarks.conftest import ROOT
from benchmarks.table import CPU, HOP, OURS

REGIONS = {"58,000 voxels": ((64, 128, 128), 24.0), "188,000 voxels": ((80, 160, 160), 35.55)}
"""Balls of a radius in mm, in volumes of a shape (z, y, x), 1 mm."""
ROUNDS = 7
BATCHES = (1, 8, 32)
PYTHONS = {
    "pyradiomics": ROOT / ".cache/pyradiomics/bin/python",
    "pictologics": ROOT / ".cache/pictologics/bin/python",
}
SIDES = {
    "all families": {
        f"{OURS}, kernels": "kernels",
        f"{OURS}, numpy alone": "numpy",
        f"{OURS}, models": "models",
        "PyRadiomics 3.0.1": "pyradiomics",
    },
    "texture alone": {
        f"{OURS}, kernels": "kernels",
        f"{OURS}, numpy alone": "numpy",
        "PyRadiomics 3.0.1": "pyradiomics",
        "Pictologics 0.9": "pictologics",
    },
}


def ball(shape: tuple[int, int, int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a CT of correlated noise, INT16, and the ball in its middle."""
    generator = np.random.default_rng(1)
    noise = gaussian_filter(generator.normal(size=shape), 1) * 600 + generator.normal(size=shape) * 60
    centred = np.ogrid[tuple(slice((1 - n) / 2, n / 2) for n in shape)]
    return noise.astype(np.int16), sum(place**2 for place in centred) <= radius**2


@pytest.fixture
def files(request: pytest.FixtureRequest, folder: Path) -> str:
    """Write a region's image and mask; return both paths as a side reads them."""
    image, mask = ball(*REGIONS[request.param])
    paths = folder / "image.nii.gz", folder / "mask.nii.gz"
    for path, voxels in zip(paths, (image, mask.astype(np.uint8)), strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.eye(4)), path)
    return f"{paths[0]}\t{paths[1]}\n"


def runs(side: str) -> bool:
    """Whether a side is here."""
    return native.available() if side == "kernels" else PYTHONS.get(side, Path(sys.executable)).exists()


def ask(process: subprocess.Popen[str], line: str) -> tuple[float, int]:
    """Let a side measure a region; return its CPU ms and how many features it gave."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin
    assert stdout
    stdin.write(line)
    stdin.flush()
    spent, number = stdout.readline().split()
    return float(spent), int(number)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scope", SIDES)
@pytest.mark.parametrize("files", REGIONS, indirect=True)
@pytest.mark.usefixtures("models")
def test_region(benchmark: BenchmarkFixture, files: str, scope: str, request: pytest.FixtureRequest) -> None:
    """Files to features, all sides in turn, so that what else the machine does meets each alike."""
    told: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    with ExitStack() as stack:
        asked = {}
        for name, side in SIDES[scope].items():
            if runs(side):
                script = str(Path(__file__).with_name("radiomics_side.py"))
                python = str(PYTHONS.get(side, sys.executable))
                # Peers' own threads, too, would be counted, but none should be started.
                one = {"OMP_NUM_THREADS": "1", "PICTOLOGICS_NUM_THREADS": "1"}
                process = subprocess.Popen(
                    [python, script, side, scope.split(maxsplit=1)[0]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    env=os.environ | one,
                )
                asked[name] = stack.enter_context(process)
        for process in asked.values():
            ask(process, files)

        def turn() -> None:
            for name, process in asked.items():
                told[name].append(ask(process, files))

        benchmark.pedantic(turn, rounds=ROUNDS)
    benchmark.extra_info[HOP] = f"{scope}, {request.node.callspec.params['files']}"
    benchmark.extra_info[CPU] = {
        name: [median(spent for spent, _ in each), each[0][1]] for name, each in told.items()
    }


@pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers(), reason="no GPU is here")
@pytest.mark.parametrize(("side", "provider"), {OURS: "CUDAExecutionProvider", "one CPU core": None}.items())
@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("region", REGIONS)
def test_batch_on_a_gpu(
    *, measure: Callable[..., Any], models: Path, region: str, size: int, side: str, provider: str | None
) -> None:
    """Both models for one region after the other, beside one core of the CPU; wall time of the batch."""
    processed = process(*ball(*REGIONS[region]), np.ones(3), Chain(bin_width=25))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    providers = [each for each in (provider, "CPUExecutionProvider") if each]
    sessions = {
        name: ort.InferenceSession(models / name / "1/model.onnx", options, providers=providers) for name in MODELS
    }

    def batch() -> None:
        for _ in range(size):
            modelled(processed, lambda name, inputs: {"features": sessions[name].run(["features"], inputs)[0]})

    measure(f"radiomics on a GPU: {size} regions of {region}", side, batch, rounds=5)

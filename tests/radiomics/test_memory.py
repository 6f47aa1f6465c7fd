"""What a region takes beside its image: in proportion to its box, and little enough for a machine with other work."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.golden

PROGRAM = """
import resource, sys
import numpy as np
from auscult.radiomics import native
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import measure

way, shape, apart = sys.argv[1], tuple(map(int, sys.argv[2].split(","))), int(sys.argv[3])
if way == "numpy":
    native.serves = lambda _: False
grid = np.ogrid[tuple(slice(n) for n in shape)]
if apart:
    mask = np.zeros(shape, bool)
    mask[::apart, ::apart, ::apart] = mask[-1, -1, -1] = True
else:
    mask = sum((2 * place / (n - 1) - 1) ** 2 for place, n in zip(grid, shape)) <= 1
image = np.random.default_rng(0).normal(0, 150, shape).astype(np.int16)
chain = Chain(bin_width=25)
measure(image[:9, :9, :9], np.ones((9, 9, 9), bool), np.ones(3), chain)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measure(image, mask, np.ones(3), chain)
print(int(mask.sum()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def taken(way: str, shape: tuple[int, int, int], apart: int = 0) -> tuple[int, float]:
    """Measure in a process of its own; return the region's voxels, and MB at the peak above what it had before.

    A ball that fills `shape`; or voxels so far `apart`, in all of it.
    """
    arguments = [way, ",".join(map(str, shape)), str(apart)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True, timeout=100
    )
    voxels, kilobytes = map(int, done.stdout.split())
    return voxels, kilobytes / 1e3


@pytest.mark.parametrize("way", ["numpy", "kernels"])
def test_memory_grows_no_faster_than_the_region(way: str) -> None:
    """A million voxels take less than 300 MB; three and ten times the voxels no more than so many times the memory."""
    small, middle, large = (taken(way, (n, n, n)) for n in (58, 84, 125))
    for (voxels, used), (more, then) in ((small, middle), (middle, large)):
        assert then / used < 1.3 * more / voxels
    assert large[0] > 1e6
    assert large[1] < 300


def test_a_scattered_region_takes_what_its_box_takes() -> None:
    """Voxels far apart in a box of four million: less than 300 MB."""
    voxels, used = taken("numpy", (40, 320, 320), apart=8)
    assert voxels < 1e4
    assert used < 300

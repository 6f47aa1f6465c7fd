"""What a region takes beside its image: in proportion to its box, and little enough for a machine with other work."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.golden

PROGRAM = """
import sys, threading
from pathlib import Path
import numpy as np
from auscult.radiomics import native
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import measure

way, shape, apart = sys.argv[1], tuple(map(int, sys.argv[2].split(","))), int(sys.argv[3])
if way == "numpy":
    native.available = lambda: False
image, mask = np.empty(shape, np.int16), np.zeros(shape, bool)
z, y, x = (np.linspace(-1, 1, n) ** 2 for n in shape)
generator = np.random.default_rng(0)
for n in range(shape[0]):
    image[n] = generator.integers(-300, 300, shape[1:])
    if not apart:
        mask[n] = z[n] + y[:, None] + x <= 1
if apart:
    mask[::apart, ::apart, ::apart] = mask[-1, -1, -1] = True
chain = Chain(bin_width=25)
measure(image[:9, :9, :9], np.ones((9, 9, 9), bool), np.ones(3), chain)
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def watch():
    global most
    while not done.wait(0.002):
        most = max(most, held())

before = most = held()
done = threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
measure(image, mask, np.ones(3), chain)
done.set()
watcher.join()
print(int(mask.sum()), most - before)
"""


def taken(way: str, shape: tuple[int, int, int], apart: int = 0) -> tuple[int, float]:
    """Measure in a process of its own; return the region's voxels, and MB at the peak above what it had before.

    A ball that fills `shape`; or voxels so far `apart`, in all of it.
    """
    arguments = [way, ",".join(map(str, shape)), str(apart)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True, timeout=100
    )
    voxels, size = map(int, done.stdout.split())
    return voxels, size / 1e6


@pytest.mark.parametrize("way", ["numpy", "kernels"])
def test_memory_grows_no_faster_than_the_region(way: str) -> None:
    """A million voxels take less than 300 MB; ten times the voxels no more than ten times the memory."""
    small, middle, large = (taken(way, (n, n, n)) for n in (58, 84, 126))
    for (voxels, used), (more, then) in ((small, middle), (middle, large)):
        assert then / used < 1.3 * more / voxels
    assert large[0] > 1e6
    assert large[1] < 300


def test_a_scattered_region_takes_what_its_box_takes() -> None:
    """Voxels far apart in a box of four million: less than 300 MB."""
    voxels, used = taken("numpy", (40, 320, 320), apart=8)
    assert voxels < 1e4
    assert used < 300

"""The compiled kernels, where the package was built with a C compiler; see kernels.c."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auscult.radiomics.counting import Sums

LIBRARY = Path(__file__).with_name("_kernels.so")
LONGEST = 4096
"""Voxels along an axis, up to which the kernels keep a counter for each length of a run."""


@cache
def _library() -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    real = np.ctypeslib.ndpointer(np.float64, flags=("C_CONTIGUOUS", "WRITEABLE"))
    found.auscult_texture.restype = ctypes.c_int
    found.auscult_texture.argtypes = (
        np.ctypeslib.ndpointer(np.uint16, ndim=3, flags="C_CONTIGUOUS"),
        np.ctypeslib.ndpointer(np.uint8, ndim=3, flags="C_CONTIGUOUS"),
        *(ctypes.c_int64,) * 3,
        ctypes.c_int32,
        *(real,) * 9,
    )
    return found


def available() -> bool:
    """Whether the kernels were compiled for this machine."""
    return _library() is not None


def serves(levels: NDArray[np.integer]) -> bool:
    """Whether the kernels were compiled, and have counters for runs as long as the axes of `levels`."""
    return max(levels.shape) <= LONGEST and available()


def count(levels: NDArray[np.integer], region: NDArray[np.bool_]) -> Sums:
    """Do what `counting.count` does; MemoryError where there is too little."""
    library = _library()
    if library is None:
        raise RuntimeError("the kernels are not compiled; ask available() first")
    padded = np.pad(levels.astype(np.uint16, copy=False), 1)
    grey = int(levels.max())
    sums = Sums.zeros(padded.shape[0], grey)
    if library.auscult_texture(padded, np.pad(region, 1).view(np.uint8), *padded.shape, grey, *sums):
        raise MemoryError
    return sums

"""The compiled kernels, where the package was built with a C compiler; see kernels.c and fields.c."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.radiomics.counting import Sums

Real = NDArray[np.float64]
LIBRARY = Path(__file__).with_name("_kernels.so")
WRITEABLE = "C_CONTIGUOUS,WRITEABLE"
LONGEST = 4096
"""Voxels along an axis, up to which the kernels keep a counter for each length of a run."""


@cache
def _library() -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    real, bits, size = _array(np.float64), _array(np.uint8), ctypes.c_int64
    result, number = _array(np.float64, WRITEABLE), ctypes.c_int
    for name, gives, takes in (
        ("texture", number, (_array(np.uint16), bits, *(size,) * 3, ctypes.c_int32, *(result,) * 9)),
        ("spheres", number, (real, *(size,) * 6, _array(np.int32), result)),
        ("weigh", number, (*(_array(np.complex128),) * 3, real, *(size,) * 3, result)),
        ("farthest", ctypes.c_double, (real, size)),
        ("cases", None, (bits, *(size,) * 3, _array(np.int64, WRITEABLE))),
        ("outermost", size, (bits, *(size,) * 3, result)),
    ):
        function = getattr(found, f"auscult_{name}")
        function.restype, function.argtypes = gives, takes
    return found


def _array(kind: type[np.generic], flags: str = "C_CONTIGUOUS") -> Any:
    return np.ctypeslib.ndpointer(kind, flags=flags.split(","))  # type: ignore[arg-type]


def available() -> bool:
    """Whether the kernels were compiled for this machine."""
    return _library() is not None


def serves(levels: NDArray[np.integer]) -> bool:
    """Whether the kernels were compiled, and have counters for runs as long as the axes of `levels`."""
    return max(levels.shape) <= LONGEST and available()


def count(levels: NDArray[np.integer], region: NDArray[np.bool_]) -> Sums:
    """Do what `counting.count` does; MemoryError where there is too little."""
    padded = np.pad(levels.astype(np.uint16, copy=False), 1)
    grey = int(levels.max())
    sums = Sums.zeros(padded.shape[0], grey)
    if _loaded().auscult_texture(padded, np.pad(region, 1).view(np.uint8), *padded.shape, grey, *sums):
        raise MemoryError
    return sums


def sphere_sums(field: Real, half: NDArray[np.int32]) -> Real:
    """Do what `peaks.sphere_sums` does; MemoryError where there is too little."""
    reach = (*(n - 1 for n in half.shape), int(half.max()))
    sums = np.empty([n - 2 * far for n, far in zip(field.shape, reach, strict=True)])
    if _loaded().auscult_spheres(field, *sums.shape, *reach, half, sums):
        raise MemoryError
    return sums


def weigh(
    ones: NDArray[np.complex128],
    first: NDArray[np.complex128],
    second: NDArray[np.complex128],
    weight: Real,
    sums: Real,
) -> None:
    """Add to `sums` what `spectrum.weigh` adds; MemoryError where there is too little."""
    if _loaded().auscult_weigh(ones, first, second, weight, *ones.shape, sums):
        raise MemoryError


def farthest(points: Real) -> float:
    """Return the longest distance of two of `points`, [n, 3], n > 0."""
    return math.sqrt(_loaded().auscult_farthest(np.ascontiguousarray(points.T), len(points)))


def cases(padded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Do what `mesh.count_cases` does."""
    counts = np.empty(256, np.int64)
    _loaded().auscult_cases(padded, *padded.shape, counts)
    return counts


def outermost(mask: NDArray[np.bool_]) -> Real:
    """Do what `shape.outermost` does; MemoryError where there is too little."""
    depth, height, width = mask.shape
    corners = np.empty((2 * (depth * height + depth * width + height * width), 3))
    found = _loaded().auscult_outermost(np.ascontiguousarray(mask).view(np.uint8), *mask.shape, corners)
    if found < 0:
        raise MemoryError
    return corners[:found]


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError("the kernels are not compiled; ask available() first")
    return library

"""Spectra of even fields, and of others part by part, so that memory is bounded and stays in a core's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, fft, next_fast_len, rfft

HELD = 1 << 20
"""Complex numbers of a field that are held half transformed at a time."""
PART = 1 << 16
"""Those of a part that is transformed."""
BLOCK = 1 << 16
"""Numbers of a field that are taken at a time."""


def even_size(least: int) -> int:
    """Return an even number of samples, at least so many, that is quick to transform."""
    return 2 * int(next_fast_len(-(-least // 2), real=True))


def even_spectrum(octant: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one octant of the spectrum of a field that is even along each axis, from one octant of the field.

    Both reach from the first sample to the middle of an even number of samples. `octant` is overwritten.
    """
    spectrum: NDArray[np.float64] = dctn(octant, type=1, overwrite_x=True)
    return spectrum


def spectra(
    planes: Sequence[Callable[[slice], NDArray[np.float64]]], shape: tuple[int, ...], size: Sequence[int]
) -> Iterator[tuple[slice, list[NDArray[np.complex128]]]]:
    """Yield the spectra of real fields, with zeros up to `size`, in parts along x, and which part it is.

    `planes`: for each field, of `shape` (z, y, x), a function that gives slices. Spectra are (x, z, y); of x there
    is half, as in `scipy.fft.rfftn`. A part is valid until the next.
    """
    depth, height, width = shape
    thick = max(1, BLOCK // (height * width))
    columns = size[2] // 2 + 1
    held, part = (min(columns, max(1, most // n)) for most, n in ((HELD, depth * height), (PART, size[0] * size[1])))
    room = [np.empty((part, size[0], size[1]), np.complex128) for _ in planes]
    halves = [np.empty((held, depth, height), np.complex128) for _ in planes]
    for begin in range(0, columns, held):
        many = min(held, columns - begin)
        for plane, half in zip(planes, halves, strict=True):
            for first in range(0, depth, thick):
                block = slice(first, first + thick)
                found = rfft(plane(block), size[2], axis=2)[:, :, begin : begin + many]
                half[:many, block] = found.transpose(2, 0, 1)
        for start in range(0, many, part):
            stop = min(start + part, many)
            parts = [each[: stop - start] for each in room]
            for half, to in zip(halves, parts, strict=True):
                to[:, depth:] = to[:, :depth, height:] = 0
                to[:, :depth, :height] = half[start:stop]
                _transform(to[:, :depth], axis=2)
                _transform(to, axis=1)
            yield slice(begin + start, begin + stop), parts


def _transform(field: NDArray[np.complex128], axis: int) -> None:
    found = fft(field, axis=axis, overwrite_x=True)
    # SciPy may work in place, and does where it can.
    if not np.may_share_memory(found, field):
        field[:] = found


def weigh(
    ones: NDArray[np.complex128],
    first: NDArray[np.complex128],
    second: NDArray[np.complex128],
    weight: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Add to `sums`, [3], those over parts of spectra, weighed: |ones|2, |first|2 and Re(second conj(ones)).

    `weight`: of an even field, an octant (x, z, y), all along x.
    """
    around = _both_parts(weight)
    for n, (one, other) in enumerate(((ones, ones), (first, first), (second, ones))):
        power = one.view(np.float64) * other.view(np.float64)
        half = power.shape[1] // 2
        power[:, 1:half] += power[:, :half:-1]
        sums[n] += np.einsum("xzy,xzy->", power[:, : half + 1], around)


def _both_parts(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, of an octant (x, z, y), all along y, each twice: for the real and for the imaginary part."""
    half = weight.shape[2] - 1
    whole = np.abs((np.arange(2 * half) + half) % (2 * half) - half)
    found: NDArray[np.float64] = weight[:, :, np.repeat(whole, 2)]
    return found

"""Spectra of fields that are even, and of others bit by bit, so that memory is bounded and stays in a core's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, fft, next_fast_len, rfft

HELD = 1 << 20
"""Complex numbers of a field that are held half transformed at a time."""
PART = 1 << 16
"""Those of a part that is transformed."""


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
    fields: Sequence[NDArray[np.generic]], size: Sequence[int]
) -> Iterator[tuple[slice, list[NDArray[np.complex128]]]]:
    """Yield the spectra of real fields, (z, y, x), with zeros up to `size`, in parts along x, and which part it is.

    Of x there is half, as in `scipy.fft.rfftn`. A part is valid until the next.
    """
    depth, height, _ = fields[0].shape
    columns = size[2] // 2 + 1
    held, part = (min(columns, max(1, most // n)) for most, n in ((HELD, depth * height), (PART, size[0] * size[1])))
    room = [np.empty((size[0], size[1], part), np.complex128) for _ in fields]
    for begin in range(0, columns, held):
        halves = [np.empty((depth, height, min(held, columns - begin)), np.complex128) for _ in fields]
        for field, half in zip(fields, halves, strict=True):
            for plane, to in zip(field, half, strict=True):
                to[:] = rfft(plane.astype(np.float64), size[2], axis=1)[:, begin : begin + held]
        for start in range(0, halves[0].shape[2], part):
            stop = min(start + part, halves[0].shape[2])
            parts = [each[:, :, : stop - start] for each in room]
            for half, to in zip(halves, parts, strict=True):
                to[depth:] = to[:depth, height:] = 0
                to[:depth, :height] = half[:, :, start:stop]
                to[:depth] = fft(to[:depth], axis=1, overwrite_x=True)
                to[:] = fft(to, axis=0, overwrite_x=True)
            yield slice(begin + start, begin + stop), parts


def weighed(one: NDArray[np.complex128], other: NDArray[np.complex128], weight: NDArray[np.float64]) -> float:
    """Return the sum of one spectrum times the other's conjugate, times an even `weight`, given in its octant."""
    power = one.real * other.real
    power += one.imag * other.imag
    for axis in (0, 1):
        power = np.moveaxis(power, axis, 0)
        half = len(power) // 2
        power[1:half] += power[:half:-1]
        power = np.moveaxis(power[: half + 1], 0, axis)
    return float((power * weight).sum())

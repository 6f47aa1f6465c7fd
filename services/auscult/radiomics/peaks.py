"""Local intensity (IBSI 9ST6): the mean intensity in a sphere of 1 cm3 around a voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfftn, next_fast_len, rfftn

from auscult.radiomics import native

RADIUS = (3 / (4 * np.pi)) ** (1 / 3) * 10
"""mm, of a sphere of 1 cm3."""
SLAB = 1 << 21
"""Voxels that are summed up around at a time."""
ROWS = 150
"""Of a sphere's quarter, up to which the kernels add them up sooner than a Fourier transform does."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """`local`: around the region's highest voxel (VJGA), `highest`: around any of its voxels (0F91)."""

    local: float
    highest: float


def peaks(image: NDArray[np.float64], mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Peaks:
    """Measure around the voxels of `mask` (z, y, x), not empty; `image` reaches RADIUS beyond it where there is more.

    Voxels in the sphere count whose centres are within, in the region or not; what is not finite does not.
    """
    half = rows_of_sphere(spacing)
    thick = max(1, SLAB // (image.shape[1] * image.shape[2]))
    top = local = highest = -np.inf
    for start in range(0, len(image), thick):
        inside = mask[start : start + thick]
        if not inside.any():
            continue
        values = image[start : start + thick][inside]
        means = _means(image, start, inside, values, half)
        highest = max(highest, float(means.max()))
        most = float(values.max())
        if most >= top:
            best = float(means[values == most].max())
            top, local = most, best if most > top else max(local, best)
    return Peaks(local=local, highest=highest)


def rows_of_sphere(spacing: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return how far the sphere's rows along x reach on either side, [Z, Y], in voxels; -1: they are outside.

    By how many voxels along z and y each is from the middle.
    """
    z, y, x = np.ix_(*(np.arange(int(RADIUS // step) + 1) * step for step in spacing))
    half: NDArray[np.int32] = (z * z + y * y + x * x <= RADIUS**2).sum(axis=2, dtype=np.int32) - np.int32(1)
    return half


def _means(
    image: NDArray[np.float64],
    start: int,
    mask: NDArray[np.bool_],
    values: NDArray[np.float64],
    half: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Return the mean in the sphere around each voxel of `mask`, [n], whose first plane is the image's `start`."""
    reach = (*(n - 1 for n in half.shape), int(half.max()))
    used = [
        np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))[[0, -1]]
        for axis in range(3)
    ]
    wanted = mask[tuple(slice(first, last + 1) for first, last in used)]
    # What the spheres cover, and of that what the image has; elsewhere is nothing.
    shape = [n + 2 * far for n, far in zip(wanted.shape, reach, strict=True)]
    first = [int(low) - far for (low, _), far in zip(used, reach, strict=True)]
    first[0] += start
    part = tuple(
        slice(max(0, low), min(low + many, end)) for low, many, end in zip(first, shape, image.shape, strict=True)
    )
    place = tuple(slice(each.start - low, each.stop - low) for each, low in zip(part, first, strict=True))
    around = image[part]
    finite = np.isfinite(around)
    whole = bool(finite.all())
    # A whole number, so that sums of whole numbers are exact.
    centre = np.rint(values.mean())
    field = np.zeros(shape)
    np.subtract(around if whole else np.where(finite, around, centre), centre, out=field[place])
    sums = native.sphere_sums if np.count_nonzero(half >= 0) <= ROWS and native.available() else sphere_sums
    means: NDArray[np.float64] = sums(field, half)[wanted]
    if whole and list(around.shape) == shape:
        means /= np.maximum(2 * _whole(half) + 1, 0).sum()
    else:
        field[:] = 0
        field[place] = finite
        means /= np.rint(sums(field, half)[wanted])
    means += centre
    return means


def sphere_sums(field: NDArray[np.float64], half: NDArray[np.int32]) -> NDArray[np.float64]:
    """Sum up `field` over the sphere around each place that is so far from its edges; `half`: `rows_of_sphere`."""
    sphere = np.abs(np.arange(-half.max(), half.max() + 1)) <= _whole(half)[..., None]
    # What leaves at one end comes in at the other, where no sum is asked for.
    size = [next_fast_len(n, real=True) for n in field.shape]
    spectrum = rfftn(field, size)
    spectrum *= rfftn(sphere, size)
    summed: NDArray[np.float64] = irfftn(spectrum, size, overwrite_x=True)
    return summed[tuple(slice(n - 1, many) for n, many in zip(sphere.shape, field.shape, strict=True))]


def _whole(half: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return how far all rows reach, those before the middle as those behind it."""
    return np.pad(half, [(n - 1, 0) for n in half.shape], "reflect")

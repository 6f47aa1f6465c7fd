"""Local intensity (IBSI 9ST6): the mean intensity in a sphere of 1 cm3 around a voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfftn, next_fast_len, rfftn

RADIUS = (3 / (4 * np.pi)) ** (1 / 3) * 10
"""mm, of a sphere of 1 cm3."""
SLAB = 1 << 21
"""Voxels that are convolved at a time."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """`local`: around the region's highest voxel (VJGA), `highest`: around any of its voxels (0F91)."""

    local: float
    highest: float


def peaks(image: NDArray[np.float64], mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Peaks:
    """Measure around the voxels of `mask` (z, y, x), not empty; `image` reaches RADIUS beyond it where there is more.

    Voxels in the sphere count whose centres are within, in the region or not; what is not finite does not.
    """
    top = float(image[mask].max())
    local = highest = -np.inf
    depth, height, width = image.shape
    reach = int(RADIUS // spacing[0])
    thick = max(1, SLAB // (height * width))
    sphere = _sphere(spacing)
    for start in range(0, depth, thick):
        if not mask[start : start + thick].any():
            continue
        first = max(0, start - reach)
        around = image[first : start + thick + reach]
        inside = np.zeros(around.shape, np.bool_)
        inside[start - first : start - first + thick] = mask[start : start + thick]
        means = _means(around, inside, sphere)
        highest = max(highest, float(means.max()))
        local = max(local, float(means[around[inside] == top].max(initial=-np.inf)))
    return Peaks(local=local, highest=highest)


def _sphere(spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 for each voxel within the sphere around the middle one, else 0."""
    steps = (np.arange(-int(RADIUS // step), int(RADIUS // step) + 1) * step for step in spacing)
    z, y, x = np.meshgrid(*steps, indexing="ij", sparse=True)
    within: NDArray[np.float64] = (z * z + y * y + x * x <= RADIUS**2).astype(np.float64)
    return within


def _means(image: NDArray[np.float64], mask: NDArray[np.bool_], sphere: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean in the sphere around each voxel of `mask`, [n]."""
    finite = np.isfinite(image)
    centre = float(image[mask].mean())
    reach = [n // 2 for n in sphere.shape]
    # What leaves at one end comes in at the other, where it meets the zeros beyond the image.
    size = [next_fast_len(max(n, r + 1) + r, real=True) for n, r in zip(image.shape, reach, strict=True)]
    rolled = np.zeros(size)
    rolled[tuple(slice(n) for n in sphere.shape)] = sphere
    kernel = rfftn(np.roll(rolled, [-r for r in reach], axis=(0, 1, 2)))

    def within(field: NDArray[np.float64]) -> NDArray[np.float64]:
        spectrum = rfftn(field, size)
        spectrum *= kernel
        summed: NDArray[np.float64] = irfftn(spectrum, size, overwrite_x=True)
        return summed[tuple(slice(n) for n in image.shape)][mask]

    total = within(np.where(finite, image - centre, 0))
    whole = finite.all() and _inner(mask, reach)
    number = sphere.sum() if whole else np.rint(within(finite.astype(np.float64)))
    found: NDArray[np.float64] = total / number + centre
    return found


def _inner(mask: NDArray[np.bool_], reach: list[int]) -> bool:
    """Whether the sphere around each voxel of `mask` is within its box."""
    for axis, far in enumerate(reach):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if used[0] < far or used[-1] >= mask.shape[axis] - far:
            return False
    return True

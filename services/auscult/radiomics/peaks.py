"""Local intensity (IBSI 9ST6): the mean intensity in a sphere of 1 cm3 around a voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

RADIUS = (3 / (4 * np.pi)) ** (1 / 3) * 10
"""mm, of a sphere of 1 cm3."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """`local`: around the region's highest voxel (VJGA), `highest`: around any of its voxels (0F91)."""

    local: float
    highest: float


def peaks(image: NDArray[np.float64], mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Peaks:
    """Measure around the voxels of `mask` (z, y, x), not empty; `image` reaches RADIUS beyond it where there is more.

    Voxels in the sphere count whose centres are within, in the region or not; what is not finite does not.
    """
    reach = [int(RADIUS // step) for step in spacing]
    grids = np.meshgrid(
        *(np.arange(-n, n + 1) * step for n, step in zip(reach, spacing, strict=True)), indexing="ij", sparse=True
    )
    sphere = (sum(grid * grid for grid in grids) <= RADIUS**2).astype(np.float64)
    finite = np.isfinite(image)
    centre = float(image[mask & finite].mean()) if (mask & finite).any() else 0.0
    total = fftconvolve(np.where(finite, image - centre, 0), sphere, mode="same")[mask]
    number = np.rint(fftconvolve(finite.astype(np.float64), sphere, mode="same")[mask])
    means = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0) + centre
    values = image[mask]
    return Peaks(local=float(means[values == values.max()].max()), highest=float(means.max()))

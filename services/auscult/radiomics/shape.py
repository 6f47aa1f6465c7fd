"""What of a region's shape needs a convex hull or all pairs of voxels: beside the graphs, with numpy and scipy.

See docs/decisions/0005-radiomics-in-graphs-and-beside-them.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfftn, next_fast_len, rfftn
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Hull:
    """The convex hull of a region's mesh. `diameter`: the longest distance of two of its points, mm (IBSI L0JK)."""

    volume: float
    area: float
    diameter: float


def hull(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Hull:
    """Measure `mask`, (z, y, x), with at least one voxel; `spacing`: (3,) mm.

    The mesh's vertices lie half-way between a voxel inside and a neighbour outside.
    """
    padded = np.pad(mask, 1)
    points = []
    for axis in range(3):
        here = np.argwhere(np.diff(padded.astype(np.int8), axis=axis)).astype(float)
        here[:, axis] += 0.5
        points.append(here)
    found = ConvexHull(np.concatenate(points) * spacing)
    corners = found.points[found.vertices]
    # The two points that are farthest apart are corners of the hull.
    diameter = max(float(cdist(corners[n : n + CHUNK], corners).max()) for n in range(0, len(corners), CHUNK))
    return Hull(float(found.volume), float(found.area), diameter)


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """Moran's I (IBSI N365) and Geary's C (IBSI NPT7), weighted by the inverse distance; NaN in a flat region."""

    moran: float
    geary: float


def autocorrelation(
    image: NDArray[np.float64], mask: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> Autocorrelation:
    """Compare the intensities of all pairs of voxels of `mask`, (z, y, x).

    A weight depends on the step between two voxels alone, so that sums over pairs are convolutions, and exact.
    """
    values = image[mask]
    away = np.zeros(mask.shape)
    away[mask] = values - values.mean()
    spread = float((away * away).sum())
    if spread == 0 or values.size < 2:
        return Autocorrelation(float("nan"), float("nan"))
    size = [next_fast_len(2 * n - 1, real=True) for n in mask.shape]
    steps = [np.minimum(np.arange(n), n - np.arange(n)) * s for n, s in zip(size, spacing, strict=True)]
    z, y, x = np.meshgrid(*steps, indexing="ij", sparse=True)
    distance = np.sqrt(z * z + y * y + x * x)
    distance[0, 0, 0] = np.inf
    # The weights are even, so their spectrum is real.
    weight = np.ascontiguousarray(rfftn(1 / distance).real)
    del distance

    def weighed(field: NDArray[np.float64]) -> NDArray[np.float64]:
        spectrum = rfftn(field, size)
        spectrum *= weight
        around: NDArray[np.float64] = irfftn(spectrum, size, overwrite_x=True)
        return around[tuple(slice(n) for n in mask.shape)].copy()

    beside = weighed(mask.astype(np.float64))
    together = float((away * weighed(away)).sum())
    total = float(beside[mask].sum())
    apart = 2 * (float((away * away * beside).sum()) - together)
    return Autocorrelation(
        moran=values.size / total * together / spread, geary=(values.size - 1) / (2 * total) * apart / spread
    )

"""What of a region's shape needs a convex hull or all pairs of voxels: beside the graphs, with numpy and scipy.

See docs/decisions/0005-radiomics-in-graphs-and-beside-them.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from auscult.radiomics import native
from auscult.radiomics.spectrum import even_size, even_spectrum, spectra, weigh

CHUNK = 1024
NEIGHBOURS = tuple((reach * z, reach * y) for reach in (1, 2, 4) for z, y in ((0, 1), (1, 0), (1, 1), (1, -1)))
"""Steps to one of the two rows that are compared with the row between them."""


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
    compiled = native.available()
    found = ConvexHull((native.outermost if compiled else outermost)(mask) * spacing)
    corners = found.points[found.vertices]
    # The two points that are farthest apart are corners of the hull.
    diameter = (native.farthest if compiled else _farthest)(corners)
    return Hull(float(found.volume), float(found.area), diameter)


def _farthest(points: NDArray[np.float64]) -> float:
    return max(float(cdist(points[n : n + CHUNK], points).max()) for n in range(0, len(points), CHUNK))


def outermost(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return those vertices of the mesh, [n, 3], that can be corners of its hull, and some that are not."""
    return np.concatenate([points for axis in range(3) for points in _outermost(mask, axis)])


def _outermost(mask: NDArray[np.bool_], axis: int) -> Iterator[NDArray[np.float64]]:
    """Yield the vertices, [n, 3], at the two ends of each row along `axis` that can be corners of the hull.

    One that lies between those of two rows, or beneath, is none: of a ball's vertices most fall out so, and quickly.
    """
    rows = np.moveaxis(mask, axis, 2)
    used = rows.any(axis=2)
    for ends, sign in ((rows, -1), (rows[:, :, ::-1], 1)):
        first = ends.argmax(axis=2)
        place = first if sign < 0 else mask.shape[axis] - 1 - first
        reach = max(max(step) for step in NEIGHBOURS)
        out = np.pad(np.where(used, sign * place, -np.inf), reach, constant_values=-np.inf)
        kept = used.copy()
        depth, height = used.shape
        for z, y in NEIGHBOURS:
            one, other = (
                out[reach + s * z : reach + s * z + depth, reach + s * y : reach + s * y + height] for s in (1, -1)
            )
            kept &= one + other < 2.0 * sign * place
        corners = np.column_stack((*np.nonzero(kept), place[kept] + sign / 2))
        yield np.insert(corners[:, :2], axis, corners[:, 2], axis=1)


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """Moran's I (IBSI N365) and Geary's C (IBSI NPT7), weighted by the inverse distance; NaN in a flat region."""

    moran: float
    geary: float


def autocorrelation(
    image: NDArray[np.float64], mask: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> Autocorrelation:
    """Compare the intensities of all pairs of voxels of `mask`, (z, y, x).

    A weight depends on the step between two voxels alone, so that sums over pairs are convolutions, and exact; by
    Parseval's theorem a sum over voxels of a field and another one, convolved, is one over their spectra.
    """
    values = image[mask]
    number, mean = values.size, values.mean()
    values -= mean
    spread = float(values @ values)
    del values
    if spread == 0 or number < 2:
        return Autocorrelation(float("nan"), float("nan"))

    def region(z: slice) -> NDArray[np.float64]:
        return np.asarray(mask[z], np.float64)

    def away(z: slice) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.where(mask[z], image[z] - mean, 0)
        return found

    def square(z: slice) -> NDArray[np.float64]:
        return away(z) ** 2

    size = [even_size(2 * n - 1) for n in mask.shape]
    steps = [np.arange(n // 2 + 1) * float(step) for n, step in zip(size, spacing, strict=True)]
    x, z, y = np.meshgrid(steps[2], *steps[:2], indexing="ij", sparse=True)
    weight = z * z + y * y + x * x
    weight[0, 0, 0] = np.inf
    np.sqrt(weight, out=weight)
    np.reciprocal(weight, out=weight)
    weight = even_spectrum(weight)
    # Of x there is half: all but the first and the last stand for two.
    weight[1:-1] *= 2
    sums = np.zeros(3)
    add = native.weigh if native.available() else weigh
    for columns, (ones, first, second) in spectra((region, away, square), mask.shape, size):
        add(ones, first, second, weight[columns], sums)
    total, together, beside = sums.tolist()
    return Autocorrelation(
        moran=number / total * together / spread,
        geary=(number - 1) / total * (beside - together) / spread,
    )

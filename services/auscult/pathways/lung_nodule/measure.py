"""Size of a nodule as radiologists measure it.

Longest diameter and the longest one perpendicular to it in the same slice, on the slice where the
first is greatest; their mean is what the guidelines use (Bankier et al., Radiology 2017;285:584,
doi 10.1148/radiol.2017162894). Lengths in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, label
from scipy.spatial import ConvexHull

from auscult.domain.finding import ModelReference
from auscult.domain.volume import Region, Volume
from auscult.pathways.lung_nodule.fleischner import Appearance

ALGORITHM = ModelReference(
    name="lung_nodule.measure",
    version="1",
    evidence="Bankier et al., Radiology 2017;285:584, doi 10.1148/radiol.2017162894",
)
SOLID_HU = -300
"""Above it, tissue inside a nodule counts as solid; a usual bound between ground glass and solid."""
SOLID_SHARE = 0.8
"""From this share of solid tissue in its core a nodule is solid; its rim is blurred by partial volume."""
NONSOLID_SHARE = 0.05
"""Below this share the solid tissue is vessel or noise, and the nodule is nonsolid."""


@dataclass(frozen=True, slots=True)
class Size:
    """Diameters in mm on slice `slice_index` of the volume."""

    longest: float
    perpendicular: float
    slice_index: int

    @property
    def mean(self) -> float:
        """The mean of both diameters, in mm."""
        return (self.longest + self.perpendicular) / 2


_EDGE_MIDDLES = np.array([(0.0, 0.5), (0.5, 1.0), (1.0, 0.5), (0.5, 0.0)])
"""Of a cell between four voxel centres, from its first corner round: (y, x)."""


def _rim(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points in mm, (n, 2), on the outline of `mask` (y, x): the middles of marching squares' segments.

    Voxel centres would make each diameter a pixel too short; the segments' ends, of which the longest diameter
    takes the outermost, half a pixel too long.
    """
    padded = np.pad(mask, 1)
    corners = [padded[:-1, :-1], padded[:-1, 1:], padded[1:, 1:], padded[1:, :-1]]
    crossed = np.stack([one != next_one for one, next_one in zip(corners, [*corners[1:], corners[0]], strict=True)])
    count = crossed.sum(axis=0)
    cells = count > 0
    within = np.tensordot(_EDGE_MIDDLES.T, crossed, axes=1)[:, cells] / count[cells]
    points: NDArray[np.float64] = (np.argwhere(cells) + within.T - 1) * spacing
    return points


def _diameters(points: NDArray[np.float64]) -> tuple[float, float]:
    """Return the longest distance between `points` (n, 2) and the longest chord of their hull across it."""
    hull = points[ConvexHull(points).vertices]
    apart = np.linalg.norm(hull[:, None] - hull[None], axis=-1)
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    along = (hull[second] - hull[first]) / apart[first, second]
    place = (hull - hull[first]) @ along
    across = (hull - hull[first]) @ np.array([-along[1], along[0]])
    # Both sides of the hull as functions of the place along the diameter; a chord's length is concave
    # and linear between vertices, so that the longest one passes through a vertex.
    ends = [float(place.min()), float(place.max())]

    def side(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        xs, ys = np.append(place[chosen], ends), np.append(across[chosen], [0.0, 0.0])
        order = np.argsort(xs)
        values: NDArray[np.float64] = np.interp(place, xs[order], ys[order])
        return values

    chords = side(across > 0) - side(across < 0)
    return float(apart[first, second]), float(chords.max())


def size(region: Region) -> Size:
    """Measure `region` in the plane of its slices."""
    best: Size | None = None
    spacing = region.geometry.spacing[1:]
    for index in np.flatnonzero(region.mask.any(axis=(1, 2))):
        longest, perpendicular = _diameters(_rim(region.mask[index], spacing))
        if best is None or longest > best.longest:
            best = Size(longest, perpendicular, int(index) + region.offset[0])
    if best is None:  # a Region is never empty
        raise ValueError("the region has no voxel")
    return best


@dataclass(frozen=True, slots=True)
class Density:
    """The appearance estimated from HU, and the diameter of the solid part in mm where it is part-solid."""

    appearance: Appearance
    solid_diameter: float | None


def density(volume: Volume, region: Region) -> Density:
    """Estimate the appearance from the HU inside `region`."""
    hu = volume.hu[region.box]
    core = binary_erosion(region.mask)
    if not core.any():
        core = region.mask
    share = float((hu[core] > SOLID_HU).mean())
    if share >= SOLID_SHARE:
        return Density(Appearance.SOLID, None)
    if share < NONSOLID_SHARE:
        return Density(Appearance.NONSOLID, None)
    parts, _ = label(region.mask & (hu > SOLID_HU))
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return Density(Appearance.PART_SOLID, size(Region(largest, region.offset, region.geometry, region.source)).mean)

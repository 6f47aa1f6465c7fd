"""Where the lungs are: quick and coarse, to crop what the models see and to say where a nodule lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from auscult.domain.volume import Volume

AIR_HU = -400
GRID = 4.0
"""mm: the coarse grid. Lungs are litres; nothing here needs better."""
MARGIN = 12.0
"""mm around the lungs' box, so that the pleura and what hangs on it are inside."""
END_SHARE = 0.05
"""Of the largest cross-section: slices with less air hold the trachea or slivers, not the lungs' extent."""
LEAST = 100_000.0
"""mm3: less air than this is bowel or trachea, not lung."""


@dataclass(frozen=True, eq=False)
class Lungs:
    """The lungs' box in the volume, and their extent in the patient (LPS, mm)."""

    box: tuple[slice, slice, slice]
    midline: float
    """x between the lungs."""
    bottom: float
    top: float
    whole: bool
    """Whether the scan holds both ends, so that heights in the lung mean something."""

    def side(self, position: NDArray[np.float64]) -> str:
        """`left` or `right`, of the patient."""
        return "left" if position[0] > self.midline else "right"

    def height(self, position: NDArray[np.float64]) -> float | None:
        """Return the place between the base (0) and the apex (1); None where the lungs are cut off."""
        if not self.whole:
            return None
        return float((position[2] - self.bottom) / (self.top - self.bottom))


def find_lungs(volume: Volume) -> Lungs | None:
    """Return the lungs of an axial chest CT, or None where there are none."""
    geometry = volume.geometry
    step = np.maximum(1, np.round(GRID / geometry.spacing)).astype(int)
    air = volume.hu[:: step[0], :: step[1], :: step[2]] < AIR_HU
    parts, count = label(air)
    if not count:
        return None
    outside = np.unique(
        np.concatenate([parts[:, 0].ravel(), parts[:, -1].ravel(), parts[:, :, 0].ravel(), parts[:, :, -1].ravel()])
    )
    sizes = np.bincount(parts.ravel()) * geometry.voxel_volume * float(np.prod(step))
    sizes[outside] = 0
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= max(LEAST, 0.1 * float(sizes.max())))
    if not kept.size:
        return None
    lung = np.isin(parts, kept)
    where = np.argwhere(lung)
    margin = np.ceil(MARGIN / geometry.spacing).astype(int)
    low = np.maximum(where.min(axis=0) * step - margin, 0)
    high = np.minimum((where.max(axis=0) + 1) * step + margin, geometry.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    areas = lung.sum(axis=(1, 2))
    ends = np.flatnonzero(areas >= END_SHARE * areas.max())[[0, -1]]
    positions = geometry.to_patient(where * step)
    heights = geometry.to_patient([[end * step[0], 0, 0] for end in ends])[:, 2]
    return Lungs(
        box=(z, y, x),
        midline=float((positions[:, 0].min() + positions[:, 0].max()) / 2),
        bottom=float(heights.min()),
        top=float(heights.max()),
        whole=bool(ends[0] > 0 and ends[1] < len(areas) - 1),
    )

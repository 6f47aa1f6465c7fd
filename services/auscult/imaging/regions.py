"""From a mask somewhere in a volume to a Region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Geometry, Region, RegionSource


def boxed(
    mask: NDArray[np.bool_], offset: tuple[int, int, int], geometry: Geometry, source: RegionSource
) -> Region | None:
    """Return the region of `mask`, `(z, y, x)`, whose first voxel is `offset` in the volume; None where empty.

    What lies outside the volume is cut off.
    """
    inside = tuple(
        slice(max(0, -start), max(0, min(size, whole - start)))
        for start, size, whole in zip(offset, mask.shape, geometry.shape, strict=True)
    )
    mask = mask[inside]
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not used[0].size:
        return None
    box = tuple(slice(int(each[0]), int(each[-1]) + 1) for each in used)
    z, y, x = (start + cut.start + part.start for start, cut, part in zip(offset, inside, box, strict=True))
    return Region(mask[box].copy(), (z, y, x), geometry, source)

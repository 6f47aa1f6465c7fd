"""Interpolation to another voxel size (IBSI VTM2); the new grid's centre is the old one's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

MARGIN = 16
"""Voxels beyond those asked for that a cubic spline still feels: the next ones change it by less than 1e-9."""
DIGITS = 6
"""To which a mask's interpolated share is rounded, so that one half is one half."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid over an image, per axis (z, y, x).

    `shape` in voxels; `spacing` in mm; `first`, the place of the first voxel's centre, and `step`, from one to the
    next, both in voxels of the image.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    first: tuple[float, ...]
    step: tuple[float, ...]

    @classmethod
    def over(cls, shape: tuple[int, ...], spacing: NDArray[np.float64], wanted: tuple[float | None, ...]) -> Grid:
        """Lay a grid with `wanted` spacing over an image of `shape` and `spacing`; None keeps an axis as it is."""
        sizes, steps, firsts, lengths = [], [], [], []
        for many, old, new in zip(shape, map(float, spacing), wanted, strict=True):
            step = 1.0 if new is None else new / old
            # One voxel more only where there is some of it, and not for a rounding error.
            size = math.ceil(many / step - 1e-6)
            sizes.append(size)
            steps.append(step)
            firsts.append(((many - 1) - (size - 1) * step) / 2)
            lengths.append(old if new is None else new)
        return cls(tuple(sizes), tuple(lengths), tuple(firsts), tuple(steps))

    @property
    def unchanged(self) -> bool:
        """Whether it is the image's own."""
        return all(step == 1 for step in self.step)

    def around(self, box: Box, margin: float) -> Box:
        """Return the part that covers a `box` of the image, and `margin` mm more where there is more."""
        z, y, x = (
            slice(
                max(0, math.floor((part.start - 1 - first) / step - margin / length)),
                min(size, math.ceil((part.stop - first) / step + margin / length) + 1),
            )
            for part, first, step, size, length in zip(
                box, self.first, self.step, self.shape, self.spacing, strict=True
            )
        )
        return z, y, x

    def sample(self, image: NDArray[Any], part: Box, order: int) -> NDArray[np.float64]:
        """Return the `part` of this grid, by a spline of `order` through `image`, constant beyond its edges."""
        if self.unchanged:
            return np.asarray(image[part], np.float64)
        source, offset = [], []
        for wanted, first, step, many in zip(part, self.first, self.step, image.shape, strict=True):
            begin, end = first + wanted.start * step, first + (wanted.stop - 1) * step
            low = max(0, math.floor(begin) - MARGIN)
            source.append(slice(low, min(many, math.ceil(end) + MARGIN + 1)))
            offset.append(begin - low)
        sampled: NDArray[np.float64] = affine_transform(
            np.asarray(image[tuple(source)], np.float64),
            np.array(self.step),
            offset=offset,
            output_shape=tuple(each.stop - each.start for each in part),
            order=order,
            mode="nearest",
        )
        return sampled

    def inside(self, mask: NDArray[np.bool_], part: Box, order: int, threshold: float) -> NDArray[np.bool_]:
        """Return which voxels of the `part` are in `mask` by at least the share `threshold`."""
        if self.unchanged:
            return mask[part]
        share = np.round(self.sample(mask, part, order), DIGITS)
        inside: NDArray[np.bool_] = share >= threshold
        return inside

"""Parallel slices that make no regular grid, put onto one by linear interpolation.

The grid's planes are parallel to the slices. A tilted gantry shifts each slice within its plane, so nothing is
blended across slices; uneven distances are interpolated along the normal alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Geometry, Resampled

NEGLIGIBLE = 1e-6
"""Of a pixel or a slice: what rounding leaves."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Resampling:
    """How slices lie on a grid.

    `shifts`: `(slices, 2)`, where each slice's first pixel lies within its plane of the grid, (y, x) in pixels.
    `heights`: `(slices,)`, along axis z in the grid's slices; increasing. `how`: for the reader.
    """

    shifts: Floats
    heights: Floats
    how: str

    def nearest(self, planes: int) -> NDArray[np.intp]:
        """Return for each plane of the grid the slice that lies nearest."""
        found: NDArray[np.intp] = np.abs(np.arange(planes)[:, None] - self.heights).argmin(axis=1)
        return found

    def resampled(self, planes: int) -> Resampled:
        """Return what a volume keeps of it."""
        return Resampled(self.how, self.shifts[self.nearest(planes)])

    def apply(self, slices: NDArray[np.generic], grid: Geometry, fill: float) -> NDArray[np.generic]:
        """Return `slices`, `(n, y, x)`, on the grid, in their own type; outside of them it is `fill`."""
        out = np.empty(grid.shape, slices.dtype)
        below = np.clip(np.searchsorted(self.heights, np.arange(len(out)), side="right") - 1, 0, len(slices) - 2)
        share = (np.arange(len(out)) - self.heights[below]) / np.diff(self.heights)[below]
        share = np.where(np.abs(share - np.rint(share)) < NEGLIGIBLE, np.rint(share), share).clip(0, 1)
        moved: dict[int, NDArray[np.float32]] = {}
        for plane, low, part in zip(out, below.tolist(), share.tolist(), strict=True):
            needed = [number for number, weight in ((low, 1 - part), (low + 1, part)) if weight]
            moved = {
                number: moved[number] if number in moved else self._moved(slices[number], number, plane.shape, fill)
                for number in needed
            }
            value = moved[needed[0]] if len(needed) == 1 else (1 - part) * moved[low] + part * moved[low + 1]
            plane[...] = np.rint(value) if slices.dtype.kind in "iu" else value
        return out

    def _moved(
        self, slice_: NDArray[np.generic], number: int, shape: tuple[int, ...], fill: float
    ) -> NDArray[np.float32]:
        """Return one slice within its plane of the grid, where only places between its pixels' centres are known."""
        moved = slice_.astype(np.float32)
        starts = []
        for axis, shift in enumerate(self.shifts[number]):
            whole = int(np.floor(shift + NEGLIGIBLE))
            part = np.float32(max(0.0, shift - whole))
            if part > NEGLIGIBLE:
                first, second = np.delete(moved, -1, axis), np.delete(moved, 0, axis)
                moved, whole = part * first + (1 - part) * second, whole + 1
            starts.append(whole)
        out = np.full(shape, fill, np.float32)
        y, x = starts
        out[y : y + moved.shape[0], x : x + moved.shape[1]] = moved
        return out


def regular(
    positions: Floats, heights: Floats, grid: Geometry, *, tilted: bool, uneven: bool
) -> tuple[Geometry, Resampling]:
    """Return the regular grid that holds all slices, and how they lie on it.

    `positions`: `(slices, 3)` of their first pixels in mm, in the order of `heights`, mm along the normal from 0.
    `grid`: the axes, pixel spacing and size of one slice; with as many slices at their mean distance.
    """
    extent = float(heights[-1])
    planes = round(extent / float(np.median(np.diff(heights)))) + 1 if uneven else len(heights)
    spacing = np.array([extent / (planes - 1), *grid.spacing[1:]])
    # In pixels, (y, x), from the first slice's first pixel.
    shifts = ((positions - positions[0]) @ grid.axes[1:].T) / spacing[1:] if tilted else np.zeros((len(heights), 2))
    low = shifts.min(axis=0)
    more = np.ceil((shifts - low).max(axis=0) - NEGLIGIBLE).astype(int)
    geometry = Geometry(
        origin=positions[0] + (low * spacing[1:]) @ grid.axes[1:],
        axes=grid.axes,
        spacing=spacing,
        shape=(planes, grid.shape[1] + int(more[0]), grid.shape[2] + int(more[1])),
        frame_of_reference_uid=grid.frame_of_reference_uid,
    )
    lies = heights / spacing[0] if uneven else np.arange(len(heights), dtype=float)
    return geometry, Resampling(shifts - low, lies, _told(positions, heights, geometry, tilted=tilted, uneven=uneven))


def _told(positions: Floats, heights: Floats, geometry: Geometry, *, tilted: bool, uneven: bool) -> str:
    said = []
    if tilted:
        across = np.linalg.norm((positions[-1] - positions[0]) @ geometry.axes[1:].T)
        said.append(f"a gantry tilt of {np.degrees(np.arctan2(across, heights[-1])):.1f} degrees")
    if uneven:
        gaps = np.diff(heights)
        said.append(f"distances of {gaps.min():.3g} to {gaps.max():.3g} mm between slices")
    return (
        f"The images had {' and '.join(said)}: they were resampled (linearly) to a regular grid of "
        f"{geometry.spacing[0]:.3g} mm."
    )

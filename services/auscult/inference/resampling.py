"""Linear resampling of volumes, a plane at a time, so that neither grid is ever held whole.

The outer edges of both grids coincide, as in ONNX Resize's `half_pixel` and scikit-image's resize; beyond the
outermost centres the nearest value is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a grid between two neighbours of another: `(1 - share) * x[lower] + share * x[upper]`."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    share: F32

    @classmethod
    def between(cls, size: int, of: int) -> Axis:
        """Return the axis that has `size` elements where the other has `of`."""
        centre = np.clip((np.arange(size) + 0.5) * (of / size) - 0.5, 0, of - 1)
        lower = np.floor(centre).astype(np.intp)
        return cls(lower, np.minimum(lower + 1, of - 1), (centre - lower).astype(np.float32))

    @property
    def same(self) -> bool:
        """Whether both grids are one."""
        return not self.share.any() and bool((np.diff(self.lower) == 1).all()) and self.lower[0] == 0


def mixed(first: NDArray[Any], second: NDArray[Any], share: F32 | np.float32) -> F32:
    """Return `(1 - share) * first + share * second`."""
    result: F32 = np.subtract(second, first, dtype=np.float32)
    result *= share
    result += first
    return result


def resampled(planes: NDArray[Any], rows: Axis, columns: Axis) -> F32:
    """Return planes [..., y, x] on other rows and columns."""
    if not rows.same:
        planes = mixed(planes[..., rows.lower, :], planes[..., rows.upper, :], rows.share[:, None])
    if not columns.same:
        planes = mixed(planes[..., columns.lower], planes[..., columns.upper], columns.share)
    done: F32 = planes.astype(np.float32, copy=False)
    return done


class Slab:
    """The planes of a volume [c, z, y, x] on another grid, of which the last `depth` that were read are kept."""

    def __init__(self, volume: NDArray[Any], grid: tuple[int, int, int], depth: int) -> None:
        self._volume = volume
        self._axes = [Axis.between(size, of) for size, of in zip(grid, volume.shape[1:], strict=True)]
        self._kept = np.empty((volume.shape[0], depth, *grid[1:]), np.float32)
        self._read = 0
        self._recent: dict[int, F32] = {}

    def plane(self, z: int) -> F32:
        """Return plane `z` [c, y, x]: one of the last that were read, or one after them."""
        while self._read <= z:
            self._kept[:, self._read % self._kept.shape[1]] = self._made(self._read)
            self._read += 1
        kept: F32 = self._kept[:, z % self._kept.shape[1]]
        return kept

    def _made(self, z: int) -> F32:
        depth = self._axes[0]
        near = {int(depth.lower[z]), int(depth.upper[z])}
        self._recent = {
            source: self._recent[source]
            if source in self._recent
            else resampled(self._volume[:, source], *self._axes[1:])
            for source in near
        }
        return mixed(self._recent[min(near)], self._recent[max(near)], depth.share[z])


class Back:
    """Takes the planes of one grid in order and gives those of another: what `Slab` does, the other way."""

    def __init__(self, of: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
        self._axes = [Axis.between(size, n) for size, n in zip(grid, of, strict=True)]
        self._next = 0
        self._before: F32 | None = None

    def planes(self, z: int, plane: F32) -> Iterator[tuple[int, F32]]:
        """Give, for plane `z` [c, y, x] of the one grid, the planes of the other that it completes, with their z."""
        depth, *across = self._axes
        here = resampled(plane, *across)
        while self._next < len(depth.upper) and depth.upper[self._next] <= z:
            share = depth.share[self._next]
            before = here if self._before is None or depth.lower[self._next] == z else self._before
            yield self._next, mixed(before, here, share)
            self._next += 1
        self._before = here

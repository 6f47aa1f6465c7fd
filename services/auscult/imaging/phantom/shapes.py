"""Implicit shapes: functions of position that are negative inside, and near the surface about mm outside.

Coordinates broadcast against each other, so one function serves a slice, a box and a list of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_TINY = 1e-6


def ellipse(x: Any, y: Any, a: Any, b: Any) -> Any:
    """Approximate the signed distance to an ellipse about 0 with semi-axes a and b.

    k0 (k0 - 1) / k1 is exact to first order at the surface (Quilez, "ellipsoid - SDF bound").
    """
    x, y = x / a, y / b
    k0 = np.sqrt(x * x + y * y)
    k1 = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    return (k0 - 1) * (k0 + _TINY * b) / (k1 + _TINY)


def ellipsoid(x: Any, y: Any, z: Any, axes: tuple[float, float, float]) -> Any:
    """Approximate the signed distance to an ellipsoid about 0; `axes` are its semi-axes along x, y, z."""
    a, b, c = axes
    x, y, z = x / a, y / b, z / c
    k0 = np.sqrt(x * x + y * y + z * z)
    k1 = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    return (k0 - 1) * (k0 + _TINY * min(axes)) / (k1 + _TINY)


def both(a: Any, b: Any, rounding: float = 8.0) -> Any:
    """Intersect two shapes with an edge rounded over `rounding` mm."""
    blend = np.maximum(rounding - np.abs(a - b), 0)
    return np.maximum(a, b) + blend * blend / (4 * rounding)


def coverage(distance: Any, width: float) -> Any:
    """How much of a voxel of `width` mm, whose centre lies at `distance`, a shape fills."""
    return np.clip(0.5 - distance / width, 0, 1)


@dataclass(frozen=True, eq=False)
class Tubes:
    """Round cones between pairs of points: `start`, `end` (n, 3) in LPS mm; `r0`, `r1` (n,) radii at these ends."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    r0: NDArray[np.float64]
    r1: NDArray[np.float64]

    @classmethod
    def chain(cls, points: list[tuple[float, float, float]], radii: list[float]) -> Tubes:
        """Make tubes through `points` with the radius `radii[i]` at point i."""
        p, r = np.array(points, float), np.array(radii, float)
        return cls(p[:-1], p[1:], r[:-1], r[1:])

    @classmethod
    def join(cls, *parts: Tubes) -> Tubes:
        """Gather tubes into one set."""
        return cls(
            np.concatenate([p.start for p in parts]),
            np.concatenate([p.end for p in parts]),
            np.concatenate([p.r0 for p in parts]),
            np.concatenate([p.r1 for p in parts]),
        )

    def widened(self, by: float) -> Tubes:
        """Return the same tubes with radii changed by `by` mm."""
        return Tubes(self.start, self.end, self.r0 + by, self.r1 + by)

    def distance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of `(m, 3)` points to each tube, `(m, n)` mm."""
        along = self.end - self.start
        offset = points[:, None] - self.start
        t = np.clip((offset * along).sum(-1) / ((along**2).sum(-1) + _TINY), 0, 1)
        away: NDArray[np.float64] = np.linalg.norm(offset - t[..., None] * along, axis=-1)
        away -= self.r0 + t * (self.r1 - self.r0)
        return away


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image being painted: `hu` (z, y, x) at the LPS coordinates `z`, `y`, `x` of its voxel centres.

    `width`: the voxel's size in mm for soft edges (the cube root of its volume).
    """

    hu: Floats
    z: Floats
    y: Floats
    x: Floats
    width: float

    def window(self, low: Any, high: Any) -> Canvas | None:
        """Return the part between LPS corners `low` and `high` (x, y, z) as a view; None where it is empty."""
        spans = []
        for axis, lo, hi in zip((self.z, self.y, self.x), low[::-1], high[::-1], strict=True):
            first, last = np.searchsorted(axis, (lo - self.width, hi + self.width))
            if first == last:
                return None
            spans.append(slice(int(first), int(last)))
        z, y, x = spans
        return Canvas(self.hu[z, y, x], self.z[z], self.y[y], self.x[x], self.width)

    def blend(self, share: Any, value: Any) -> None:
        """Mix `value` in by `share` (0..1)."""
        self.hu[...] += share * (value - self.hu)

    def paint(self, tubes: Tubes, value: float) -> None:
        """Paint every tube with `value` HU."""
        reach = np.maximum(tubes.r0, tubes.r1)[:, None]
        low, high = np.minimum(tubes.start, tubes.end) - reach, np.maximum(tubes.start, tubes.end) + reach
        for i in range(len(reach)):
            part = self.window(low[i], high[i])
            if part is not None:
                part.blend(coverage(_tube(part, tubes, i), self.width), np.float32(value))


def _tube(part: Canvas, tubes: Tubes, i: int) -> Floats:
    """Return the distance of every voxel of `part` to tube i."""
    a = tubes.start[i]
    along = tubes.end[i] - a
    square = float(along @ along) + _TINY
    x, y, z = (axis.astype(np.float32) - np.float32(o) for axis, o in zip((part.x, part.y, part.z), a, strict=True))
    dot = (x * along[0])[None, None, :] + (y * along[1])[None, :, None] + (z * along[2])[:, None, None]
    far = (x * x)[None, None, :] + (y * y)[None, :, None] + (z * z)[:, None, None]
    t = np.clip(dot / square, 0, 1)
    away = np.sqrt(np.maximum(far - t * (2 * dot - square * t), 0))
    result: Floats = (away - (tubes.r0[i] + t * (tubes.r1[i] - tubes.r0[i]))).astype(np.float32)
    return result

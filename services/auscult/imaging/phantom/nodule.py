"""A lung nodule as an analytic shape, and what is true of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.imaging.phantom.shapes import Canvas, Floats, Tubes
from auscult.imaging.phantom.thorax import Thorax

KINDS = ("solid", "part_solid", "nonsolid")
_CORE = 0.6
"""Diameter of the solid core of a part-solid nodule as a share of the whole."""
_FINE = 3
"""Samples per voxel and axis with which the nodule's partial volume is rendered."""


@dataclass(frozen=True, slots=True)
class NoduleTruth:
    """What is known of the nodule by construction. Spicules are not part of the measured shape."""

    diameter_mm: float
    """Longest diameter on an axial plane."""
    perpendicular_mm: float
    """Longest chord perpendicular to it on the same plane."""
    volume_mm3: float
    type: str
    """`solid`, `part_solid` or `nonsolid`."""
    side: str
    """The patient's `left` or `right` lung."""
    upper_lobe: bool
    centre: tuple[float, float, float]
    """LPS, mm."""
    spiculated: bool
    juxtapleural: bool

    @property
    def mean_diameter_mm(self) -> float:
        """Mean of longest and perpendicular diameter, as Fleischner 2017 measures."""
        return (self.diameter_mm + self.perpendicular_mm) / 2


@dataclass(frozen=True, eq=False)
class Nodule:
    """An ellipsoid with lobules, cut at the pleura of `thorax`.

    `axes`: semi-axes in mm along the rows of `frame` (unit vectors in LPS). Lobule i swells the surface by the share
    `swell[i]` about the unit direction `lobules[i]`.
    """

    thorax: Thorax
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    frame: NDArray[np.float64]
    lobules: NDArray[np.float64]
    swell: NDArray[np.float64]
    kind: str
    hu: float
    core_hu: float
    spicules: Tubes | None

    @classmethod
    def draw(cls, rng: np.random.Generator, thorax: Thorax, kind: str, *, spiculated: bool) -> Nodule:
        """Draw a shape of about 1 mm radius at the origin; `sized` gives it its diameter."""
        frame, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        lobules = rng.normal(size=(5, 3))
        lobules /= np.linalg.norm(lobules, axis=1, keepdims=True)
        spicules = _spicules(rng) if spiculated else None
        hu = rng.uniform(15, 60) if kind == "solid" else rng.uniform(-680, -520)
        return cls(
            thorax=thorax,
            centre=np.zeros(3),
            axes=np.array((1.0, rng.uniform(0.8, 1.0), rng.uniform(0.75, 1.0))),
            frame=frame,
            lobules=lobules,
            swell=rng.uniform(0, 0.12, 5),
            kind=kind,
            hu=float(hu),
            core_hu=float(rng.uniform(0, 50)),
            spicules=spicules,
        )

    def placed(self, centre: NDArray[np.float64]) -> Nodule:
        """Return the nodule moved to `centre`."""
        return replace(self, centre=centre)

    def sized(self, diameter: float) -> Nodule:
        """Return the nodule with that longest axial diameter, in mm, before it is cut at the pleura."""
        return self.scaled(diameter / _diameters(replace(self, centre=np.zeros(3)), cut=False)[0])

    def scaled(self, factor: float) -> Nodule:
        """Return the nodule with all its lengths multiplied; how thick its spicules are stays."""
        spicules = self.spicules
        if spicules is not None:
            spicules = Tubes(spicules.start * factor, spicules.end * factor, spicules.r0, spicules.r1)
        return replace(self, axes=self.axes * factor, spicules=spicules)

    @property
    def reach(self) -> float:
        """A radius that no point of the nodule (without spicules) exceeds, mm."""
        return float(self.axes.max() * (1 + self.swell.sum()))

    def distance(self, x: Any, y: Any, z: Any, *, cut: bool = True) -> Any:
        """Return a function of LPS position that is negative inside, about mm outside."""
        u, v, w = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        square = u * u + v * v + w * w
        stretched: Any = 0.0
        for row, axis in zip(self.frame, self.axes, strict=True):
            stretched = stretched + ((u * row[0] + v * row[1] + w * row[2]) / axis) ** 2
        radius = np.sqrt(square) + 1e-6
        bulge: Any = 1.0
        for way, swell in zip(self.lobules, self.swell, strict=True):
            cosine = (u * way[0] + v * way[1] + w * way[2]) / radius
            bulge = bulge + swell * np.exp(4 * (cosine - 1))
        distance = radius - bulge * radius / (np.sqrt(stretched) + 1e-6 / self.axes.max())
        return np.maximum(distance, self.thorax.lung(x, y, z)) if cut else distance

    def truth(self, *, side: str, upper_lobe: bool, juxtapleural: bool) -> NoduleTruth:
        """Measure the shape."""
        longest, perpendicular = _diameters(self, cut=True)
        return NoduleTruth(
            diameter_mm=longest,
            perpendicular_mm=perpendicular,
            volume_mm3=_volume(self),
            type=self.kind,
            side=side,
            upper_lobe=upper_lobe,
            centre=(float(self.centre[0]), float(self.centre[1]), float(self.centre[2])),
            spiculated=self.spicules is not None,
            juxtapleural=juxtapleural,
        )

    def paint(self, canvas: Canvas) -> None:
        """Paint the nodule. Denser tissue that is already there (vessels, the wall) stays."""
        around = canvas.window(self.centre - self.reach - canvas.width, self.centre + self.reach + canvas.width)
        if around is None:
            return
        distance = self.distance(*_fine(around))
        _raise(around.hu, _share(distance), self.hu)
        if self.kind == "part_solid":
            _raise(around.hu, _share(distance + (1 - _CORE) * float(self.axes.mean())), self.core_hu)
        if self.spicules is not None:
            spikes = Tubes(
                self.spicules.start + self.centre, self.spicules.end + self.centre, self.spicules.r0, self.spicules.r1
            )
            canvas.paint(spikes, self.hu)


def _spicules(rng: np.random.Generator) -> Tubes:
    """Draw thin spikes that leave a nodule of unit radius in all directions."""
    count = int(rng.integers(10, 18))
    ways = rng.normal(size=(count, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    return Tubes(
        ways * 0.6, ways * rng.uniform(1.5, 2.0, count)[:, None], rng.uniform(0.7, 1.0, count), np.full(count, 0.3)
    )


def _fine(canvas: Canvas) -> tuple[Floats, Floats, Floats]:
    """Return coordinates x, y, z of `_FINE` samples per voxel along each axis, ready to broadcast."""
    grids = []
    for axis in (canvas.x, canvas.y, canvas.z):
        step = float(axis[1] - axis[0]) if len(axis) > 1 else canvas.width
        inner = ((np.arange(_FINE) + 0.5) / _FINE - 0.5) * step
        grids.append((axis[:, None] + inner).ravel().astype(np.float32))
    x, y, z = grids
    return x[None, None, :], y[None, :, None], z[:, None, None]


def _share(distance: Floats) -> Floats:
    """Return the share of inside samples per voxel."""
    z, y, x = (n // _FINE for n in distance.shape)
    share: Floats = (distance < 0).reshape(z, _FINE, y, _FINE, x, _FINE).mean(axis=(1, 3, 5), dtype=np.float32)
    return share


def _raise(hu: Floats, share: Floats, value: float) -> None:
    np.maximum(hu, hu + share * (value - hu), out=hu)


def _surface(nodule: Nodule, directions: NDArray[np.float64], *, lift: Any = 0.0, cut: bool) -> NDArray[np.float64]:
    """Return how far the surface lies from the centre (raised by `lift` along z) in each of `(..., 3)` directions."""
    near, far = np.zeros(directions.shape[:-1]), np.full(directions.shape[:-1], nodule.reach * 1.01)
    for _ in range(22):
        middle = (near + far) / 2
        x, y, z = np.moveaxis(nodule.centre + directions * middle[..., None], -1, 0)
        inside = nodule.distance(x, y, z + lift, cut=cut) < 0
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return near


def _diameters(nodule: Nodule, *, cut: bool) -> tuple[float, float]:
    """Return the longest axial diameter and the longest chord perpendicular to it on its plane, mm."""
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    lifts = np.linspace(-0.6, 0.6, 25)[:, None] * nodule.reach
    radius = _surface(nodule, np.broadcast_to(circle, (25, 240, 3)), lift=lifts, cut=cut)
    best, plane, ends = 0.0, np.zeros((1, 2)), (0, 0)
    for points in radius[..., None] * circle[:, :2]:
        apart = np.linalg.norm(points[:, None] - points, axis=-1)
        if apart.max() > best:
            first, second = np.unravel_index(int(apart.argmax()), apart.shape)
            best, plane, ends = float(apart.max()), points, (int(first), int(second))
    along = (plane[ends[1]] - plane[ends[0]]) / best
    turned = (plane - plane[ends[0]]) @ np.array([along, (-along[1], along[0])]).T
    places = np.linspace(0, best, 202)[1:-1]
    chords = []
    for part in (turned[turned[:, 1] >= 0], turned[turned[:, 1] <= 0]):
        order = np.argsort(part[:, 0])
        chords.append(np.interp(places, part[order, 0], part[order, 1]))
    return best, float((chords[0] - chords[1]).max())


def _volume(nodule: Nodule) -> float:
    """Integrate r^3 / 3 over directions spread evenly on the sphere (Fibonacci lattice), mm3."""
    i = np.arange(4000) + 0.5
    z = 1 - 2 * i / 4000
    angle, ring = i * np.pi * (3 - 5**0.5), np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)
    return float(4 * np.pi / 3 * (_surface(nodule, directions, cut=True) ** 3).mean())

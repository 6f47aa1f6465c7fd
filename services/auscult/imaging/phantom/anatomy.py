"""A whole chest by seed: build, vessels, airways and one nodule, rendered on any axis-aligned grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Geometry, Region, RegionSource
from auscult.imaging.phantom.nodule import KINDS, Nodule, NoduleTruth
from auscult.imaging.phantom.shapes import Canvas, Floats, Tubes
from auscult.imaging.phantom.thorax import AIR, APEX, BASE, BLOOD, Thorax
from auscult.imaging.phantom.vessels import grow

AIRWAY_WALL = -50.0
LARGEST_MM = 25.0


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic person's chest. Positions are LPS mm. `truth` and `nodule` are None in a chest without nodule."""

    seed: int
    thorax: Thorax
    vessels: Tubes
    bronchi: Tubes
    nodule: Nodule | None
    truth: NoduleTruth | None

    def grid(self, *, pixels: int = 384, pixel_mm: float = 0.88, slice_mm: float = 1.5) -> Geometry:
        """Return a supine axial grid that shows both lungs and the whole body width."""
        z_low, z_high = (BASE - 4) * self.thorax.scale[2], (APEX + 6) * self.thorax.scale[2]
        half = pixel_mm * (pixels - 1) / 2
        slices = int(np.ceil((z_high - z_low) / slice_mm))
        return box((-half, -half + 10, z_low), (slice_mm, pixel_mm, pixel_mm), (slices, pixels, pixels))

    def render(self, geometry: Geometry) -> Floats:
        """Return HU on `geometry`, `(z, y, x)` float32, without noise or blur. ValueError where it is oblique."""
        if not np.allclose(geometry.axes, _AXES):
            raise ValueError(
                "the phantom renders axial supine grids only: z to the head, y to the back, x to the left"
            )
        z, y, x = (
            (geometry.origin[2 - i] + geometry.spacing[i] * np.arange(n)).astype(np.float32)
            for i, n in enumerate(geometry.shape)
        )
        canvas = Canvas(np.full(geometry.shape, AIR, np.float32), z, y, x, float(np.cbrt(geometry.voxel_volume)))
        self.thorax.render(canvas)
        airways = self.thorax.airways()
        canvas.paint(self.thorax.great_vessels(), BLOOD)
        canvas.paint(self.vessels, BLOOD - 5)
        # The tree first, so that the trachea's lumen is not closed by a branch's wall.
        for tubes, wall in ((self.bronchi, 0.9), (airways, 1.6)):
            canvas.paint(tubes.widened(wall), AIRWAY_WALL)
            canvas.paint(tubes, AIR + 20)
        if self.nodule is not None:
            self.nodule.paint(canvas)
        return canvas.hu

    def region(self, geometry: Geometry) -> Region:
        """Return the nodule's voxels on `geometry`: those whose centre lies inside the analytic shape.

        ValueError where there is no nodule or no voxel centre in it.
        """
        if self.nodule is None:
            raise ValueError("this phantom has no nodule")
        mask = np.zeros(geometry.shape, bool)
        centre, reach = geometry.to_index(self.nodule.centre), self.nodule.reach / geometry.spacing
        spans = [
            slice(max(0, int(np.floor(c - r))), max(0, int(np.ceil(c + r)) + 1))
            for c, r in zip(centre, reach, strict=True)
        ]
        part = mask[spans[0], spans[1], spans[2]]
        index = np.indices(part.shape).reshape(3, -1).T + [s.start for s in spans]
        x, y, z = geometry.to_patient(index).T
        part[...] = (self.nodule.distance(x, y, z) < 0).reshape(part.shape)
        return Region.of(mask, geometry, RegionSource("seg", "Nodule"))


def grown(phantom: Phantom, days: float, doubling_days: float) -> Phantom:
    """Return the same chest `days` later: its nodule's volume has doubled every `doubling_days`, as Schwartz has it.

    A nodule that is cut at the pleura grows by what the pleura leaves: `truth` has the volume that it then has.
    ValueError where there is no nodule, or it would be larger than a phantom's may be.
    """
    if phantom.nodule is None or phantom.truth is None:
        raise ValueError("this phantom has no nodule that could grow")
    factor = 2 ** (days / doubling_days / 3)
    if phantom.truth.diameter_mm * factor > LARGEST_MM:
        raise ValueError(f"the nodule would grow beyond {LARGEST_MM:g} mm; ask for a slower one, or a smaller one")
    nodule = phantom.nodule.scaled(factor)
    truth = nodule.truth(
        side=phantom.truth.side, upper_lobe=phantom.truth.upper_lobe, juxtapleural=phantom.truth.juxtapleural
    )
    return replace(phantom, nodule=nodule, truth=truth)


_AXES = np.array([(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)])


def box(
    origin: tuple[float, float, float], spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> Geometry:
    """Return an axial supine grid: `origin` LPS of the first voxel, `spacing` and `shape` along (z, y, x)."""
    return Geometry(np.array(origin, float), _AXES.copy(), np.array(spacing, float), shape)


def cube(
    centre: NDArray[np.float64] | tuple[float, float, float], side_mm: float, spacing: tuple[float, float, float]
) -> Geometry:
    """Return a small grid of about `side_mm` about an LPS point, to render a part of a phantom quickly."""
    shape = [max(1, round(side_mm / s)) for s in spacing]
    half = np.array([(n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)])[::-1]
    low = np.asarray(centre, float) - half
    return box((float(low[0]), float(low[1]), float(low[2])), spacing, (shape[0], shape[1], shape[2]))


def chest(
    seed: int,
    *,
    with_nodule: bool = True,
    diameter_mm: float | None = None,
    kind: str | None = None,
    side: str | None = None,
    upper_lobe: bool | None = None,
    spiculated: bool | None = None,
    juxtapleural: bool = False,
) -> Phantom:
    """Draw the chest of `seed`; what is not asked for is drawn too. The same arguments give the same chest.

    `diameter_mm` (4 to 25) is the longest axial diameter before a juxtapleural nodule is cut at the pleura.
    ValueError for arguments that no nodule can have.
    """
    if diameter_mm is not None and not 4 <= diameter_mm <= LARGEST_MM:
        raise ValueError(f"a phantom's nodule measures 4 to {LARGEST_MM:g} mm, not {diameter_mm:g}")
    if kind not in (None, *KINDS) or side not in (None, "left", "right"):
        raise ValueError(f"kind is one of {', '.join(KINDS)}; side is left or right")
    rng = np.random.default_rng((seed, 0xC7))
    thorax = Thorax.draw(rng)
    vessels, bronchi = grow(rng, thorax)
    drawn_kind = str(rng.choice(KINDS, p=(0.7, 0.15, 0.15)))
    drawn_side = str(rng.choice(("left", "right")))
    drawn_upper, drawn_spiculated = bool(rng.random() < 0.5), bool(rng.random() < 0.25)
    drawn_size = float(np.exp(rng.uniform(np.log(5), np.log(22))))
    if not with_nodule:
        return Phantom(seed, thorax, vessels, bronchi, None, None)
    kind, side = kind or drawn_kind, side or drawn_side
    upper = drawn_upper if upper_lobe is None else upper_lobe
    spiky = kind != "nonsolid" and (drawn_spiculated if spiculated is None else spiculated)
    # Ground glass of less than 7 mm is not visible in these scans' noise.
    size = diameter_mm or (drawn_size if kind == "solid" else max(drawn_size, 7.0))
    nodule = Nodule.draw(rng, thorax, kind, spiculated=spiky).sized(size)
    place = _place(rng, thorax, vessels, nodule.reach, side, upper=upper, juxtapleural=juxtapleural)
    nodule = nodule.placed(place)
    truth = nodule.truth(side=side, upper_lobe=upper, juxtapleural=juxtapleural)
    return Phantom(seed, thorax, vessels, bronchi, nodule, truth)


def _place(
    rng: np.random.Generator,
    thorax: Thorax,
    vessels: Tubes,
    reach: float,
    side: str,
    *,
    upper: bool,
    juxtapleural: bool,
) -> NDArray[np.float64]:
    """Find a centre in the asked lobe, clear of larger vessels and either clear of the pleura or on it."""
    sign = 1 if side == "left" else -1
    for _ in range(50):
        points = rng.uniform((8, -85, BASE), (122, 85, APEX), (600, 3)) * (sign, 1, 1) * thorax.scale
        depth = -thorax.lung(*points.T)
        if juxtapleural:
            # On the costal pleura, where cutting is simplest to read: away from the mediastinum.
            fits = (depth > 0.3 * reach) & (depth < 0.7 * reach) & (np.abs(points[:, 0]) > 50)
        else:
            fits = (depth > reach + 2) & (depth < 60)
        points = points[fits]
        points = points[[thorax.upper_lobe(*p) == upper for p in points]]
        if not len(points):
            continue
        large = vessels.r0 > 1.2
        clear = vessels.distance(points)[:, large].min(axis=1) > reach + 0.5
        if clear.any():
            place: NDArray[np.float64] = points[clear][0]
            return place
    raise ValueError("no place in that lobe holds a nodule of this size; ask for a smaller one")

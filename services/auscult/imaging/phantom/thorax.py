"""The chest without vessels and nodule: wall, bones, lungs, mediastinum, upper abdomen, CT table.

All of it is a function of position in a canonical chest (apices at z 112 mm, costophrenic angles near z -125 mm,
z 0 at the hila, x to the left, y to the back), stretched by each phantom's own `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from auscult.imaging.phantom.shapes import Canvas, Floats, Tubes, both, coverage, ellipse, ellipsoid

AIR, TABLE_SHELL, TABLE_FOAM = -1000.0, -150.0, -880.0
SKIN, FAT, MUSCLE, MEDIASTINUM, BLOOD, ORGAN = 20.0, -105.0, 52.0, -85.0, 45.0, 55.0
CORTEX, MARROW, SPONGIOSA, DISC, CORD = 800.0, 320.0, 190.0, 85.0, 30.0
LUNG = -860.0
APEX, BASE = 112.0, -128.0


@dataclass(frozen=True)
class Thorax:
    """One person's build. `scale` stretches the canonical chest along x, y, z."""

    scale: tuple[float, float, float]
    fat: float
    """Thickness of subcutaneous fat, mm."""
    heart: float
    """Size of the heart, 1 the canonical."""
    domes: tuple[float, float]
    """Height of the right and left diaphragm, mm above the canonical."""
    rib_phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Thorax:
        """Draw a build."""
        sx, sy, sz = rng.uniform((0.93, 0.93, 0.95), (1.04, 1.04, 1.03))
        return cls(
            scale=(float(sx), float(sy), float(sz)),
            fat=float(rng.uniform(6, 14)),
            heart=float(rng.uniform(0.9, 1.08)),
            domes=(float(rng.uniform(-4, 6)), float(rng.uniform(-6, 2))),
            rib_phase=float(rng.uniform(0, 25)),
        )

    def canonical(self, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """Map LPS mm to the canonical chest."""
        return x / self.scale[0], y / self.scale[1], z / self.scale[2]

    def lung(self, x: Any, y: Any, z: Any) -> Any:
        """Return the distance to the lungs, in about mm, at LPS positions."""
        return self._lung(*self.canonical(x, y, z))

    def upper_lobe(self, x: float, y: float, z: float) -> bool:
        """Whether a position in the lungs belongs to an upper lobe (the lingula is part of the left one)."""
        x, y, z = self.canonical(x, y, z)
        return z > _oblique(y) and (x > 0 or z > _HORIZONTAL)

    def render(self, canvas: Canvas) -> None:
        """Paint onto a canvas of air."""
        x, y = (axis.astype(np.float32) for axis in (canvas.x / self.scale[0], canvas.y / self.scale[1]))
        wall = self._wall(x[None, :], y[:, None], canvas.width)
        inner_x = slice(*np.searchsorted(x, (-145, 145)))
        inner_y = slice(*np.searchsorted(y, (-112, 122)))
        for hu, z in zip(canvas.hu, canvas.z, strict=True):
            hu[...] = wall
            self._inside(
                hu[inner_y, inner_x], x[None, inner_x], y[inner_y, None], float(z) / self.scale[2], canvas.width
            )

    def great_vessels(self) -> Tubes:
        """Return aorta, superior vena cava, pulmonary trunk and main pulmonary arteries, in LPS mm."""
        chains = (
            Tubes.chain(
                [
                    (4, -22, -25),
                    (-6, -18, 20),
                    (-2, -4, 40),
                    (10, 18, 48),
                    (18, 38, 44),
                    (20, 50, 30),
                    (18, 50, -150),
                ],
                [15, 15, 14, 13, 12.5, 12, 11],
            ),
            Tubes.chain([(-20, -12, 95), (-22, -8, 45), (-20, -8, -20)], [8, 9, 10]),
            Tubes.chain([(14, -30, -25), (12, -10, 12), (34, 8, 14)], [13, 12, 9]),
            Tubes.chain([(12, -10, 12), (-14, 4, 10), (-34, 8, 8)], [11, 10, 9]),
            Tubes.chain([(22, 0, -12), (36, 12, -6)], [9, 7]),
            Tubes.chain([(-8, 0, -14), (-34, 12, -10)], [9, 7]),
            Tubes.chain([(-3, 34, 130), (6, 38, 0), (8, 36, -120)], [7, 7, 8]),
        )
        return self._placed(Tubes.join(*chains))

    def airways(self) -> Tubes:
        """Return the lumen of trachea and main bronchi, in LPS mm."""
        trachea = Tubes.chain([(0, 26, 140), (0, 20, 30)], [8.5, 8.5])
        right = Tubes.chain([(0, 20, 30), (-36, 18, 6)], [7.5, 6])
        left = Tubes.chain([(0, 20, 30), (36, 20, 2)], [6.5, 5.5])
        return self._placed(Tubes.join(trachea, right, left))

    def _placed(self, tubes: Tubes) -> Tubes:
        scale = np.array(self.scale)
        return Tubes(tubes.start * scale, tubes.end * scale, tubes.r0, tubes.r1)

    def _wall(self, x: Any, y: Any, width: float) -> Floats:
        """Return the part that is the same on every slice: table, skin, fat, muscle."""
        hu = np.full(np.broadcast_shapes(x.shape, y.shape), AIR, np.float32)
        table = np.maximum(np.abs(y - 140 + 6e-4 * x * x) - 11, np.abs(x) - 190)
        body = ellipse(x, y - 3, 156, 119)
        breast = 8 * np.exp(-((x / 70) ** 2) - ((y + 110) / 40) ** 2) + 6 * np.exp(-(((np.abs(x) - 120) / 40) ** 2))
        for distance, value in (
            (table, TABLE_SHELL),
            (table + 2, TABLE_FOAM),
            (body, SKIN),
            (body + 2, FAT),
            (body + self.fat + breast, MUSCLE),
        ):
            hu += coverage(distance, width) * (value - hu)
        return hu

    def _inside(self, hu: Floats, x: Any, y: Any, z: float, width: float) -> None:
        """Paint one slice of what lies within the chest wall. `hu` is a view; coordinates are canonical."""

        def paint(distance: Any, value: Any) -> None:
            np.add(hu, coverage(distance, width) * (value - hu), out=hu)

        cage = _cage(x, y, z)
        height, _ = self._dome(x, y)
        paint(np.maximum(cage.distance + 5, np.abs(x) - 38), MEDIASTINUM)
        paint(np.maximum(cage.distance + 4, z - height + 2.5), ORGAN)
        paint(ellipsoid(x - 55, y + 28, z + 116, (26, 24, 16)), AIR + 80)
        rib = self._ribs(x, y, z, cage)
        paint(rib, CORTEX)
        paint(rib + 2, MARROW)
        sternum = np.maximum(ellipse(x, y - cage.front + 6, 19, 6.5), abs(z + 5) - 85)
        paint(sternum, CORTEX * 0.6)
        paint(sternum + 2, SPONGIOSA)
        self._spine(paint, x, y, z)
        paint(self._heart(x, y, z), BLOOD)
        if BASE < z < APEX + 2:
            lung = self._lung(x, y, z)
            # The dependent lung is denser: about 0.25 HU per mm from front to back in a supine patient.
            parenchyma = LUNG + 0.25 * y + 180 * self._fissures(x, y, z)
            paint(lung, parenchyma)

    def _spine(self, paint: Any, x: Any, y: Any, z: float) -> None:
        level = abs((z + 300) % 23 - 11.5)
        body = ellipse(x, y - 67, 17, 14)
        arch = ellipse(x, y - 89, 17 if level < 6 else 14, 11)
        process = np.minimum(ellipse(x, y - 105, 4, 11), ellipse(x, y - 92, 30 if level < 5 else 8, 5))
        if level < 9:
            paint(body, CORTEX * 0.6)
            paint(body + 2, SPONGIOSA)
        else:
            paint(body, DISC)
        paint(np.minimum(arch, process), CORTEX * 0.6)
        paint(np.minimum(arch, process) + 2.5, MARROW)
        paint(ellipse(x, y - 89, 9, 8), CORD)

    def _ribs(self, x: Any, y: Any, z: float, cage: _Cage) -> Any:
        """Return the distance to all ribs at once: they repeat every 25 mm and fall by 48 mm from back to front."""
        forward = np.clip((cage.back - y) / (cage.back - cage.front), 0, 1)
        level = (z + 48 * forward + self.rib_phase) % 25 - 12.5
        rib = np.sqrt((cage.distance - 5.5) ** 2 + (level * 0.62) ** 2) - 4
        return np.maximum(rib, 24 - np.abs(x) - 60 * (y > 0))

    def _heart(self, x: Any, y: Any, z: Any) -> Any:
        u, v, w = x - 20, y + 26, z + 50
        return ellipsoid(
            0.85 * u - 0.53 * v, 0.53 * u + 0.85 * v, w, (54 * self.heart, 41 * self.heart, 46 * self.heart)
        )

    def _dome(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return the height of the diaphragm and the cosine of its slope."""
        left = x > 0
        top = np.where(left, -72 + self.domes[1], -67 + self.domes[0])
        u, v = (np.abs(x) - 62) / 60, (y + 8) / 78
        fall = np.minimum(u * u + v * v, 1.6)
        return top - 46 * fall, 1 / np.sqrt(1 + (92 * u / 60) ** 2 + (92 * v / 78) ** 2)

    def _lung(self, x: Any, y: Any, z: Any) -> Any:
        cage = _cage(x, y, z)
        side = np.abs(x)
        height, slope = self._dome(x, y)
        u, v = (side - 40) / 40, (y - 32) / 44
        cap = (z - APEX + 14 * (u * u + v * v)) * 0.8
        hilum = 12 * np.exp(-(((z - 12) / 42) ** 2)) + 6 * np.clip((z - 60) / 50, 0, 1)
        middle = np.where(x > 0, 21, 14) + hilum + 4 * np.sin(y / 21 + z / 27) - side
        spine = -ellipse(x, y - 72, 25, 23)
        aorta = 14.5 - np.sqrt((x - 19) ** 2 + (y - 50) ** 2) - np.maximum(z - 36, 0)
        lung = both(both(cage.distance + 1.5, (height - z) * slope), both(cap, middle))
        lung = both(lung, both(spine, aorta), 4)
        return both(lung, -4 - self._heart(x, y, z), 5)

    def _fissures(self, x: Any, y: Any, z: float) -> Any:
        """Return the share of a voxel that the fissures fill: sheets about 1 mm thick."""
        oblique = np.abs(z - _oblique(y)) * 0.72
        horizontal = np.where((x < 0) & (z > _oblique(y)), abs(z - _HORIZONTAL), 9)
        return np.clip(1.2 - np.minimum(oblique, horizontal), 0, 1)


_HORIZONTAL = -4.0


def _oblique(y: Any) -> Any:
    """Height of the oblique fissure: from the back at T4 down to the front of the diaphragm."""
    return 0.97 * y - 12


class _Cage(NamedTuple):
    """The distance to the inside of the rib cage, and where its front and back lie (y)."""

    distance: Any
    front: Any
    back: Any


def _cage(x: Any, y: Any, z: Any) -> _Cage:
    up = np.clip((z + 20) / 135, 0, 1.1)
    half_width, half_depth, centre = 122 - 60 * up**2.2, 84 - 42 * up**2, 2 + 28 * up**2
    return _Cage(ellipse(x, y - centre, half_width, half_depth), centre - half_depth, centre + half_depth)

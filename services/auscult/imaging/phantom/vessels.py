"""Branching trees in the lungs: arteries with their bronchi, and veins, tapering to the pleura."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from auscult.imaging.phantom.shapes import Tubes
from auscult.imaging.phantom.thorax import Thorax

_GENERATIONS = 7
_CHOICES = 8
"""Directions tried for each branch; the one that stays deepest in the lung and leads outwards is taken."""
_MARGIN = 2.5
"""Branches end at least this far from the pleura, mm."""


def grow(rng: np.random.Generator, thorax: Thorax) -> tuple[Tubes, Tubes]:
    """Return vessels (arteries and veins) and the lumens of the bronchi that go with the arteries."""
    vessels, bronchi = [], []
    for side in (-1, 1):
        for hilum, radius in (((34.0 * side, 8.0, 10.0), 4.6), ((34.0 * side, 14.0, -10.0), 4.2)):
            tree = _tree(rng, thorax, np.array(hilum) * thorax.scale, radius, side)
            vessels.append(tree)
            if hilum[2] > 0:
                bronchi.append(_beside(tree))
    return Tubes.join(*vessels), Tubes.join(*bronchi)


def _tree(rng: np.random.Generator, thorax: Thorax, hilum: NDArray[np.float64], radius: float, side: int) -> Tubes:
    """Grow one tree, a generation at a time; daughters share the mother's section as r^3 (Murray's law)."""
    lobes = np.array([(0.5, -0.3, 1.0), (0.8, -0.7, 0.25), (0.9, 0.5, 0.3), (0.8, 0.3, -0.7), (0.6, 0.6, -0.9)])
    direction = _unit(lobes * (side, 1, 1) + rng.normal(0, 0.12, lobes.shape))
    start = np.repeat(hilum[None], len(lobes), axis=0)
    r0 = np.full(len(lobes), radius) * rng.uniform(0.8, 1.0, len(lobes))
    length = 28.0
    parts: list[Tubes] = []
    for _ in range(_GENERATIONS):
        reach = length * rng.uniform(0.7, 1.3, len(start))
        end = start + direction * reach[:, None]
        # The first branches leave the mediastinum; later ones must stay in the lung.
        kept = np.ones(len(start), bool) if not parts else _depth(thorax, end) > _MARGIN
        start, end, direction, r0 = start[kept], end[kept], direction[kept], r0[kept]
        share = rng.uniform(0.3, 0.7, len(start))
        daughters = np.concatenate([r0 * share ** (1 / 3), r0 * (1 - share) ** (1 / 3)])
        parts.append(Tubes(start, end, r0, np.maximum(r0 * 0.85, 0.4)))
        direction = _fork(rng, thorax, (end, direction), hilum, length)
        start, r0 = np.tile(end, (2, 1)), np.maximum(daughters * 0.88, 0.45)
        length *= 0.84
    return Tubes.join(*parts)


def _fork(
    rng: np.random.Generator,
    thorax: Thorax,
    branches: tuple[NDArray[np.float64], NDArray[np.float64]],
    hilum: NDArray[np.float64],
    length: float,
) -> NDArray[np.float64]:
    """Return the directions of both daughters of each branch (end, direction), `(2 n, 3)`, to opposite sides."""
    end, direction = branches
    shape = (len(end), _CHOICES)
    across = np.cross(direction[:, None], rng.normal(size=(*shape, 3)))
    across = _unit(across)
    ways = []
    for sign in (-1, 1):
        angle = np.radians(rng.uniform(18, 52, shape))[..., None]
        way = direction[:, None] * np.cos(angle) + sign * across * np.sin(angle)
        tip = end[:, None] + way * length
        depth = _depth(thorax, tip)
        score = np.minimum(depth, 9) + 0.35 * np.linalg.norm(tip - hilum, axis=-1)
        best = np.argmax(score + 6 * rng.random(shape), axis=1)
        ways.append(way[np.arange(len(end)), best])
    return np.concatenate(ways)


def _depth(thorax: Thorax, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """How deep in the lung points lie, mm; negative outside."""
    depth: NDArray[np.float64] = -thorax.lung(points[..., 0], points[..., 1], points[..., 2])
    return depth


def _beside(tree: Tubes) -> Tubes:
    """Return bronchi next to the larger arteries, a little narrower than they are."""
    wide = tree.r0 > 1.3
    start, end, r0, r1 = tree.start[wide], tree.end[wide], tree.r0[wide], tree.r1[wide]
    across = _unit(np.cross(end - start, (0.2, 1.0, 0.1)))
    return Tubes(
        start + across * (1.75 * r0 + 1)[:, None], end + across * (1.75 * r1 + 1)[:, None], r0 * 0.7, r1 * 0.7
    )


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = vectors / (np.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-9)
    return scaled

"""Train `lung_nodule_seg` on phantoms and write its weights.

    python scripts/train_nodule_segmentation.py            (needs the dependency group `train`)

About 45 minutes on two cores. Seeds start at FIRST_SEED, so that they never meet those of the evaluation.
The same machine and libraries give the same weights; other ones give slightly different rounding.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from auscult.imaging.phantom.anatomy import Phantom, chest, cube
from auscult.imaging.phantom.scanner import KERNELS, Protocol, scan
from auscult.models.segmentation.architecture import HU_HIGH, HU_LOW, LAYERS, SPACING, network

FIRST_SEED = 100_000
CHESTS = 700
POSITIVES, NEGATIVES = 2, 2
"""Cubes per chest: about the nodule, and about structures that look like one."""
CUBE_MM, CUBE, PATCH = 76.0, 60, 48
"""The rendered cube in mm and in voxels of the network's grid, and the patch that a step sees of it."""
BATCH, SEED = 4, 7
HARDNESS = 0.6
"""Share of negative cubes drawn by how wrong the network last was on them; the rest is drawn evenly."""
Array = Any


@dataclass(frozen=True)
class Phase:
    """Steps, the highest learning rate, and the weight of the cross-entropy beside the Dice loss."""

    steps: int
    rate: float
    entropy: float


PHASES = (Phase(1400, 2e-3, 30.0), Phase(600, 1e-3, 200.0))
"""First nodules are learned, then what is none: the Dice loss does not feel a small false finding."""


@dataclass(frozen=True)
class Cubes:
    """Examples on the network's grid: HU int16 and the nodule's share of each voxel, 0..255, `(n, z, y, x)`."""

    hu: NDArray[np.int16]
    share: NDArray[np.uint8]


def render(chests: int) -> tuple[Cubes, Cubes]:
    """Return positive and negative cubes."""
    groups: tuple[list[Any], list[Any]] = ([], [])
    began = time.time()
    for seed in range(FIRST_SEED, FIRST_SEED + chests):
        rng = np.random.default_rng(seed)
        phantom = chest(seed, juxtapleural=bool(rng.random() < 0.15))
        for _ in range(POSITIVES):
            centre = np.array(phantom.truth.centre) + rng.uniform(-12, 12, 3)
            groups[0].append(example(rng, phantom, centre))
        for centre in suspects(rng, phantom):
            groups[1].append(example(rng, phantom, centre))
        if seed % 50 == 0:
            print(f"{seed - FIRST_SEED} chests, {time.time() - began:.0f} s", flush=True)
    positive, negative = (Cubes(*(np.stack(part) for part in zip(*group, strict=True))) for group in groups)
    return positive, negative


def example(rng: np.random.Generator, phantom: Phantom, centre: NDArray[np.float64]) -> tuple[Array, Array]:
    """Scan a cube about `centre` with a protocol drawn anew, and bring it to the network's grid."""
    pixel = rng.uniform(0.6, 0.95)
    grid = cube(centre, CUBE_MM, (float(rng.choice((1.0, 1.25, 1.5, 2.0, 2.5))), pixel, pixel))
    protocol = Protocol(str(rng.choice(sorted(KERNELS))), float(rng.uniform(8, 38)))
    hu = scan(phantom, grid, protocol).hu
    try:
        region = phantom.region(grid)
        mask = np.zeros(grid.shape, np.float32)
        mask[region.box] = region.mask
        share = 255 * to_network(mask, grid.spacing)
    except ValueError:
        # The nodule lies outside this cube.
        share = np.zeros((CUBE,) * 3)
    image = to_network(np.clip(hu, HU_LOW, HU_HIGH).astype(np.float32), grid.spacing)
    return np.rint(image).astype(np.int16), np.rint(share).astype(np.uint8)


def to_network(image: Array, spacing: Array) -> Array:
    """Resample as the graph does: linearly, the edges of both grids coinciding; cut to `CUBE` voxels."""
    factors = [round(n * s / SPACING) / n for n, s in zip(image.shape, spacing, strict=True)]
    return zoom(image, factors, order=1, mode="nearest", grid_mode=True)[:CUBE, :CUBE, :CUBE]


def suspects(rng: np.random.Generator, phantom: Phantom) -> list[NDArray[np.float64]]:
    """Return places in or near the lungs: one at a large vessel, the others anywhere, walls and domes included."""
    vessels = phantom.vessels
    large = np.flatnonzero(vessels.r0 > 1.5)
    places = [vessels.end[rng.choice(large)] + rng.uniform(-15, 15, 3)]
    while len(places) < NEGATIVES:
        place = rng.uniform((-120, -85, -130), (120, 85, 115))
        if phantom.thorax.lung(*place) < 6:
            places.append(place)
    return places


class Jax:
    """The network's operations in JAX, (batch, z, y, x, channel)."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._weights = weights

    def convolve(self, layer: str, x: Array) -> Array:
        """Convolve as one matrix product over gathered neighbours, which is many times faster than XLA's on CPUs."""
        kernel, bias = self._weights[f"{layer}.kernel"], self._weights[f"{layer}.bias"]
        size = kernel.shape[-1]
        around = jnp.pad(x, [(0, 0), *[(size // 2, size // 2)] * 3, (0, 0)])
        z, y, w = x.shape[1:4]
        steps = [(i, j, k) for i in range(size) for j in range(size) for k in range(size)]
        gathered = jnp.concatenate([around[:, i : i + z, j : j + y, k : k + w] for i, j, k in steps], axis=-1)
        return gathered @ kernel.transpose(2, 3, 4, 1, 0).reshape(-1, kernel.shape[0]) + bias

    def rectify(self, x: Array) -> Array:
        """Set what is negative to 0."""
        return jax.nn.relu(x)

    def pool(self, x: Array) -> Array:
        """Take the maximum of blocks."""
        n, z, y, w, c = x.shape
        return x.reshape(n, z // 2, 2, y // 2, 2, w // 2, 2, c).max(axis=(2, 4, 6))

    def enlarge(self, x: Array) -> Array:
        """Repeat each voxel."""
        n, z, y, w, c = x.shape
        wide = jnp.broadcast_to(x[:, :, None, :, None, :, None], (n, z, 2, y, 2, w, 2, c))
        return wide.reshape(n, 2 * z, 2 * y, 2 * w, c)

    def join(self, a: Array, b: Array) -> Array:
        """Concatenate channels."""
        return jnp.concatenate([a, b], axis=-1)

    def fold(self, x: Array) -> Array:
        """Move blocks to channels."""
        n, z, y, w, _ = x.shape
        split = x.reshape(n, z // 2, 2, y // 2, 2, w // 2, 2)
        return split.transpose(0, 1, 3, 5, 2, 4, 6).reshape(n, z // 2, y // 2, w // 2, 8)

    def unfold(self, x: Array) -> Array:
        """Move channels to blocks."""
        n, z, y, w, _ = x.shape
        split = x.reshape(n, z, y, w, 2, 2, 2).transpose(0, 1, 4, 2, 5, 3, 6)
        return split.reshape(n, 2 * z, 2 * y, 2 * w, 1)


def initial(rng: np.random.Generator) -> dict[str, Array]:
    """Draw weights (He et al., arXiv:1502.01852); the output starts at a probability of about 1 %."""
    weights = {}
    for layer, (size, inwards, outwards) in LAYERS.items():
        deviation = np.sqrt(2 / (inwards * size**3))
        weights[f"{layer}.kernel"] = jnp.array(
            rng.normal(0, deviation, (outwards, inwards, size, size, size)), jnp.float32
        )
        weights[f"{layer}.bias"] = jnp.full(outwards, -4.6 if layer == "out" else 0.0, jnp.float32)
    return weights


def losses(weights: dict[str, Array], image: Array, share: Array, weight: float) -> tuple[Array, Array]:
    """Return the loss of a batch, and each patch's own cross-entropy: soft Dice of the batch plus cross-entropy."""
    logits = network(Jax(weights), image[..., None])[..., 0]
    entropy = jnp.maximum(logits, 0) - logits * share + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    each = entropy.mean(axis=(1, 2, 3))
    probability = jax.nn.sigmoid(logits)
    overlap, total = (probability * share).sum(axis=(1, 2, 3)), (probability + share).sum(axis=(1, 2, 3))
    holds = share.sum(axis=(1, 2, 3)) > 1
    dice = jnp.where(holds, 1 - (2 * overlap + 1) / (total + 1), 0).sum() / jnp.maximum(holds.sum(), 1)
    return dice + weight * each.mean(), each


@partial(jax.jit, static_argnames="phase")
def step(
    weights: Array, moments: Array, image: Array, share: Array, count: Array, *, phase: Phase
) -> tuple[Array, ...]:
    """Take one step of Adam (arXiv:1412.6980); the rate warms up, then falls as a cosine."""
    (loss, each), gradient = jax.value_and_grad(losses, has_aux=True)(weights, image, share, phase.entropy)
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1, 3 / norm), gradient)
    rate = phase.rate * jnp.minimum(count / 100, 0.5 * (1 + jnp.cos(jnp.pi * count / phase.steps)) + 1e-3)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, moments[1], gradient)

    def moved(w: Array, m: Array, v: Array) -> Array:
        return w - rate * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.99**count)) + 1e-8)

    return jax.tree.map(moved, weights, first, second), (first, second), loss, each


def patch(rng: np.random.Generator, cubes: Cubes, index: int) -> tuple[Array, Array]:
    """Cut a patch at random, mirror it at random, and shift its HU a little as scanners do."""
    z, y, x = (slice(int(low), int(low) + PATCH) for low in rng.integers(0, CUBE - PATCH + 1, 3))
    flips = tuple(slice(None, None, int(way)) for way in rng.choice((-1, 1), 3))
    hu = cubes.hu[index, z, y, x][flips] + rng.normal(0, 12)
    middle, half = (HU_HIGH + HU_LOW) / 2, (HU_HIGH - HU_LOW) / 2
    return ((np.clip(hu, HU_LOW, HU_HIGH) - middle) / half).astype(np.float32), cubes.share[index, z, y, x][
        flips
    ] / 255


def train(
    rng: np.random.Generator, weights: dict[str, Array], cubes: tuple[Cubes, Cubes], phase: Phase
) -> dict[str, Array]:
    """Return `weights` trained further on positive and negative cubes, rounded as the file holds them."""
    positive, negative = cubes
    moments = (jax.tree.map(jnp.zeros_like, weights),) * 2
    wrong = np.full(len(negative.hu), 0.05)
    began, recent = time.time(), []
    for count in range(1, phase.steps + 1):
        chance = HARDNESS * wrong / wrong.sum() + (1 - HARDNESS) / len(wrong)
        with_nodule = rng.integers(0, len(positive.hu), BATCH // 2)
        without = rng.choice(len(wrong), BATCH // 2, p=chance)
        parts = [patch(rng, positive, i) for i in with_nodule] + [patch(rng, negative, i) for i in without]
        image, share = (np.stack(part).astype(np.float32) for part in zip(*parts, strict=True))
        weights, moments, loss, each = step(weights, moments, image, share, count, phase=phase)
        wrong[without] = np.asarray(each)[BATCH // 2 :] + 1e-5
        recent.append(float(loss))
        if count % 100 == 0:
            print(f"step {count}: loss {np.mean(recent):.4f}, {time.time() - began:.0f} s", flush=True)
            recent.clear()
    return {name: jnp.array(value.astype(jnp.float16), jnp.float32) for name, value in weights.items()}


def main() -> None:
    """Render, train, write."""
    home = Path(__file__).parents[1] / "services" / "auscult" / "models" / "segmentation"
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--chests", type=int, default=CHESTS)
    options.add_argument("--out", type=Path, default=home / "weights.npz")
    chosen = options.parse_args()
    cubes = render(chosen.chests)
    rng = np.random.default_rng(SEED)
    weights = initial(rng)
    for phase in PHASES:
        weights = train(rng, weights, cubes, phase)
    np.savez_compressed(chosen.out, **{name: np.asarray(value, np.float16) for name, value in weights.items()})
    print(f"{chosen.out}: {chosen.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

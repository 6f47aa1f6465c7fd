"""A region's shape: what needs its mesh and its voxels' places.

The same formulas as in the graph `radiomics_region`; tests hold both to each other and to the published values.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.radiomics.mesh import mesh

Real = NDArray[np.float64]
TERMS = 20
"""Of the series for an ellipsoid's surface: the IBSI's reference values come from so many."""
NOTHING = 1e-12
"""An axis' share of the greatest variance below which it is 0: above rounding, and below what one voxel can be."""


def shape(mask: NDArray[np.bool_], spacing: Real) -> dict[str, float]:
    """Return the features of the mesh and of the voxels; `mask`: (z, y, x), not empty; `spacing`: (3,) mm."""
    volume, area = mesh(mask, spacing)
    major, minor, least = (4 * math.sqrt(each) for each in _variances(mask, spacing))
    number = int(np.count_nonzero(mask))
    box = spacing * [np.ptp(np.flatnonzero(_along(mask, axis))) + 1 for axis in range(3)]
    box_area = 2 * sum(a * b for a, b in combinations(box.tolist(), 2))
    ellipsoid = major * minor * least * (math.pi / 6)
    # The sphere of the same volume has this surface, and all of compactness and sphericity compare with it.
    sphere = (volume * volume * (36 * math.pi)) ** (1 / 3)
    return {
        "volume": volume,
        "vol_approx": number * float(spacing.prod()),
        "area_mesh": area,
        "av": area / volume,
        "comp_1": volume / (area**1.5 * math.sqrt(math.pi)),
        "comp_2": (sphere / area) ** 3,
        "sph_dispr": area / sphere,
        "sphericity": sphere / area,
        "asphericity": area / sphere - 1,
        "pca_maj_axis": major,
        "pca_min_axis": minor,
        "pca_least_axis": least,
        "pca_elongation": minor / major if major > 0 else math.nan,
        "pca_flatness": least / major if major > 0 else math.nan,
        "vol_dens_aabb": volume / float(box.prod()),
        "area_dens_aabb": area / box_area,
        "vol_dens_aee": volume / ellipsoid if ellipsoid > 0 else math.nan,
        "area_dens_aee": area / _surface(major / 2, minor / 2, least / 2) if minor > 0 else math.nan,
    }


def centre_of_mass_shift(
    image: Real, morphology: NDArray[np.bool_], intensity: NDArray[np.bool_], spacing: Real
) -> float:
    """Return how far the centre of the intensities is from that of the region, mm; NaN where they add up to 0."""
    weighed = np.where(intensity, image, 0)
    weight = float(weighed.sum())
    if weight == 0:
        return math.nan
    number = np.count_nonzero(morphology)
    shift = [
        float((_along(weighed, axis) / weight - _along(morphology, axis) / number) @ np.arange(many))
        for axis, many in enumerate(morphology.shape)
    ]
    return float(np.linalg.norm(np.array(shift) * spacing))


def _along(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return the sums over the other two axes."""
    sums: NDArray[Any] = array.sum(axis=tuple(other for other in range(3) if other != axis))
    return sums


def _variances(mask: NDArray[np.bool_], spacing: Real) -> list[float]:
    """Return the variances along the region's principal axes, the largest first, mm2.

    The consensus values are those of the sample covariance, over n - 1; that of one voxel is zero.
    """
    places = [np.arange(n) for n in mask.shape]
    planes = {axes: mask.sum(axis=3 - sum(axes)) for axes in combinations(range(3), 2)}
    lines = [planes[0, 1].sum(axis=1), planes[0, 1].sum(axis=0), planes[0, 2].sum(axis=0)]
    number = int(lines[0].sum())
    total = [int(line @ place) for line, place in zip(lines, places, strict=True)]
    moments = np.zeros((3, 3))
    for axis in range(3):
        moments[axis, axis] = number * int(lines[axis] @ places[axis] ** 2) - total[axis] ** 2
    for (one, other), plane in planes.items():
        # In whole numbers, and so exact.
        both = number * int(places[one] @ plane @ places[other]) - total[one] * total[other]
        moments[one, other] = moments[other, one] = both
    covariance = moments * np.outer(spacing, spacing) / (number * max(number - 1, 1))
    found = np.linalg.eigvalsh(covariance)[::-1]
    return [float(each) if each > NOTHING * found[0] else 0.0 for each in found]


def _surface(first: float, second: float, third: float) -> float:
    """Return the area of an ellipsoid with these semi-axes, from long to short, by Legendre polynomials (IBSI RDD2).

    As `models.radiomics.ellipsoid`, which has the derivation.
    """
    alpha, beta = 1 - (second / first) ** 2, 1 - (third / first) ** 2
    middle, product = (alpha + beta) / 2, alpha * beta
    before, polynomial = 1.0, middle
    total = before - polynomial / 3
    for n in range(1, TERMS):
        before, polynomial = polynomial, ((2 * n + 1) * middle * polynomial - n * product * before) / (n + 1)
        total += polynomial / (1 - 4 * (n + 1) ** 2)
    return first * second * total * 4 * math.pi

"""Zones: connected voxels of one grey level (IBSI 9SAK), and how far each is from the region's edge (IBSI VMDZ)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

IN_PLANE = ((0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1))
ACROSS = tuple((1, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
"""Half of a voxel's 26 neighbours; the others are their opposites."""


def find_zones(levels: NDArray[np.integer], region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the zones in each slice and those in the volume, [zones, 4]: slice, level, size, distance in voxels.

    `levels`: (z, y, x) from 1, 0 for voxels that do not count. `region`: (z, y, x), whose edge the distance is from;
    the IBSI takes the morphological mask, before resegmentation. The slice is 0 for zones of the volume.
    """
    inside = levels > 0
    number = np.full(levels.shape, -1, np.int32)
    count = int(np.count_nonzero(inside))
    number[inside] = np.arange(count, dtype=np.int32)
    in_plane = list(_edges(levels, number, IN_PLANE))
    across = list(_edges(levels, number, ACROSS))
    flat = np.stack([_taxicab(plane) for plane in region])
    slices = np.nonzero(inside)[0]
    return (
        _listed(_label(in_plane, count), slices, levels[inside], flat[inside]),
        _listed(_label(in_plane + across, count), np.zeros_like(slices), levels[inside], _taxicab(region)[inside]),
    )


def _edges(
    levels: NDArray[np.integer], number: NDArray[np.int32], steps: tuple[tuple[int, int, int], ...]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield for each step the numbers of the voxels of one level that are a step apart."""
    for step in steps:
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, levels.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, levels.shape, strict=True))
        same = (levels[here] == levels[there]) & (levels[here] > 0)
        yield number[here][same], number[there][same]


def _label(edges: list[tuple[NDArray[np.int32], NDArray[np.int32]]], count: int) -> NDArray[np.int32]:
    one, other = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(one.size, np.int8), (one, other)), shape=(count, count))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def _taxicab(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return each voxel's distance to the outside in steps to a face's neighbour; 1 for those at the edge."""
    distance: NDArray[np.int32] = distance_transform_cdt(np.pad(mask, 1), metric="taxicab")
    return distance[(slice(1, -1),) * mask.ndim]


def _listed(
    labels: NDArray[np.int32], slices: NDArray[np.int64], levels: NDArray[np.integer], distance: NDArray[np.int32]
) -> NDArray[np.int32]:
    if not labels.size:
        return np.zeros((0, 4), np.int32)
    count = int(labels.max()) + 1
    first = np.zeros(count, np.int64)
    first[labels] = np.arange(labels.size)
    least = np.full(count, np.iinfo(np.int32).max, np.int32)
    np.minimum.at(least, labels, distance)
    listed: NDArray[np.int32] = np.stack([slices[first], levels[first], np.bincount(labels), least], axis=1).astype(
        np.int32
    )
    return listed

"""Texture matrices of a region, counted and summed up to what features are made of: with numpy alone.

`native.count` does the same faster where the package was built with a compiler.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from auscult.radiomics.zones import ACROSS, IN_PLANE, find_zones

Real = NDArray[np.float64]
DIRECTIONS = (*IN_PLANE, *ACROSS)
MOST = 27
"""Dependences of a voxel: itself and its 26 neighbours."""
CELLS = 1 << 21
"""Up to which all that could occur have a counter; beyond, what occurs is sorted."""
COUNTED = (
    "entries", "low_j", "high_j", "low_i", "high_i", "low_j_low_i", "low_j_high_i", "high_j_low_i", "high_j_high_i",
    "uniform_i", "uniform_j", "sum_i", "sum_j", "information", "energy", "voxels",
)  # fmt: skip
"""What is summed up of a matrix of level i and a length, size ... j with entries n: n, n / j2, n j2, n / i2, n i2,
the four products of those, the squares of its sums over j and over i, n i, n j, n log2 n, n2; and its voxels."""


class Sums(NamedTuple):
    """Sums of all matrices of a region with S slices and G levels.

    Directional ones, [5 S + 19, .]: four directions of each slice, their sum for each slice, the four over all
    slices, their sum, 13 in the volume, their sum. Undirected ones, [S + 2, .]: each slice, their sum, the volume.
    """

    marginal: Real
    """Of co-occurrence, both ways, [., G]: pairs of each level i."""
    added: Real
    """[., 2 G - 1]: pairs of each i + j, from 2."""
    apart: Real
    """[., G]: pairs of each |i - j|, from 0."""
    joint: Real
    """[., 3]: the greatest entry n, and the sums of n log2 n and of n2."""
    runs: Real
    """[., COUNTED], as the next."""
    sizes: Real
    distances: Real
    tones: Real
    """[., 2, G]: voxels of each level with a neighbour, and their differences."""
    dependences: Real
    """[., COUNTED]."""

    @classmethod
    def zeros(cls, slices: int, grey: int) -> Sums:
        """Make room for a region's."""
        ways, flat = 5 * slices + 19, slices + 2
        shapes = (
            (ways, grey), (ways, 2 * grey - 1), (ways, grey), (ways, 3), (ways, len(COUNTED)), (flat, len(COUNTED)),
            (flat, len(COUNTED)), (flat, 2, grey), (flat, len(COUNTED)),
        )  # fmt: skip
        return cls(*(np.zeros(shape) for shape in shapes))


class _Region(NamedTuple):
    """Voxels that count, [n]: their places in a `flat` box with a border of 0, levels from 0, and slices."""

    flat: NDArray[np.int32]
    inside: NDArray[np.int64]
    level: NDArray[np.int64]
    slice_of: NDArray[np.int64]
    plane: int
    slices: int
    grey: int


class _Entries(NamedTuple):
    """What occurs: `matrix`, level `i` from 0, quality or level `j`, and how often, `n`, [entries] each."""

    matrix: NDArray[np.int64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    n: Real

    @classmethod
    def of(
        cls, matrix: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64], n: Real | None = None
    ) -> _Entries:
        """Gather what is of one matrix, i and j, each `n` times, or once."""
        rows, columns = (int(each.max(initial=0)) + 1 for each in (i, j))
        key, number = _tally((matrix * rows + i) * columns + j, n)
        rest, column = np.divmod(key, columns)
        return cls(*np.divmod(rest, rows), column, number)

    def merged(self, matrix: NDArray[np.int64]) -> _Entries:
        """Return the sums of those matrices that are now one."""
        return self.of(matrix, self.i, self.j, self.n)


def count(levels: NDArray[np.integer], region: NDArray[np.bool_]) -> Sums:
    """Count and sum up `levels`, (z, y, x), a box around the region: from 1, 0 outside, with at least one voxel.

    `region`: (z, y, x), whose edge zones are measured from. The box gets a slice before and one behind.
    """
    padded = np.pad(levels.astype(np.int32), 1)
    flat, (slices, height, width) = padded.ravel(), padded.shape
    inside = np.flatnonzero(flat)
    plane = height * width
    box = _Region(flat, inside, flat[inside].astype(np.int64) - 1, inside // plane, plane, slices, int(levels.max()))
    offsets = [z * plane + y * width + x for z, y, x in DIRECTIONS]
    voxels = np.bincount(box.slice_of, minlength=slices).astype(np.float64)
    directed = np.concatenate(
        [np.repeat(voxels, 4), voxels * 4, np.full(4, voxels.sum()), [voxels.sum() * 4], np.full(13, voxels.sum())]
    )
    directed = np.append(directed, voxels.sum() * 13)
    sums = Sums.zeros(slices, box.grey)
    _sum_pairs(_ways(*_pairs(box, offsets), slices), sums)
    _sum_up(_ways(*_runs(box, offsets), slices), directed, box.grey, sums.runs)
    listed = [each.astype(np.int64) for each in find_zones(levels, region)]
    # The box has a slice more in front.
    listed[0][:, 0] += 1
    total = np.append(voxels, [voxels.sum()] * 2)
    for quality, to in ((2, sums.sizes), (3, sums.distances)):
        in_plane, volume = (_Entries.of(each[:, 0], each[:, 1] - 1, each[:, quality]) for each in listed)
        _sum_up(_flat_ways(in_plane, volume, slices), total, box.grey, to)
    _neighbours(box, offsets, total, sums)
    return sums


def _tally(keys: NDArray[np.int64], weights: Real | None) -> tuple[NDArray[np.int64], Real]:
    """Return each key that occurs, and how often."""
    if int(keys.max(initial=0)) < CELLS:
        dense = np.bincount(keys, weights)
        found = np.flatnonzero(dense)
        return found, dense[found].astype(np.float64)
    found, place = np.unique(keys, return_inverse=True)
    return found, np.bincount(place, weights).astype(np.float64)


def _ways(in_plane: _Entries, across: _Entries, slices: int) -> list[tuple[int, _Entries]]:
    """Bring matrices of four directions in each slice, 4 slice + direction, and of nine across, together.

    With the number of each one's first row in the sums.
    """
    flat = 5 * slices
    along = in_plane.merged(in_plane.matrix % 4)
    volume = _Entries(
        *(np.concatenate(both) for both in zip(along, across._replace(matrix=across.matrix + 4), strict=True))
    )
    return [
        (0, in_plane),
        (4 * slices, in_plane.merged(in_plane.matrix // 4)),
        (flat, along),
        (flat + 4, along.merged(along.matrix * 0)),
        (flat + 5, volume),
        (flat + 18, volume.merged(volume.matrix * 0)),
    ]


def _flat_ways(in_plane: _Entries, volume: _Entries, slices: int) -> list[tuple[int, _Entries]]:
    return [(0, in_plane), (slices, in_plane.merged(in_plane.matrix * 0)), (slices + 1, volume)]


def _pairs(box: _Region, offsets: list[int]) -> tuple[_Entries, _Entries]:
    """Return the pairs of levels i <= j of neighbours: in the four directions of each slice, and in the others."""
    found: list[list[_Entries]] = [[], []]
    for number, offset in enumerate(offsets):
        behind = box.flat[box.inside - offset].astype(np.int64) - 1
        both = behind >= 0
        one, other = box.level[both], behind[both]
        flat = number < len(IN_PLANE)
        matrix = box.slice_of[both] * 4 + number if flat else np.full(one.size, number - 4)
        found[not flat].append(_Entries.of(matrix, np.minimum(one, other), np.maximum(one, other)))
    in_plane, across = (_joined(each) for each in found)
    return in_plane, across


def _runs(box: _Region, offsets: list[int]) -> tuple[_Entries, _Entries]:
    """Return the runs' levels and lengths: in the four directions of each slice, and in the others.

    Read in steps of an offset, the flat box has each run's voxels one after the other, and the border between runs.
    """
    found: list[list[_Entries]] = [[], []]
    for number, offset in enumerate(offsets):
        rows = -(-box.flat.size // offset)
        stepped = np.zeros(rows * offset, np.int32)
        stepped[: box.flat.size] = box.flat
        stepped = stepped.reshape(rows, offset).T.ravel()
        first = np.flatnonzero(stepped[1:] != stepped[:-1]) + 1
        level, length = stepped[first].astype(np.int64) - 1, np.diff(first, append=stepped.size)
        run = level >= 0
        flat = number < len(IN_PLANE)
        place = first[run] % rows * offset + first[run] // rows
        matrix = place // box.plane * 4 + number if flat else np.full(place.size, number - 4)
        found[not flat].append(_Entries.of(matrix, level[run], length[run]))
    in_plane, across = (_joined(each) for each in found)
    return in_plane, across


def _joined(parts: list[_Entries]) -> _Entries:
    return _Entries(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _neighbours(box: _Region, offsets: list[int], voxels: Real, sums: Sums) -> None:
    """Count tone differences and dependences: by eight neighbours in a slice, and by 26."""
    many, total, same = (np.zeros(box.inside.size, np.int32) for _ in range(3))
    own = box.flat[box.inside]
    dependences = []
    for number, offset in enumerate(offsets, start=1):
        for other in (box.flat[box.inside + offset], box.flat[box.inside - offset]):
            many += other > 0
            total += other
            same += other == own
        if number not in {len(IN_PLANE), len(offsets)}:
            continue
        flat = number == len(IN_PLANE)
        matrix = box.slice_of if flat else np.zeros_like(box.slice_of)
        dependences.append(_Entries.of(matrix, box.level, same.astype(np.int64) + 1))
        near = many > 0
        place = (matrix * box.grey + box.level)[near]
        differences = np.abs(own[near] - total[near] / many[near])
        rows = slice(0, box.slices) if flat else slice(box.slices + 1, None)
        for kind, weight in enumerate((None, differences)):
            cells = sums.tones[rows, kind]
            cells[:] = np.bincount(place, weight, minlength=cells.size).reshape(cells.shape)
    sums.tones[box.slices] = sums.tones[: box.slices].sum(axis=0)
    in_plane, volume = dependences
    _sum_up(_flat_ways(in_plane, volume, box.slices), voxels, box.grey, sums.dependences)


def _sum_pairs(ways: list[tuple[int, _Entries]], sums: Sums) -> None:
    """Sum up pairs counted one way, i <= j, as if each were counted both ways."""
    for row, (matrix, i, j, counted) in ways:
        m = matrix + row
        off = i != j
        n = np.where(off, counted, 2 * counted)
        twice = 2 * counted
        for to, place, weight in (
            (sums.marginal, i, n),
            (sums.marginal, j, np.where(off, n, 0)),
            (sums.added, i + j, twice),
            (sums.apart, j - i, twice),
        ):
            np.add(to, np.bincount(m * to.shape[1] + place, weight, to.size).reshape(to.shape), out=to)
        np.maximum.at(sums.joint[:, 0], m, n)
        sums.joint[:, 1] += np.bincount(m, twice * np.log2(n), len(sums.joint))
        sums.joint[:, 2] += np.bincount(m, twice * n, len(sums.joint))


def _sum_up(ways: list[tuple[int, _Entries]], voxels: Real, grey: int, to: Real) -> None:
    """Sum up matrices of level i and quality j as COUNTED says."""
    rows = len(to)
    entries = _joined([each._replace(matrix=each.matrix + row) for row, each in ways])
    m, i, j, n = entries.matrix, entries.i + 1.0, entries.j.astype(np.float64), entries.n
    high_i, high_j = i * i, j * j

    def summed(of: Real) -> Real:
        return np.bincount(m, of, rows).astype(np.float64, copy=False)

    of_level = np.bincount(m * grey + entries.i, n, rows * grey).reshape(rows, grey)
    columns = int(entries.j.max(initial=0)) + 1
    quality, of_quality = _tally(m * columns + entries.j, n)
    to[:] = np.stack(
        [
            *(summed(each) for each in (n, n / high_j, n * high_j, n / high_i, n * high_i)),
            *(summed(each) for each in (n / high_j / high_i, n / high_j * high_i, n * high_j / high_i)),
            summed(n * high_j * high_i),
            (of_level * of_level).sum(axis=1),
            np.bincount(quality // columns, of_quality * of_quality, rows),
            *(summed(each) for each in (n * i, n * j, n * np.log2(n), n * n)),
            voxels,
        ],
        axis=1,
    )

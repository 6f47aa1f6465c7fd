"""The mesh between inside and outside of a region, by marching cubes (Lorensen & Cline 1987) at 0.5 of a binary mask.

Every vertex lies half-way between a voxel's centre and a neighbour's, so a cell of eight centres is one of 256 cases.
Volume and area are sums over cells: count the cases and weigh them by the tables made here. On a face with
two inside corners across from each other they are joined, as the IBSI joins voxels that share an edge, and in both
cells that share the face, so that the mesh has no holes (Montani et al. 1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from auscult.radiomics import native

CASES = 256
CORNERS = np.array(list(product((0, 1), repeat=3)))
"""(z, y, x) of the cell's corners; corner n is bit n of a case."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Per case, for spacing 1.

    `normals`: [256, T, 3], the cross product of two sides of each triangle. `volumes`: [256], what is inside.
    """

    normals: NDArray[np.float64]
    volumes: NDArray[np.float64]


def mesh(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[float, float]:
    """Return volume and area of the mesh around `mask`, (z, y, x); `spacing`: (3,) mm."""
    padded = np.pad(mask, 1).view(np.uint8)
    counts = native.cases(padded) if native.available() else count_cases(padded)
    tables = make_tables()
    edge = spacing.prod()
    # A normal along z is the product of two sides along y and x, so it scales with their spacings.
    areas = np.linalg.norm(tables.normals * (edge / spacing), axis=2).sum(axis=1) / 2
    return float(counts @ tables.volumes * edge), float(counts @ areas)


def count_cases(padded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the cells of each case, [256], of a mask of 0 and 1."""
    depth, height, width = padded.shape
    case = np.zeros((depth - 1, height - 1, width - 1), np.uint8)
    for bit, (z, y, x) in enumerate(CORNERS.tolist()):
        case |= padded[z : depth - 1 + z, y : height - 1 + y, x : width - 1 + x] << np.uint8(bit)
    return np.bincount(case.ravel(), minlength=CASES)


@cache
def make_tables() -> Tables:
    """Triangulate all cases."""
    triangles = [_triangles(case) for case in range(CASES)]
    normals = np.zeros((CASES, max(map(len, triangles)), 3))
    volumes = np.zeros(CASES)
    for case, found in enumerate(triangles):
        for number, (a, b, c) in enumerate(found):
            normals[case, number] = np.cross(b - a, c - a)
        # The triangles, and the face at z = 1, bound what is inside.
        volumes[case] = _through(found) + _share_of_face([bool(case >> corner & 1) for corner in (4, 5, 7, 6)])
    return Tables(normals, volumes)


def _share_of_face(inside: list[bool]) -> float:
    """Return the share of a face that is inside; `inside`: its four corners, in order around it."""
    if sum(inside) == 2 and inside[0] != inside[2]:
        return 0.5
    return (0, 1 / 8, 3 / 4, 7 / 8, 1)[sum(inside)]


def _triangles(case: int) -> list[tuple[NDArray[np.float64], ...]]:
    """Return the triangles' corners, so ordered that their normals point outside."""
    following: dict[frozenset[int], frozenset[int]] = {}
    for face in _faces():
        inside = [bool(case >> corner & 1) for corner in face]
        for n in range(4):
            if inside[n] and not inside[(n + 1) % 4]:
                last = n + 1
                while not inside[(last + 1) % 4]:
                    last += 1
                # Past the outside corners of the face, from where they end to where they begin.
                end = frozenset((face[last % 4], face[(last + 1) % 4]))
                following[end] = frozenset((face[n], face[n + 1 - 4]))
    found: list[tuple[NDArray[np.float64], ...]] = []
    while following:
        start, edge = following.popitem()
        polygon = [start]
        while edge != start:
            polygon.append(edge)
            edge = following.pop(edge)
        points = [CORNERS[list(edge)].mean(axis=0) for edge in polygon]
        fans = [_fan(points[turn:] + points[:turn]) for turn in range(len(points))]
        # A polygon's corners need not lie in a plane; the consensus values ask for the fan of the greatest area.
        found += max(fans, key=lambda fan: round(sum(_area(*triangle) for triangle in fan), 9))
    return found


def _fan(points: list[NDArray[np.float64]]) -> list[tuple[NDArray[np.float64], ...]]:
    return [(points[0], points[n], points[n + 1]) for n in range(1, len(points) - 1)]


def _area(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.cross(b - a, c - a))) / 2


def _through(triangles: list[tuple[NDArray[np.float64], ...]]) -> float:
    """Return what leaves through the triangles of a field that grows by 1 along z: their part in Gauss' theorem."""
    return sum(float((a + b + c)[0]) / 3 * float(np.cross(b - a, c - a)[0]) / 2 for a, b, c in triangles)


def _faces() -> list[list[int]]:
    """Return each face's corners in order around it, counter-clockwise in (z, y, x) as seen from outside."""
    faces = []
    for axis, side in product(range(3), (0, 1)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        around = [(0, 0), (1, 0), (1, 1), (0, 1)] if side else [(0, 0), (0, 1), (1, 1), (1, 0)]
        corners = []
        for one, other in around:
            corner = np.zeros(3, int)
            corner[axis], corner[first], corner[second] = side, one, other
            corners.append(int(corner @ (4, 2, 1)))
        faces.append(corners)
    return faces

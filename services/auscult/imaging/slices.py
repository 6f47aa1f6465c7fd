"""Single-frame slices become a regular grid, or it is said why they do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Geometry
from auscult.imaging.header import VOLUMES, InstanceHeader
from auscult.imaging.marks import UNTANGLING
from auscult.imaging.resampling import Resampling, regular
from auscult.platform.errors import DeadLetter

MIN_SLICES = 3
"""Two slices have one gap, which nothing confirms."""
POSITION_TOLERANCE = 0.1
"""mm by which a slice may lie beside its place on the grid: some systems write positions with one decimal."""
ORIENTATION_TOLERANCE = 1e-3
"""Of direction cosines, which many systems write with few decimals; 0.25 mm at the edge of a 500 mm field."""
SPACING_TOLERANCE = 1e-3
"""mm, of pixel spacing between slices of one series: it is copied, not measured."""

SCOUT = 0.9
"""Cosine between two planes' normals below which a few slices are no part of a stack, but show where it lies."""
WIDEST = 2.0
"""Of the median distance, or of the thickest slice: a gap over which nothing is interpolated."""
GANTRY_TILT, IRREGULAR_SPACING = "gantry-tilt", "irregular-spacing"
RESAMPLABLE = {GANTRY_TILT, IRREGULAR_SPACING}
"""Reasons for which slices make no grid, and could be resampled to one."""

_ORIGINAL = "ORIGINAL"


@dataclass(frozen=True)
class Stack:
    """Slices in the order of axis z, and the grid on which they lie."""

    slices: tuple[InstanceHeader, ...]
    geometry: Geometry
    resampling: Resampling | None = None
    """How they get there, where they do not lie on it."""


def primary_series(headers: Collection[InstanceHeader], modality: str = "") -> list[InstanceHeader]:
    """Return the slices, or frames, of the stack that is computed; empty where the study has none.

    `modality`: CT, MR or PT; by default the first of them that the study has. Several: one on which a structure set
    or segmentation of the study was drawn, before original images (not reformatted ones), before most slices, before
    the thinnest, before the smallest UID.
    """
    drawn_on = {uid for header in headers for uid in header.referenced_series}
    placed: defaultdict[str, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        placed[header.volume_modality] += [plane for plane in header.planes() if plane.is_placed]
    wanted = modality or next((each for each in VOLUMES if placed[each]), "")
    series = _grouped(placed[wanted] if wanted else [], lambda each: each.series_uid)

    def rank(slices: Sequence[InstanceHeader]) -> tuple[bool, bool, int, float, str, int]:
        first = slices[0]
        return (
            first.series_uid not in drawn_on,
            _ORIGINAL not in first.image_type,
            -len(slices),
            first.slice_thickness or np.inf,
            first.series_uid,
            min(each.instance_number or 0 for each in slices),
        )

    return min((part for slices in series for part in separate(slices)), key=rank, default=[])


def separate(slices: Sequence[InstanceHeader]) -> list[list[InstanceHeader]]:
    """Split a series into its stacks: by kernel, echo, component, orientation and grid.

    Slices that lie on each other are told apart by what differs, such as acquisition, phase or b-value. A few slices
    that would make no stack of their own are left out as scouts where they lie across the largest; else they stay
    with it, and `stack` names what is wrong.
    """
    groups = [part for group in _grouped(slices, _kind) for part in _parallel(group)]
    whole = [group for group in groups if len(group) >= MIN_SLICES]
    if not whole:
        return [list(slices)]
    largest = max(whole, key=len)
    few = [each for group in groups if len(group) < MIN_SLICES for each in group]
    largest += [each for each in few if abs(_normal(each) @ _normal(largest[0])) > SCOUT]
    return [part for group in whole for part in _untangled(group)]


def _untangled(group: list[InstanceHeader]) -> list[list[InstanceHeader]]:
    """Split slices that lie on each other by the fewest marks that take them apart; as they are where none do."""
    if not _overlap(group):
        return [group]
    varying = [name for name in UNTANGLING if len({getattr(each.marks, name) for each in group}) > 1]
    for count in range(1, len(varying) + 1):
        for names in combinations(varying, count):
            parts = _grouped(group, attrgetter(*(f"marks.{name}" for name in names)))
            if all(len(part) >= MIN_SLICES and not _overlap(part) for part in parts):
                return parts
    return [group]


def _normal(header: InstanceHeader) -> NDArray[np.float64]:
    turned = np.array(header.orientation, float)
    return np.cross(turned[:3], turned[3:])


def _overlap(group: Sequence[InstanceHeader]) -> bool:
    heights = np.sort(np.array([each.position for each in group]) @ _normal(group[0]))
    return bool((np.diff(heights) <= POSITION_TOLERANCE).any())


def _grouped(
    slices: Sequence[InstanceHeader], key: Callable[[InstanceHeader], Hashable]
) -> list[list[InstanceHeader]]:
    groups: defaultdict[Hashable, list[InstanceHeader]] = defaultdict(list)
    for each in slices:
        groups[key(each)].append(each)
    return list(groups.values())


def _kind(each: InstanceHeader) -> Hashable:
    """Return what all slices of a stack have in common to the letter."""
    marks = each.marks.kernel, each.marks.echo, each.marks.component
    return marks, each.rows, each.columns, each.frame_of_reference_uid


def _parallel(slices: Sequence[InstanceHeader]) -> list[list[InstanceHeader]]:
    """Split slices by orientation and pixel spacing: where they are as near as `stack` takes them, they are one."""
    found: list[list[InstanceHeader]] = []
    for each in slices:
        fitting = next((group for group in found if _alike([group[0], each])), None)
        if fitting is None:
            found.append([each])
        else:
            fitting.append(each)
    return found


def stack(headers: Sequence[InstanceHeader], *, resample: bool = False) -> Stack:
    """Order a series' slices along their normal and return their grid.

    `resample`: whether slices of a tilted gantry, or at uneven distances, may be resampled to a grid. DeadLetter:
    `too-few-slices`, `missing-slices`, `irregular-spacing` (more slices may help); `mixed-geometry`,
    `duplicated-slices`, `gantry-tilt`, `burned-in-annotation` (they do not).
    """
    first = headers[0]
    if any(header.burned_in for header in headers):
        raise DeadLetter(
            "burned-in-annotation", "text is written into the slices' pixels; send the series without annotations"
        )
    rows, columns = _axes(first)
    normal = np.cross(rows, columns)
    if not _alike(headers):
        raise DeadLetter(
            "mixed-geometry",
            "the series' slices differ in orientation, size, pixel spacing or frame of reference; "
            "send each stack as a series of its own",
        )
    positions = np.array([header.position for header in headers])
    heights = (positions - positions[0]) @ normal
    order = np.argsort(heights, kind="stable")
    slices, heights, positions = tuple(headers[i] for i in order), heights[order], positions[order]
    heights -= heights[0]
    even = _even(slices, np.diff(heights))
    spacing = heights[-1] / (len(slices) - 1)
    even &= bool(np.abs(heights - spacing * np.arange(len(slices))).max() <= POSITION_TOLERANCE)
    shifts = (positions - positions[0]) - np.outer(heights, normal)
    tilted = bool(np.abs(shifts).max() > POSITION_TOLERANCE)
    row_spacing, column_spacing = first.pixel_spacing or (0.0, 0.0)
    grid = Geometry(
        origin=positions[0],
        axes=np.array([normal, columns, rows]),
        spacing=np.array([spacing, row_spacing, column_spacing]),
        shape=(len(slices), first.rows, first.columns),
        frame_of_reference_uid=first.frame_of_reference_uid,
    )
    if even and not tilted:
        return Stack(slices, _as_written(grid, first, positions))
    if not resample:
        raise _tilted() if even else _irregular()
    if not even and np.diff(heights).max() > WIDEST * max(np.median(np.diff(heights)), _thickest(slices)):
        raise _irregular()
    return Stack(slices, *regular(positions, heights, grid, tilted=tilted, uneven=not even))


def _as_written(grid: Geometry, first: InstanceHeader, positions: NDArray[np.float64]) -> Geometry:
    """Return the grid by direction cosines and positions as the slices have them, few decimals or many.

    Made orthonormal, cosines of six decimals would move the far corner of a 500 mm field by more than 1e-4 mm from
    where PS3.3, C.7.6.2.1.1 has it.
    """
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    distance = np.linalg.norm(step)
    along_row, along_column = np.array(first.orientation, float).reshape(2, 3)
    return replace(
        grid,
        axes=np.array([step / distance, along_column, along_row]),
        spacing=np.array([distance, *grid.spacing[1:]]),
    )


def _axes(header: InstanceHeader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return orthonormal unit vectors along a row and along a column."""
    along_row, along_column = np.array(header.orientation, float).reshape(2, 3)
    lengths = np.linalg.norm([along_row, along_column], axis=1)
    if np.abs(lengths - 1).max() > ORIENTATION_TOLERANCE or abs(along_row @ along_column) > ORIENTATION_TOLERANCE:
        raise DeadLetter("mixed-geometry", "ImageOrientationPatient does not hold two orthogonal unit vectors")
    along_row = along_row / lengths[0]
    along_column = along_column - (along_row @ along_column) * along_row
    return along_row, along_column / np.linalg.norm(along_column)


def _alike(headers: Sequence[InstanceHeader]) -> bool:
    """Whether all slices could belong to one grid."""
    orientations = np.array([header.orientation for header in headers])
    spacings = np.array([header.pixel_spacing for header in headers])
    return (
        len({(header.rows, header.columns, header.frame_of_reference_uid) for header in headers}) == 1
        and float(np.abs(orientations - orientations[0]).max()) <= ORIENTATION_TOLERANCE
        and float(np.abs(spacings - spacings[0]).max()) <= SPACING_TOLERANCE
    )


def _even(slices: Sequence[InstanceHeader], gaps: NDArray[np.float64]) -> bool:
    """Whether the gaps make a grid; DeadLetter where a slice is missing between others, or is there twice.

    Gaps that are multiples of the smallest are missing slices, unless the slices beside them are as thick: then they
    are a part of the series with slices further apart.
    """
    twice = np.flatnonzero(gaps <= POSITION_TOLERANCE)
    if twice.size:
        raise DeadLetter(
            "duplicated-slices",
            f"{twice.size} slices lie where another does, first {_between(slices, twice[0])}; "
            "send each phase or reconstruction as a series of its own",
        )
    if len(slices) < MIN_SLICES:
        raise DeadLetter("too-few-slices", f"the series has {len(slices)} slices; a volume needs {MIN_SLICES}")
    steps = gaps / gaps.min()
    missing = np.rint(steps).astype(int) - 1
    tolerance = 2 * POSITION_TOLERANCE / gaps.min() * (missing + 1)
    if missing.sum() > len(slices) or (np.abs(steps - missing - 1) > np.minimum(tolerance, 0.25)).any():
        return False
    wide = np.flatnonzero(missing).tolist()
    if all(gaps[i] <= _thickest(slices[i : i + 2]) + POSITION_TOLERANCE for i in wide):
        return not wide
    where = "; ".join(f"{missing[i]} {_between(slices, i)}" for i in wide[:5])
    raise DeadLetter("missing-slices", f"{missing.sum()} slices are missing: {where}; send the whole series")


def _thickest(slices: Sequence[InstanceHeader]) -> float:
    return max(each.slice_thickness or 0.0 for each in slices)


def _tilted() -> DeadLetter:
    return DeadLetter(
        GANTRY_TILT,
        "the slices are shifted against each other, as with a tilted gantry; send a reconstruction without tilt",
    )


def _irregular() -> DeadLetter:
    return DeadLetter(
        IRREGULAR_SPACING,
        "the slices do not lie at equal distances, or most of them are missing; send the whole, evenly spaced series",
    )


def _between(slices: Sequence[InstanceHeader], gap: int) -> str:
    """Name a gap by the instance numbers on both sides of it, or by its place where they do not tell."""
    numbers = [header.instance_number for header in slices]
    if None in numbers or len(set(numbers)) < len(numbers):
        return f"between places {gap + 1} and {gap + 2} along the normal"
    return f"between slices {numbers[gap]} and {numbers[gap + 1]}"

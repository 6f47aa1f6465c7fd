"""Which nodule of an earlier CT is which of the newer one: by where they lie, and never by a guess.

Where both CTs have one frame of reference, positions are compared as they are. Else a position is carried over by its
place in the lungs: the box around the lungs of one CT is mapped on that of the other, axis by axis, which takes up
the table's position, the patient's and how deep the breath was, without a registration. Nodules are paired so that
the distances together are least. A pair is doubtful where another nodule would do nearly as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from auscult.domain.volume import Region, Volume
from auscult.pathways.lung_nodule.lungs import Lungs

WITHIN_FRAME = 15.0
"""mm that a nodule may move within one frame of reference: breath and posture."""
WITHIN_LUNGS = 20.0
"""mm that its place in the lungs may differ, as the box is coarse and lungs do not breathe evenly."""
CLEARLY = 8.0
"""mm by which every other nodule has to be farther away for a pair to be certain."""
LARGEST_FACTOR = 20.0
"""Of the volumes: what differs more is hardly the same nodule."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Maps positions of the earlier CT to the newer one: `(p - earlier) * scale + later`, LPS in mm."""

    how: str
    reach: float
    """mm within which two nodules may be the same."""
    earlier: NDArray[np.float64]
    later: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def between(cls, earlier: tuple[Volume, Lungs | None], later: tuple[Volume, Lungs | None]) -> Placement | None:
        """Return how to map; None where there is no common frame, and not all of the lungs in both."""
        frames = {volume.geometry.frame_of_reference_uid for volume, _ in (earlier, later)}
        if len(frames) == 1 and "" not in frames:
            zero = np.zeros(3)
            return cls("by the common frame of reference", WITHIN_FRAME, zero, zero, np.ones(3))
        then, now = (_box(*each) for each in (earlier, later))
        if then is None or now is None:
            return None
        return cls(
            "by their place in the lungs, without a registration",
            WITHIN_LUNGS,
            then.mean(axis=0),
            now.mean(axis=0),
            (now[1] - now[0]) / (then[1] - then[0]),
        )

    def forward(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map a position of the earlier CT."""
        mapped: NDArray[np.float64] = (position - self.earlier) * self.scale + self.later
        return mapped

    def back(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map a position of the newer CT."""
        mapped: NDArray[np.float64] = (position - self.later) / self.scale + self.earlier
        return mapped


@dataclass(frozen=True, slots=True)
class Match:
    """A pair: the earlier one by its number from 0. `doubt`: why it may be another one; empty where it is clear."""

    earlier: int
    doubt: str = ""


def matched(nodules: Sequence[Region], earlier: Sequence[Region], placement: Placement) -> list[Match | None]:
    """Return for each of `nodules` the one of `earlier` that it was; None where none lies within reach."""
    if not nodules or not earlier:
        return [None] * len(nodules)
    now = np.array([region.centroid for region in nodules])
    then = np.array([placement.forward(region.centroid) for region in earlier])
    apart = np.linalg.norm(now[:, None] - then[None], axis=-1)
    far = 1e6  # a pair beyond reach is never worth it, and the solver wants finite costs
    pairs = zip(*linear_sum_assignment(np.where(apart <= placement.reach, apart, far)), strict=True)
    found: list[Match | None] = [None] * len(nodules)
    for row, column in pairs:
        if apart[row, column] <= placement.reach:
            found[row] = Match(int(column), _doubt(apart, row, column, nodules[row], earlier[column]))
    return found


def _doubt(apart: NDArray[np.float64], row: int, column: int, nodule: Region, was: Region) -> str:
    rivals = np.concatenate([np.delete(apart[row], column), np.delete(apart[:, column], row)])
    if (rivals < apart[row, column] + CLEARLY).any():
        return "another nodule lies nearly as close"
    factor = nodule.volume / was.volume
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        return f"the volumes differ {max(factor, 1 / factor):.0f}-fold"
    return ""


def _box(volume: Volume, lungs: Lungs | None) -> NDArray[np.float64] | None:
    """Return the lungs' box in LPS, (2, 3): its low and its high corner; None where they are cut off."""
    if lungs is None or not lungs.whole:
        return None
    corners = volume.geometry.to_patient([[part.start for part in lungs.box], [part.stop - 1 for part in lungs.box]])
    box: NDArray[np.float64] = np.array([corners.min(axis=0), corners.max(axis=0)])
    box[:, 2] = lungs.bottom, lungs.top
    return box

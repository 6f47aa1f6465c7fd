"""From an image and a mask to the voxels that features are computed from: the IBSI's chain, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auscult.platform.errors import TellClinician
from auscult.radiomics.chain import ORDER, Chain
from auscult.radiomics.peaks import RADIUS
from auscult.radiomics.resample import Box, Grid

MOST_VOXELS = 1 << 25
"""Of a region's box: that of a lung, in voxels of 1 mm. Larger ones would take more memory than one region should."""
MOST_CELLS = 1 << 25
"""Of all co-occurrence matrices together: the square of the levels for four directions of each slice, and 13 more."""
FRACTIONS = 1000
"""Bins of an intensity-volume histogram of intensities that are not whole numbers, as the IBSI advises."""


@dataclass(frozen=True, eq=False)
class Processed:
    """Arrays are (z, y, x) of one shape: the region's box, and around it what local intensity needs.

    `image`: interpolated; `morphology`: the region; `intensity`: its voxels that count; `levels`: from 1, 0 outside;
    `spacing`: (3,) mm; `volume_bins`: first and last level of the intensity-volume histogram and the step between.
    """

    image: NDArray[np.float64]
    morphology: NDArray[np.bool_]
    intensity: NDArray[np.bool_]
    levels: NDArray[np.uint16]
    spacing: NDArray[np.float64]
    volume_bins: tuple[float, float, float]

    @property
    def box(self) -> Box:
        """The region's box in these arrays."""
        return box_of(self.morphology)


def process(image: NDArray[np.number], mask: NDArray[np.bool_], spacing: ArrayLike, chain: Chain) -> Processed:
    """Take the steps of `chain`. `image` and `mask`: (z, y, x) of one shape; `spacing`: (3,) mm along (z, y, x).

    TellClinician: `mask-geometry`, `spacing-invalid`, `region-empty`, `region-too-large`, `intensity-not-finite`,
    `no-intensity-left`, `too-many-levels`.
    """
    mask = np.asarray(mask, np.bool_)
    if image.shape != mask.shape or image.ndim != 3:
        raise TellClinician(
            "mask-geometry", f"the image has shape {image.shape} and the mask {mask.shape}; outline on this image"
        )
    spacing = np.asarray(spacing, np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise TellClinician(
            "spacing-invalid", "the voxel spacing is not three lengths above 0 mm; check the image's geometry"
        )
    if not mask.any():
        raise TellClinician("region-empty", "the mask has no voxel; outline the region")
    grid = Grid.over(image.shape, spacing, chain.spacing)
    part = grid.around(box_of(mask), RADIUS)
    if np.prod([float(each.stop - each.start) for each in part]) > MOST_VOXELS:
        raise TellClinician(
            "region-too-large", f"the region's box has more than {MOST_VOXELS:,} voxels; choose a larger spacing"
        )
    inside = grid.inside(mask, part, ORDER[chain.mask_interpolation], chain.mask_threshold)
    if not inside.any():
        raise TellClinician(
            "region-empty", "no voxel is left of the mask after interpolation; choose a smaller spacing"
        )
    voxels = grid.sample(image, part, ORDER[chain.image_interpolation])
    if not grid.unchanged and (_whole(image[mask]) if chain.rounding is None else chain.rounding):
        voxels = np.floor(voxels + 0.5)
    if not np.isfinite(voxels[inside]).all():
        raise TellClinician("intensity-not-finite", "an intensity of the region is NaN or infinite; mend the image")
    counted = _resegmented(voxels, inside, chain)
    values = voxels[counted]
    discretised = _discretised(values, chain)
    highest, slices = int(discretised.max()), int(inside.any(axis=(1, 2)).sum())
    if highest**2 * (4 * slices + 13) > MOST_CELLS:
        raise TellClinician(
            "too-many-levels", f"discretisation gives {highest} levels, too many for {slices} slices; widen the bins"
        )
    levels = np.zeros(voxels.shape, np.uint16)
    levels[counted] = discretised
    return Processed(voxels, inside, counted, levels, np.array(grid.spacing, np.float64), _volume_bins(values, chain))


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds all voxels of `mask`, (z, y, x), which has one."""
    found = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        found.append(slice(int(used[0]), int(used[-1]) + 1))
    z, y, x = found
    return z, y, x


def _whole(values: NDArray[np.number]) -> bool:
    return bool((values == np.floor(values)).all())


def _resegmented(voxels: NDArray[np.float64], inside: NDArray[np.bool_], chain: Chain) -> NDArray[np.bool_]:
    counted = inside
    if chain.resegmentation is not None:
        low, high = chain.resegmentation
        counted = counted & (voxels >= low) & (voxels <= high)
    if chain.outliers is not None and counted.any():
        values = voxels[counted]
        counted = counted & (np.abs(voxels - values.mean()) <= chain.outliers * values.std())
    if not counted.any():
        raise TellClinician("no-intensity-left", "resegmentation leaves no voxel; widen its range")
    return counted


def _discretised(values: NDArray[np.float64], chain: Chain) -> NDArray[np.int64]:
    """Return the level of each value, from 1."""
    least, greatest = float(values.min()), float(values.max())
    if chain.bin_number is not None:
        most = chain.bin_number
        spread = (greatest - least) or 1.0
        levels = np.minimum(np.floor(most * ((values - least) / spread)) + 1, most)
    else:
        start = least if chain.resegmentation is None else chain.resegmentation[0]
        levels = np.floor((values - start) / float(chain.bin_width or 1)) + 1
    # Beyond any use, and beyond what an integer of the models holds.
    found: NDArray[np.int64] = np.minimum(levels, MOST_CELLS).astype(np.int64)
    return found


def _volume_bins(values: NDArray[np.float64], chain: Chain) -> tuple[float, float, float]:
    least, greatest = float(values.min()), float(values.max())
    number, width = chain.volume_bin_number, chain.volume_bin_width
    if number is None:
        least, greatest = chain.resegmentation or (least, greatest)
        if width is None and _whole(values):
            return least, greatest, 1.0
    if width is None:
        width = ((greatest - least) or 1.0) / (number or FRACTIONS)
    # A bin is told by its middle.
    return least + width / 2, max(greatest - width / 2, least + width / 2), width

"""Images and masks that come as files of their own: numbers on a grid in patient space; whether two grids agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Geometry
from auscult.platform.errors import TellClinician

TOLERANCE = 0.01
"""Of a voxel, by which the corners of two grids that are one may lie apart: files round spacing and direction."""
RIGHT_ANGLE = 1e-3
"""Cosine between two axes up to which they are at right angles."""


@dataclass(frozen=True, eq=False)
class Image:
    """`voxels`: (z, y, x), a file's third, second and first axis. `geometry`: LPS, mm; axes in any direction."""

    voxels: NDArray[np.number]
    geometry: Geometry
    segments: Mapping[str, int] = field(default_factory=dict)
    """What a label map calls its labels: the label by name."""
    unit: str = ""
    """UCUM, of the voxels' values; empty where the file does not say."""
    study_uid: str = ""


def placed(voxels: NDArray[Any], affine: NDArray[np.float64], what: str) -> Image:
    """Make an image from a file's own order.

    `voxels`: (x, y, z), the fastest axis first. `affine`: 3 x 4, from (x, y, z) indices to LPS in mm.
    TellClinician: `spacing-invalid`, `image-sheared`.
    """
    steps, origin = affine[:3, :3], affine[:3, 3]
    spacing = np.linalg.norm(steps, axis=0)
    if not (np.isfinite(affine).all() and (spacing > 0).all()):
        raise TellClinician("spacing-invalid", f"the {what}'s voxel spacing is not above 0 mm; correct its header")
    axes = steps / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > RIGHT_ANGLE:
        raise TellClinician(
            "image-sheared", f"the {what}'s axes are not at right angles; resample it onto such a grid"
        )
    z, y, x = voxels.shape[::-1]
    geometry = Geometry(origin=origin, axes=axes.T[::-1], spacing=spacing[::-1], shape=(z, y, x))
    return Image(voxels.transpose(2, 1, 0), geometry)


def volume_of(voxels: NDArray[Any], what: str) -> NDArray[Any]:
    """Return what has one value in each place of three axes, without the axes that have one place beyond them.

    TellClinician: `image-not-scalar`, `image-not-3d`.
    """
    if voxels.dtype.kind not in "biuf":
        raise TellClinician(
            "image-not-scalar", f"the {what} has colours or vectors; give one with a number per voxel"
        )
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    if voxels.ndim != 3 or not voxels.size:
        raise TellClinician(
            "image-not-3d", f"the {what} has the shape {voxels.shape}, not that of one volume; take one frame of it"
        )
    return voxels


def aligned(mask: Image, image: Image) -> NDArray[Any]:
    """Return the mask's voxels in the order of the image's: turned and flipped where the file keeps them otherwise.

    TellClinician: `mask-geometry`, with what differs. Nothing is resampled.
    """
    ours, theirs = image.geometry, mask.geometry
    start = ours.to_index(theirs.to_patient(np.zeros(3)))
    steps = ours.to_index(theirs.to_patient(np.eye(3))) - start
    turn = np.rint(steps)
    order = np.abs(turn).argmax(axis=1)
    extent = np.array(theirs.shape)
    if sorted(order) != [0, 1, 2] or np.abs((steps - turn) * extent[:, None]).max() > TOLERANCE:
        raise _differs(ours, theirs)
    signs = turn[np.arange(3), order]
    if np.abs(np.abs(turn).sum(axis=1) - 1).max() > 0:
        raise _differs(ours, theirs)
    flipped = np.flip(mask.voxels, tuple(axis for axis in range(3) if signs[axis] < 0))
    voxels: NDArray[Any] = flipped.transpose(np.argsort(order))
    first = start + ((extent - 1)[:, None] * np.minimum(turn, 0)).sum(axis=0)
    if voxels.shape != ours.shape or np.abs(first).max() > TOLERANCE:
        raise _differs(ours, theirs)
    return voxels


def embedded(mask: Image, image: Image) -> Image:
    """Return a mask that covers a part of the image's grid as one that covers all of it; another one as it is.

    3D Slicer crops its segmentations so. Labels beyond the image: TellClinician `mask-geometry`.
    """
    ours, theirs = image.geometry, mask.geometry
    start = ours.to_index(theirs.to_patient(np.zeros(3)))
    steps = ours.to_index(theirs.to_patient(np.eye(3))) - start
    if np.abs((steps - np.eye(3)) * np.array(theirs.shape)[:, None]).max() > TOLERANCE:
        return mask
    first = np.rint(start).astype(int)
    if np.abs(start - first).max() > TOLERANCE:
        return mask
    whole = np.zeros(ours.shape, mask.voxels.dtype)
    low = np.maximum(first, 0)
    high = np.minimum(first + theirs.shape, ours.shape)
    inside = tuple(slice(a, max(a, b)) for a, b in zip(low - first, high - first, strict=True))
    if np.count_nonzero(mask.voxels[inside]) < np.count_nonzero(mask.voxels):
        raise TellClinician(
            "mask-geometry", "a part of the mask lies outside the image; give the image it belongs to"
        )
    whole[tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))] = mask.voxels[inside]
    return Image(whole, ours, mask.segments)


def _differs(ours: Geometry, theirs: Geometry) -> TellClinician:
    """Say in what the mask's grid differs, each with both values."""
    extent = np.array(ours.shape)
    told = []
    if ours.shape != theirs.shape:
        told.append(f"shape (z, y, x): image {ours.shape}, mask {theirs.shape}")
    if np.abs((ours.spacing - theirs.spacing) * extent / ours.spacing).max() > TOLERANCE:
        told.append(f"spacing (z, y, x): image {_shown(ours.spacing)} mm, mask {_shown(theirs.spacing)} mm")
    if np.abs((ours.axes - theirs.axes) * extent[:, None]).max() > TOLERANCE:
        told.append(f"direction: image {_shown(ours.axes)}, mask {_shown(theirs.axes)}")
    if np.abs(ours.origin - theirs.origin).max() > TOLERANCE * ours.spacing.min():
        told.append(f"origin (LPS): image {_shown(ours.origin)} mm, mask {_shown(theirs.origin)} mm")
    return TellClinician(
        "mask-geometry", f"the mask is not on the image's grid; {'; '.join(told)}; resample the mask onto the image"
    )


def _shown(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values.ravel() + 0.0) + ")"

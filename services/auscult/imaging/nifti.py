"""An image and a mask from two NIfTI files, on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.platform.errors import RefuseToStart, TellClinician

TOLERANCE = 1e-3
"""mm between the corners of two grids that are one; and of cosines between axes that are at right angles."""


@dataclass(frozen=True, eq=False)
class Pair:
    """`image` and `mask`: (z, y, x), of the file's third, second and first axis. `spacing`: (3,) mm along them."""

    image: NDArray[np.number]
    mask: NDArray[np.bool_]
    spacing: NDArray[np.float64]


def read_pair(image: Path, mask: Path, label: int | None = None) -> Pair:
    """Read both files. `label`: the value inside the region; None takes all that is above 0.

    TellClinician: `nifti-unreadable`, `mask-geometry`, `image-sheared`. RefuseToStart where nibabel is missing.
    """
    voxels, affine = _read(image)
    labels, grid = _read(mask)
    if voxels.shape != labels.shape:
        raise TellClinician(
            "mask-geometry", f"the image has shape {voxels.shape} and the mask {labels.shape}; outline on this image"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in voxels.shape[::-1]])).reshape(3, -1)
    apart = (affine - grid)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    if not np.abs(apart).max() <= TOLERANCE:
        raise TellClinician(
            "mask-geometry", "the mask lies elsewhere than the image; resample it onto the image's grid"
        )
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not (spacing > 0).all():
        raise TellClinician("spacing-invalid", "the voxel spacing is not above 0 mm; check the image's geometry")
    cosines = (axes / spacing).T @ (axes / spacing)
    if np.abs(cosines - np.eye(3)).max() > TOLERANCE:
        raise TellClinician("image-sheared", "the image's axes are not at right angles; resample it onto such a grid")
    return Pair(voxels, labels > 0 if label is None else labels == label, spacing[::-1])


def _read(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the voxels, (z, y, x), and the affine of the file's own (x, y, z)."""
    try:
        import nibabel  # noqa: PLC0415 - an extra
        from nibabel.filebasedimages import ImageFileError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise RefuseToStart(
            "nifti-missing", "nibabel is not installed; install auscult[nifti] to read NIfTI"
        ) from None
    try:
        file: Any = nibabel.load(path)
        voxels = np.asanyarray(file.dataobj)
        affine = np.asarray(file.affine, np.float64)
    except (ImageFileError, OSError, EOFError, ValueError, AttributeError) as error:
        raise TellClinician("nifti-unreadable", f"{path.name} is no NIfTI image ({type(error).__name__})") from None
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3 or voxels.dtype.kind not in "iuf":
        raise TellClinician("nifti-unreadable", f"{path.name} is no volume of numbers; give one with three axes")
    return voxels.transpose(2, 1, 0), affine

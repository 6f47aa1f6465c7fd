"""NRRD files (.nrrd, or .nhdr with its data beside it) as images in LPS, and the segments that 3D Slicer names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.imaging.grid import Image, placed, volume_of
from auscult.platform.errors import RefuseToStart, TellClinician

TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
}
"""Signs that turn a space of the NRRD specification into LPS."""
SHORT = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
MILLIMETRES = {"mm": 1.0, "um": 0.001, "µm": 0.001, "cm": 10.0, "m": 1000.0, "": 1.0}


def read_nrrd(path: Path, what: str = "image") -> Image:
    """Read a file. `what`: `image` or `mask`, for what is told. Without a `space` its axes are taken for LPS.

    TellClinician: `image-unreadable`, `space-unknown`, `spacing-invalid`; the reasons of `grid.volume_of` and
    `grid.placed`. RefuseToStart where pynrrd is missing.
    """
    try:
        import nrrd  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise RefuseToStart("nrrd-missing", "pynrrd is not installed; install auscult[nifti] to read NRRD") from None
    try:
        voxels, header = nrrd.read(str(path), index_order="F")
        steps, origin = _orientation(header, voxels.ndim)
    except TellClinician:
        raise
    except Exception as error:  # noqa: BLE001 - of a damaged file each layer raises its own types
        raise TellClinician(
            "image-unreadable", f"the {what} is no whole NRRD file ({type(error).__name__}); write it again"
        ) from None
    spatial = [axis for axis, step in enumerate(steps) if np.isfinite(step).all()]
    if len(spatial) != 3:
        raise TellClinician("image-not-3d", f"the {what} has {len(spatial)} axes in space; give one with three")
    others = [axis for axis in range(voxels.ndim) if axis not in spatial]
    voxels = volume_of(voxels.transpose([*spatial, *others]), what)
    image = placed(voxels, np.column_stack([steps[spatial].T, origin]), what)
    return replace(image, segments=_segments(header))


def _orientation(header: Mapping[str, Any], axes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the step along each of the file's axes in LPS mm, (axes, 3), NaN for those not in space; the origin."""
    space = str(header.get("space", "left-posterior-superior")).casefold().removesuffix("-time")
    signs = TO_LPS.get(SHORT.get(space, space))
    if signs is None:
        raise TellClinician("space-unknown", f"the file's space is {space!r}; write it in left-posterior-superior")
    units = {str(unit).casefold() for unit in np.atleast_1d(header.get("space units", ()))[:3]}
    if len(units) > 1 or not units <= MILLIMETRES.keys():
        raise TellClinician("space-unknown", f"the file's space units are {sorted(units)}; write it in mm")
    scale = np.array(signs, float) * MILLIMETRES[units.pop() if units else ""]
    if "space directions" in header:
        rows = [np.full(3, np.nan) if row is None else np.asarray(row, float) for row in header["space directions"]]
        steps = np.array(rows).reshape(axes, -1)
    elif "spacings" in header:
        spacings = np.asarray(header["spacings"], float)
        steps = np.full((axes, 3), np.nan)
        steps[np.isfinite(spacings)] = np.diag(spacings[np.isfinite(spacings)])
    else:
        raise TellClinician(
            "spacing-invalid", "the file does not say its voxels' size; write it with space directions"
        )
    origin = np.asarray(header.get("space origin", np.zeros(3)), float)
    return steps * scale, np.nan_to_num(origin) * scale


def _segments(header: Mapping[str, Any]) -> dict[str, int]:
    """Return 3D Slicer's names of labels, where they share one layer."""
    named = {}
    for key in header:
        if found := re.fullmatch(r"Segment(\d+)_Name", key):
            label = header.get(f"Segment{found[1]}_LabelValue")
            if label is not None:
                named[str(header[key])] = int(label)
    return named

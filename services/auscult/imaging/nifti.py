"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz, .hdr with .img) as images in LPS.

Where a file has both orientations the sform counts, else the qform; where it has neither, the voxel sizes alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.imaging.grid import Image, placed, volume_of
from auscult.platform.errors import RefuseToStart, TellClinician

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's x grows to the patient's right and its y to the front."""
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: Path, what: str = "image") -> Image:
    """Read a file, its values scaled by its slope and intercept. `what`: `image` or `mask`, for what is told.

    TellClinician: `image-unreadable`; the reasons of `grid.volume_of` and `grid.placed`. RefuseToStart where nibabel
    is missing.
    """
    try:
        import nibabel  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise RefuseToStart(
            "nifti-missing", "nibabel is not installed; install auscult[nifti] to read NIfTI"
        ) from None
    try:
        file: Any = nibabel.load(path)
        voxels = _unpacked(file.dataobj) if path.name.casefold().endswith(".gz") else np.asanyarray(file.dataobj)
        factor = MILLIMETRES.get(file.header.get_xyzt_units()[0], 1.0)
        affine = RAS_TO_LPS @ np.asarray(file.affine, np.float64)
        with file.file_map["header" if "header" in file.file_map else "image"].get_prepare_fileobj(mode="rb") as raw:
            sizes = np.asarray(type(file.header).from_fileobj(raw, check=False)["pixdim"][1:4])
    except Exception as error:  # noqa: BLE001 - of a damaged file each layer raises its own types
        raise TellClinician(
            "image-unreadable", f"the {what} is no whole NIfTI file ({type(error).__name__}); write it again"
        ) from None
    # nibabel takes 1 for a size of 0, and a negative one without its sign.
    affine[:3] *= factor if (sizes > 0).all() else np.nan
    return placed(volume_of(voxels, what), affine, what)


def _unpacked(proxy: Any) -> NDArray[Any]:
    """Return what nibabel's `proxy` would, in less time, and checked against the file's checksum."""
    from nibabel.volumeutils import apply_read_scaling  # noqa: PLC0415 - an extra

    try:
        from isal.igzip import decompress  # noqa: PLC0415 - an extra, where it has a wheel
    except ModuleNotFoundError:
        from gzip import decompress  # noqa: PLC0415
    content: bytes = decompress(Path(proxy.file_like).read_bytes())  # type: ignore[no-untyped-call]
    raw: NDArray[Any] = np.ndarray(proxy.shape, proxy.dtype, content, proxy.offset, order="F")
    scaled: NDArray[Any] = apply_read_scaling(raw, np.asanyarray(proxy.slope), np.asanyarray(proxy.inter))
    return scaled

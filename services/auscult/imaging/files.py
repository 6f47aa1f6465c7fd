"""An image and the mask of one region of it, from whatever files they are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.domain.volume import Volume
from auscult.imaging.dicom_series import named, read_segments, read_series
from auscult.imaging.filling import Reading
from auscult.imaging.grid import Image, aligned, embedded
from auscult.imaging.nifti import read_nifti
from auscult.imaging.nrrd import read_nrrd
from auscult.platform.errors import TellClinician

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
NRRD = (".nrrd", ".nhdr")
MOST_TOLD = 50
"""Labels or names that a message lists."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take of the files.

    `label`: of a label map, its value inside the region. `segment`: of a SEG, an RTSTRUCT or a segmentation of
    3D Slicer, its name or number. `series`: of a folder with several DICOM series, number or UID.
    `becquerels`: PET in Bq/ml, not as SUVbw.
    """

    label: int | None = None
    segment: str = ""
    series: str = ""
    becquerels: bool = False


@dataclass(frozen=True, eq=False)
class Pair:
    """`image` and `mask`: (z, y, x); `spacing`: (3,) mm along them. `unit`, `study_uid`: where DICOM says."""

    image: NDArray[np.number]
    mask: NDArray[np.bool_]
    spacing: NDArray[np.float64]
    unit: str = ""
    """UCUM, of the image's values."""
    study_uid: str = ""


def read_pair(image: Path, mask: Path, selection: Selection | None = None) -> Pair:
    """Read an image (NIfTI, NRRD or DICOM series) and its mask (NIfTI, NRRD, SEG or RTSTRUCT), on one grid.

    TellClinician: `path-missing`, `not-an-image`, `mask-needs-dicom`, `mask-labels`, `mask-fractional`,
    `mask-unreadable`, `segment-unknown`, `segment-empty`,
    `region-empty`; the reasons of `grid.aligned` and of each reader.
    """
    selection = selection or Selection()
    for path, what in ((image, "image"), (mask, "mask")):
        if not path.exists():
            raise TellClinician("path-missing", f"there is no such file or folder of the {what}; check the path")
    mask = _only_file(mask) if mask.is_dir() else mask
    read, volume = _image(image, selection, mask if _is_dicom(mask) else None)
    if _is_dicom(mask):
        inside = _segment(mask, volume, selection.segment)
    else:
        labels = _volume(mask, "mask")
        inside = _labelled(aligned(embedded(labels, read) if labels.segments else labels, read), labels, selection)
    return Pair(read.voxels, inside, read.geometry.spacing, read.unit, read.study_uid)


def _image(path: Path, selection: Selection, mask: Path | None) -> tuple[Image, Volume | None]:
    if path.is_dir() or _is_dicom(path):
        return read_series(path, selection.series, reading=Reading(selection.becquerels), mask=mask)
    return _volume(path, "image"), None


def _only_file(folder: Path) -> Path:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_dicom(path)]
    if len(found) != 1:
        raise TellClinician(
            "mask-unreadable", f"the mask's folder has {len(found)} DICOM files; name the SEG or RTSTRUCT itself"
        )
    return found[0]


def _volume(path: Path, what: str) -> Image:
    name = path.name.casefold()
    if name.endswith(NIFTI):
        return read_nifti(path, what)
    if name.endswith(NRRD):
        return read_nrrd(path, what)
    raise TellClinician(
        "not-an-image", f"the {what} is no NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr) or DICOM; convert it to one"
    )


def _is_dicom(path: Path) -> bool:
    """Whether it is a DICOM file (PS3.10, 7.1), whatever its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _segment(path: Path, volume: Volume | None, wanted: str) -> NDArray[np.bool_]:
    if volume is None:
        raise TellClinician(
            "mask-needs-dicom", "a SEG or RTSTRUCT is drawn on a DICOM series; give that series as the image"
        )
    names, regions = read_segments(path, volume)
    chosen = [number for number, name in names.items() if wanted in {name, str(number)}] if wanted else [*names]
    by_number = [number for number in chosen if str(number) == wanted]
    if len(chosen) > 1 and len(by_number) == 1:
        chosen = by_number
    if len(chosen) != 1:
        some = "no segment of that name" if wanted and not chosen else "several segments"
        listed = named([*names][:MOST_TOLD], names)
        raise TellClinician("segment-unknown", f"the mask has {some}; choose one by --segment: {listed}")
    region = regions.get(chosen[0])
    if region is None:
        raise TellClinician("segment-empty", "the segment has no voxel on the image; choose another")
    inside = np.zeros(volume.geometry.shape, np.bool_)
    inside[region.box] = region.mask
    return inside


def _labelled(voxels: NDArray[Any], mask: Image, selection: Selection) -> NDArray[np.bool_]:
    """Return where the wanted label is. Without a wish it must be clear: one label above 0."""
    if voxels.dtype.kind == "f" and not (voxels == np.rint(voxels)).all():
        raise TellClinician(
            "mask-fractional", "the mask has values that are no whole numbers; threshold it, 1 inside and 0 outside"
        )
    label = selection.label
    if selection.segment:
        label = mask.segments.get(selection.segment)
        if label is None:
            listed = ", ".join(list(mask.segments)[:MOST_TOLD]) or "none; choose by --label"
            raise TellClinician("segment-unknown", f"the mask has no segment of that name; its names: {listed}")
    present = _labels(voxels)
    if label is None:
        if len(present) > 1:
            names = {value: name for name, value in mask.segments.items()}
            listed = ", ".join(
                f"{each} ({names[each]})" if each in names else str(each) for each in present[:MOST_TOLD]
            )
            raise TellClinician("mask-labels", f"the mask has several labels; choose one by --label: {listed}")
        label = present[0] if present else 1
    inside: NDArray[np.bool_] = voxels == label
    if not inside.any():
        listed = ", ".join(map(str, present[:MOST_TOLD])) or "none"
        raise TellClinician("region-empty", f"the mask has no voxel of the label {label}; its labels: {listed}")
    return inside


def _labels(voxels: NDArray[Any]) -> list[int]:
    """Return the values that are not 0, ascending; sorts only where there are several."""
    top = voxels.max()
    if top > 0 and np.count_nonzero(voxels == top) == np.count_nonzero(voxels):
        return [int(top)]
    return [int(value) for value in np.unique(voxels) if value]

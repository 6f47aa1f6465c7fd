"""RT Structure Set (PS3.3, A.19) to regions on a volume's grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from auscult.domain.volume import Region, RegionSource, Volume
from auscult.imaging.raster import fill
from auscult.imaging.regions import boxed
from auscult.platform.errors import DeadLetter

SLICE_TOLERANCE = 0.2
"""mm between a contour's points and its slice: both positions may be rounded to one decimal.
A contour between slices is refused, as moving or interpolating it would change what was drawn."""

_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
"""The contour types that enclose something; points and open lines do not."""


def rtstruct_regions(dataset: Dataset, referenced_series: Sequence[str], volume: Volume) -> tuple[Region, ...]:
    """Return each ROI that encloses at least one voxel, under its name.

    A voxel belongs to an ROI when its centre lies inside an odd number of the slice's contours: holes, islands
    and keyholes come out as drawn. DeadLetter: `rtstruct-other-series`, `rtstruct-missing-slices`,
    `rtstruct-between-slices`, `rtstruct-malformed`.
    """
    if referenced_series and volume.series_uid not in referenced_series:
        raise _other_series()
    described = {roi.get("ROINumber"): roi for roi in dataset.get("StructureSetROISequence") or ()}
    found = []
    for drawn in dataset.get("ROIContourSequence") or ():
        roi = described.get(drawn.get("ReferencedROINumber"), Dataset())
        contours = [
            item for item in drawn.get("ContourSequence") or () if item.get("ContourGeometricType") in _CLOSED
        ]
        if not contours:
            continue
        frame = str(roi.get("ReferencedFrameOfReferenceUID") or "")
        if frame and volume.geometry.frame_of_reference_uid not in {"", frame}:
            raise _other_series()
        _check_slices(contours, volume)
        source = RegionSource(
            kind="rtstruct",
            name=str(roi.get("ROIName") or "").strip(),
            sop_instance_uid=str(dataset.get("SOPInstanceUID", "")),
            number=int(drawn.ReferencedROINumber) if "ReferencedROINumber" in drawn else None,
        )
        region = _region([_points(item) for item in contours], volume, source)
        if region is not None:
            found.append(region)
    return tuple(found)


def _region(contours: Iterable[NDArray[np.float64]], volume: Volume, source: RegionSource) -> Region | None:
    """Fill contours, each `(n, 3)` LPS in mm, slice by slice within the box that holds them."""
    on_slice: defaultdict[int, list[NDArray[np.float64]]] = defaultdict(list)
    for points in contours:
        # Rounded, so that the two passes over a keyhole's edge stay one line, also where it runs through centres.
        index = np.round(volume.geometry.to_index(points), 6)
        on_slice[_slice(index[:, 0], volume)].append(index[:, :0:-1])
    drawn = np.concatenate([polygon for polygons in on_slice.values() for polygon in polygons])
    columns, rows = np.array(volume.geometry.shape[:0:-1])
    low = np.clip(np.floor(drawn.min(axis=0)), 0, (columns, rows)).astype(int)
    high = np.clip(np.ceil(drawn.max(axis=0)) + 1, low, (columns, rows)).astype(int)
    first, last = min(on_slice), max(on_slice)
    width, height = high - low
    mask = np.zeros((last - first + 1, height, width), bool)
    for number, polygons in on_slice.items():
        mask[number - first] = fill([polygon - low for polygon in polygons], (height, width))
    return boxed(mask, (first, int(low[1]), int(low[0])), volume.geometry, source)


def _slice(heights: NDArray[np.float64], volume: Volume) -> int:
    """Return the slice on which a contour lies, from its points' fractional z indices."""
    number = int(np.rint(heights.mean()))
    if np.abs(heights - number).max() * volume.geometry.spacing[0] > SLICE_TOLERANCE:
        raise DeadLetter(
            "rtstruct-between-slices",
            f"a contour lies more than {SLICE_TOLERANCE} mm beside its slice; draw or export the structures "
            "on the slices of the CT series",
        )
    if not 0 <= number < volume.geometry.shape[0]:
        raise _missing_slices()
    return number


def _check_slices(contours: Iterable[Dataset], volume: Volume) -> None:
    known = set(volume.sop_instance_uids)
    for contour in contours:
        for image in contour.get("ContourImageSequence") or ():
            if str(image.get("ReferencedSOPInstanceUID")) not in known:
                raise _missing_slices()


def _points(contour: Dataset) -> NDArray[np.float64]:
    """Return a contour's points, `(n, 3)`. Read from the raw text: pydicom makes an object of each number."""
    element = contour.get_item("ContourData")
    value = element.value if element is not None else None
    try:
        numbers: Iterator[float]
        if isinstance(element, RawDataElement):
            numbers = map(float, bytes(value or b"").rstrip(b"\0 ").split(b"\\"))
        else:
            numbers = map(float, value or ())
        points = np.fromiter(numbers, float).reshape(-1, 3)
    except (TypeError, ValueError):
        points = np.empty((0, 3))
    if not len(points) or not np.isfinite(points).all():
        raise DeadLetter("rtstruct-malformed", "ContourData does not hold triplets of numbers; export it again")
    return points


def _other_series() -> DeadLetter:
    return DeadLetter(
        "rtstruct-other-series",
        "the structure set was drawn on another series or frame of reference than the study's CT; "
        "send that series too",
    )


def _missing_slices() -> DeadLetter:
    return DeadLetter(
        "rtstruct-missing-slices",
        "the structure set has contours on slices that the CT series does not have; send the whole series",
    )

"""DICOM Segmentation (PS3.3, A.51), binary or fractional, to regions on a volume's grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain.identity import is_uid
from auscult.domain.volume import Region, RegionSource, Volume
from auscult.imaging.own_results import MANUFACTURER
from auscult.imaging.part10 import Bytes
from auscult.imaging.regions import boxed
from auscult.platform.errors import DeadLetter

GRID_TOLERANCE = 0.2
"""mm by which a frame may lie beside the volume's grid: its position and the slice's may each be rounded to one
decimal. More is another grid, and is not resampled."""
ORIENTATION_TOLERANCE = 1e-3
"""Of direction cosines, as for slices."""
EVEN = 0.5
"""The fraction from which a voxel belongs to a fractional segment."""


def seg_regions(
    data: Bytes, referenced_series: Sequence[str], volume: Volume, *, automatic: bool = False
) -> tuple[Region, ...]:
    """Return each segment that has at least one voxel, under its label and property type.

    `data`: the whole DICOM file. `automatic`: also those that this product itself outlined. DeadLetter:
    `seg-other-series`, `seg-other-grid`, `undecodable-transfer-syntax`.
    """
    dataset = dcmread(BytesIO(data))
    frame_of_reference = str(dataset.get("FrameOfReferenceUID") or "")
    if (referenced_series and volume.series_uid not in referenced_series) or (
        frame_of_reference and volume.geometry.frame_of_reference_uid not in {"", frame_of_reference}
    ):
        raise DeadLetter(
            "seg-other-series",
            "the segmentation was made on another series or frame of reference than the study's CT; "
            "send that series too",
        )
    frames = _frames(dataset, volume)
    drawn = {
        int(item.SegmentNumber): item for item in dataset.SegmentSequence if automatic or not _ours(dataset, item)
    }
    found = []
    for number, placed in sorted(frames.items()):
        if number not in drawn:
            continue
        source = RegionSource(
            "seg",
            _name(drawn[number]),
            sop_instance_uid=str(dataset.SOPInstanceUID),
            tracking_uid=_tracking_uid(drawn[number]),
            number=number,
        )
        region = _region(placed, volume, source)
        if region is not None:
            found.append(region)
    return tuple(found)


Placed = tuple[tuple[int, int, int], NDArray[np.bool_]]
"""A frame's first voxel in the volume, and its mask (y, x)."""


def _frames(dataset: Dataset, volume: Volume) -> dict[int, list[Placed]]:
    """Return the frames of each segment with their place in the volume."""
    pixels = _pixels(dataset)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames: defaultdict[int, list[Placed]] = defaultdict(list)
    for mask, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = _group(own, shared, "PlanePositionSequence").ImagePositionPatient
        orientation = _group(own, shared, "PlaneOrientationSequence").ImageOrientationPatient
        spacing = _group(own, shared, "PixelMeasuresSequence").PixelSpacing
        segment = int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames[segment].append((_place(position, orientation, spacing, mask.shape, volume), mask))
    return frames


def _place(
    position: Any, orientation: Any, spacing: Any, shape: Sequence[int], volume: Volume
) -> tuple[int, int, int]:
    """Return the (z, y, x) index at which a frame's first pixel lies; DeadLetter where it is not on the grid."""
    geometry = volume.geometry
    rows, columns = np.array(orientation, float).reshape(2, 3)
    index = geometry.to_index(np.array(position, float))
    turned = np.abs([columns - geometry.axes[1], rows - geometry.axes[2]]).max()
    stretch = np.abs(np.array(spacing, float) - geometry.spacing[1:]) * np.array(shape)
    off = (np.abs(index - np.rint(index)) * geometry.spacing).max()
    z, y, x = (int(value) for value in np.rint(index))
    if turned > ORIENTATION_TOLERANCE or max(stretch.max(), off) > GRID_TOLERANCE or not 0 <= z < geometry.shape[0]:
        raise DeadLetter(
            "seg-other-grid",
            "the segmentation's frames do not lie on the CT's voxels; export it on the grid of the CT series",
        )
    return z, y, x


def _pixels(dataset: Dataset) -> NDArray[np.bool_]:
    """Return all frames, `(frame, y, x)`."""
    try:
        pixels = dataset.pixel_array
    except Exception:  # noqa: BLE001 - each decoder raises its own types
        raise DeadLetter(
            "undecodable-transfer-syntax",
            "the segmentation's pixels cannot be decoded; have the sender use Explicit VR Little Endian",
        ) from None
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    if dataset.SegmentationType == "FRACTIONAL":
        fractional: NDArray[np.bool_] = pixels >= EVEN * int(dataset.MaximumFractionalValue)
        return fractional
    return pixels.astype(bool, copy=False)


def _region(placed: Sequence[Placed], volume: Volume, source: RegionSource) -> Region | None:
    """Join one segment's frames in the box that holds them; two frames on one slice count together."""
    starts = np.array([place for place, _ in placed])
    ends = starts + [(1, *mask.shape) for _, mask in placed]
    low = starts.min(axis=0)
    box = np.zeros(ends.max(axis=0) - low, bool)
    for (z, y, x), mask in placed:
        rows, columns = mask.shape
        box[z - low[0], y - low[1] : y - low[1] + rows, x - low[2] : x - low[2] + columns] |= mask
    return boxed(box, (int(low[0]), int(low[1]), int(low[2])), volume.geometry, source)


def _group(own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Return a functional group of a frame, its own or the one that all share (PS3.3, C.7.6.16)."""
    item: Dataset = (own.get(keyword) or shared[keyword].value)[0]
    return item


def _name(segment: Dataset) -> str:
    """Return label and property type: labels alone are often `Segment 1`."""
    label = str(segment.get("SegmentLabel") or "").strip()
    kinds = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    meaning = str(kinds[0].get("CodeMeaning") or "") if kinds else ""
    if meaning.casefold() in label.casefold():
        return label
    return f"{label}, {meaning}" if label else meaning


def _tracking_uid(segment: Dataset) -> str:
    uid = str(segment.get("TrackingUID") or "")
    return uid if is_uid(uid) else ""


def _ours(dataset: Dataset, segment: Dataset) -> bool:
    return str(dataset.get("Manufacturer")) == MANUFACTURER and segment.get("SegmentAlgorithmType") == "AUTOMATIC"

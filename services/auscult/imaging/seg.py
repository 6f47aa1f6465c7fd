"""DICOM Segmentation (PS3.3, A.51), binary or fractional, to regions on a volume's grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from auscult.domain.identity import is_uid
from auscult.domain.volume import Region, RegionSource, Volume
from auscult.imaging.own_results import MANUFACTURER
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
    source: bytes | Path, referenced_series: Sequence[str], volume: Volume, *, automatic: bool = False
) -> tuple[Region, ...]:
    """Return each segment that has at least one voxel, under its label and property type.

    `source`: the whole DICOM file; one frame is decoded at a time. `automatic`: also those that this product itself
    outlined. DeadLetter: `seg-other-series`, `seg-other-grid`, `undecodable-transfer-syntax`.
    """
    dataset = dcmread(BytesIO(source) if isinstance(source, bytes) else source, stop_before_pixels=True)
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
    for number, places in sorted(frames.items()):
        if number not in drawn:
            continue
        told = RegionSource(
            "seg",
            _name(drawn[number]),
            sop_instance_uid=str(dataset.SOPInstanceUID),
            tracking_uid=_tracking_uid(drawn[number]),
            number=number,
        )
        region = _region(places, _masks(source, dataset, list(places)), volume, told)
        if region is not None:
            found.append(region)
    return tuple(found)


Places = dict[int, tuple[int, int, int]]
"""By frame, the index in the volume (z, y, x) of its first voxel."""


def _frames(dataset: Dataset, volume: Volume) -> dict[int, Places]:
    """Return where the frames of each segment lie."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shape = int(dataset.Rows), int(dataset.Columns)
    frames: defaultdict[int, Places] = defaultdict(dict)
    for frame, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        position = _group(own, shared, "PlanePositionSequence").ImagePositionPatient
        orientation = _group(own, shared, "PlaneOrientationSequence").ImageOrientationPatient
        spacing = _group(own, shared, "PixelMeasuresSequence").PixelSpacing
        segment = int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames[segment][frame] = _place(position, orientation, spacing, shape, volume)
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


def _masks(source: bytes | Path, dataset: Dataset, frames: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
    """Yield these frames, each `(y, x)`."""
    fractional = dataset.SegmentationType == "FRACTIONAL"
    try:
        for pixels in iter_pixels(BytesIO(source) if isinstance(source, bytes) else source, indices=frames):
            mask: NDArray[np.bool_] = (
                pixels >= EVEN * int(dataset.MaximumFractionalValue) if fractional else pixels > 0
            )
            yield mask
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - each decoder raises its own types
        raise DeadLetter(
            "undecodable-transfer-syntax",
            "the segmentation's pixels cannot be decoded; have the sender use Explicit VR Little Endian",
        ) from None


def _region(
    places: Places, masks: Iterator[NDArray[np.bool_]], volume: Volume, source: RegionSource
) -> Region | None:
    """Join one segment's frames in the box of their slices; two frames on one slice count together."""
    heights = [z for z, _, _ in places.values()]
    low, high = min(heights), max(heights) + 1
    box = np.zeros((high - low, *volume.geometry.shape[1:]), bool)
    for (z, y, x), mask in zip(places.values(), masks, strict=True):
        rows, columns = (
            slice(max(0, -at), max(0, most - at)) for at, most in zip((y, x), box.shape[1:], strict=True)
        )
        inside = mask[rows, columns]
        top, left = max(0, y), max(0, x)
        box[z - low, top : top + inside.shape[0], left : left + inside.shape[1]] |= inside
    return boxed(box, (low, 0, 0), volume.geometry, source)


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

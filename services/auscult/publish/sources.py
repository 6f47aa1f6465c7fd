"""The images that a result is about: single slices, or frames of an enhanced multi-frame image.

A frame is shown to the writers as a header of its own, as if it were a slice, with its number in
ReferencedFrameNumber. highdicom, which refers to frames only where all of an image's are given in their own order, is
shown twins of them that are slices; what it wrote about a twin is then made a reference to the frame.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_rescale
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from auscult.domain.identity import NAMESPACE, dicom_uid

_SINGLE: Mapping[UID, UID] = {
    EnhancedCTImageStorage: CTImageStorage,
    LegacyConvertedEnhancedCTImageStorage: CTImageStorage,
    EnhancedMRImageStorage: MRImageStorage,
    LegacyConvertedEnhancedMRImageStorage: MRImageStorage,
}
"""The class of a frame's twin."""
_OF_A_FRAME = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
"""What a slice says itself and a frame by its functional groups (PS3.3, C.7.6.16)."""
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PIXELS = 0x7FE00000


@dataclass(frozen=True, slots=True, eq=False)
class FrameOf:
    """One frame of an enhanced image. `number`: from 1, as DICOM counts."""

    image: Path | Dataset
    number: int


Source = Path | Dataset | FrameOf
"""A file, a data set or a frame of the series that a result is about."""


def headers(items: Sequence[Source]) -> list[Dataset]:
    """Return the headers of sources; an image with several frames is read once."""
    images: dict[int | Path, Dataset] = {}
    found = []
    for item in items:
        whole = item.image if isinstance(item, FrameOf) else item
        key = whole if isinstance(whole, Path) else id(whole)
        if key not in images:
            images[key] = dcmread(whole, stop_before_pixels=True) if isinstance(whole, Path) else whole
        found.append(_frame(images[key], item.number) if isinstance(item, FrameOf) else images[key])
    return found


def distinct(found: Sequence[Dataset]) -> list[Dataset]:
    """Return each slice or frame once: of a resampled volume one may be the nearest to several of the grid's."""
    return list({(each.SOPInstanceUID, each.get("ReferencedFrameNumber")): each for each in found}.values())


def rescaled(item: Source) -> NDArray[Any]:
    """Return a slice's or frame's rescaled values, `(y, x)`."""
    (header,) = headers([item])
    whole = item.image if isinstance(item, FrameOf) else item
    image = dcmread(whole) if isinstance(whole, Path) else whole
    index = item.number - 1 if isinstance(item, FrameOf) else None
    values: NDArray[Any] = apply_rescale(pixel_array(image, index=index), header)
    return values


def _frame(image: Dataset, number: int) -> Dataset:
    """Return a frame's header. Elements that are not decoded yet stay so."""
    frame = Dataset({tag: image.get_item(tag) for tag in image.keys() if tag < _PIXELS})  # noqa: SIM118
    frame.set_original_encoding(
        is_implicit_vr=None, is_little_endian=None, character_encoding=image.original_character_set
    )
    shared, own = image[_GROUPS[0]].value[0], image[_GROUPS[1]].value[number - 1]
    for keyword in (*_GROUPS, "NumberOfFrames", "DimensionOrganizationSequence", "DimensionIndexSequence"):
        if keyword in frame:
            del frame[keyword]
    for group, keywords in _OF_A_FRAME.items():
        for item in own.get(group) or shared.get(group) or ():
            for keyword in keywords:
                if keyword in item:
                    frame[keyword] = item[keyword]
    frame.ReferencedFrameNumber = number
    return frame


def _twin_uid(frame: Dataset) -> str:
    return dicom_uid(uuid.uuid5(NAMESPACE, f"{frame.SOPInstanceUID}|frame {frame.ReferencedFrameNumber}"))


@dataclass(frozen=True, slots=True)
class Twins:
    """`slices`: what highdicom may be shown in the place of `headers`."""

    slices: list[Dataset]
    _frames: dict[str, Dataset] = field(default_factory=dict)
    """The frame's header by its twin's SOP Instance UID."""

    @classmethod
    def of(cls, frames: Sequence[Dataset]) -> Twins:
        """Make the twins of frames; slices are their own."""
        slices, by_uid = [], {}
        for frame in frames:
            if "ReferencedFrameNumber" not in frame:
                slices.append(frame)
                continue
            twin = Dataset({tag: frame.get_item(tag) for tag in frame.keys()})  # noqa: SIM118
            # New elements: the frame's own are shared with it.
            twin.add_new("SOPInstanceUID", "UI", _twin_uid(frame))
            twin.add_new("SOPClassUID", "UI", _SINGLE[frame.SOPClassUID])
            by_uid[twin.SOPInstanceUID] = frame
            slices.append(twin)
        return cls(slices, by_uid)

    def resolve(self, dataset: Dataset, *, of_series: bool = False) -> None:
        """Make each reference to a twin one to its frame.

        `of_series`: `dataset` lists the instances of a series (PS3.3, C.12.2), each once and whole.
        """
        if not self._frames:
            return
        for element in dataset:
            if element.VR != "SQ":
                continue
            kept, seen = [], set[str]()
            for item in element.value:
                frame = self._frames.get(item.get("ReferencedSOPInstanceUID"))
                if frame is not None:
                    item.ReferencedSOPClassUID = frame.SOPClassUID
                    item.ReferencedSOPInstanceUID = frame.SOPInstanceUID
                    if not of_series:
                        item.ReferencedFrameNumber = frame.ReferencedFrameNumber
                uid = item.get("ReferencedSOPInstanceUID")
                if of_series and uid in seen:
                    continue
                seen.add(uid)
                kept.append(item)
                self.resolve(item, of_series=element.keyword == "ReferencedSeriesSequence")
            if len(kept) < len(element.value):
                element.value = kept

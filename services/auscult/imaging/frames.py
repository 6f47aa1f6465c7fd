"""The frames of an enhanced multi-frame image: where each lies, and its rescale (PS3.3, C.7.6.16)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from auscult.imaging.marks import Marks
from auscult.platform.errors import Refused

DOES_NOT_MATCH_CLASS = 0xA900
"""C-STORE status `Error: Data Set does not match SOP Class` (PS3.4, B.2.3)."""

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    number: int
    """From 0."""
    position: Vector
    orientation: Vector
    pixel_spacing: Vector
    slice_thickness: float | None
    rescale: tuple[float, float] | None
    """Slope and intercept, where there are any; of CT to Hounsfield units."""
    marks: Marks


def frames(dataset: Dataset) -> Iterator[Frame]:
    """Yield the frames that have a place, from shared and per-frame functional groups."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    for number, own in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or ()):
        position = _of_group(own, shared, "PlanePositionSequence", "ImagePositionPatient", 3)
        orientation = _of_group(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
        spacing = _of_group(own, shared, "PixelMeasuresSequence", "PixelSpacing", 2)
        thickness = _of_group(own, shared, "PixelMeasuresSequence", "SliceThickness", 1)
        slope = _of_group(own, shared, "PixelValueTransformationSequence", "RescaleSlope", 1)
        intercept = _of_group(own, shared, "PixelValueTransformationSequence", "RescaleIntercept", 1)
        if position and orientation and spacing:
            yield Frame(
                number,
                position,
                orientation,
                spacing,
                thickness[0] if thickness else None,
                (slope[0], intercept[0]) if slope and intercept else None,
                Marks.of_frame(own, shared),
            )


def _of_group(own: Dataset, shared: Dataset, group: str, keyword: str, length: int) -> Vector | None:
    """Return an attribute of a frame's functional group, its own or the one that all share; None where absent."""
    items = own.get(group) or shared.get(group) or (Dataset(),)
    given = items[0].get(keyword)
    if given is None:
        return None
    values = tuple(map(float, given if length > 1 else [given]))
    if len(values) != length or not all(map(math.isfinite, values)):
        raise Refused("missing-attribute", f"{keyword} does not hold {length} numbers", status=DOES_NOT_MATCH_CLASS)
    return values

"""Regions as a DICOM Segmentation (PS3.3, A.51; IHE AIR), on the slices of the series they were found on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from auscult import __version__
from auscult.domain import codes
from auscult.domain.volume import Geometry, Region
from auscult.imaging.own_results import MANUFACTURER
from auscult.imaging.slices import POSITION_TOLERANCE
from auscult.publish.dicom_codes import coded
from auscult.publish.dicom_modules import SERIES_NUMBER, complete, derived_uid, nameless, text
from auscult.publish.sources import Source, Twins, distinct, headers

ARTIFICIAL_INTELLIGENCE = DicomCode("123110", "DCM", "Artificial Intelligence")
"""Algorithm family, PS3.16, CID 7162."""
GREATEST = 255
"""Maximum Fractional Value: what a fraction of 1 is stored as."""


@dataclass(frozen=True)
class Segment:
    """One segment: a region, what the reader calls it, and who drew it.

    `algorithm`: name and version of the model; None where a person drew the region. `tracking_uid`: of the same
    thing in other studies and objects; by default the segment's own. `fractions`: for a fractional SEG, of the
    region's box, `(z, y, x)` in [0, 1]; by default 1 inside the region.
    """

    region: Region
    label: str
    algorithm: tuple[str, str] | None
    kind: codes.Code = codes.NODULE
    site: codes.Code = codes.LUNG
    category: codes.Code = codes.ABNORMAL_STRUCTURE
    laterality: codes.Code | None = None
    tracking_uid: str = ""
    fractions: NDArray[np.floating] | None = None


def write_seg(
    segments: Sequence[Segment],
    slices: Sequence[Source],
    *,
    sop_instance_uid: str,
    series_uid: str,
    made: datetime,
    description: str = "Segmentation",
    kind: Literal["BINARY", "FRACTIONAL", "LABELMAP"] = "BINARY",
    resampled: bool = False,
) -> Dataset:
    """Return a SEG of `segments`, which share one grid; frames without a voxel are left out.

    `slices`: files, data sets or frames of the series, one per slice in the order of axis z. `kind`: FRACTIONAL
    stores probabilities in steps of 1/255; LABELMAP (PS3.3, A.51, 2024) needs segments that do not overlap.
    `resampled`: the grid is none that the slices lie on; each is then the nearest to the grid's, and frames have the
    grid's places. The same arguments always give the same bytes: dates come from `made`, as its own clock shows it,
    UIDs from the caller. ValueError: the slices are not the grid's, or segments overlap in a LABELMAP.
    """
    geometry = segments[0].region.geometry
    if len(slices) != geometry.shape[0] or any(not s.region.geometry.matches(geometry) for s in segments):
        raise ValueError("a SEG needs one grid for all its segments, and one source slice for each of the grid's")
    first = min(s.region.box[0].start for s in segments)
    last = max(s.region.box[0].stop for s in segments)
    found = headers(slices[first:last])
    twins = Twins.of([nameless(header) for header in distinct(found)])
    if not resampled:
        _check_places(found, first, geometry)
    dataset: Dataset = hd.seg.Segmentation(
        source_images=twins.slices,
        pixel_array=_fractions(segments, first, last) if kind == "FRACTIONAL" else _labels(segments, first, last),
        segmentation_type=kind,
        fractional_type="PROBABILITY",
        max_fractional_value=GREATEST,
        segment_descriptions=[
            _description(number, segment, found[0], sop_instance_uid)
            for number, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=text(description, found[0]),
        **(_places(geometry, first, last) if resampled else {}),
    )
    twins.resolve(dataset)
    complete(
        dataset,
        found[0],
        made=made,
        sop_instance_uid=sop_instance_uid,
        description=description,
        content_date="Content",
    )
    return dataset


def _places(geometry: Geometry, first: int, last: int) -> dict[str, Any]:
    """Return what places the frames of the grid's slices, in highdicom's terms."""
    z, y, x = geometry.spacing.tolist()
    origins = geometry.to_patient([[index, 0, 0] for index in range(first, last)])
    return {
        "pixel_measures": hd.PixelMeasuresSequence((y, x), slice_thickness=z, spacing_between_slices=z),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", [*geometry.axes[2], *geometry.axes[1]]),
        "plane_positions": [hd.PlanePositionSequence("PATIENT", origin) for origin in origins],
    }


def _check_places(headers: Sequence[Dataset], first: int, geometry: Geometry) -> None:
    for index, header in enumerate(headers, start=first):
        away = geometry.to_patient([index, 0, 0]) - np.array(header.ImagePositionPatient, float)
        if np.abs(away).max() > POSITION_TOLERANCE:
            raise ValueError(f"source slice {index} does not lie where the grid's does; give them in the order of z")


def _labels(segments: Sequence[Segment], first: int, last: int) -> NDArray[np.uint8]:
    """Return the segments' numbers, `(z, y, x)`; where they overlap a mask of each, `(z, y, x, segment)`.

    One array of numbers takes a fraction of the memory and time of several masks.
    """
    rows, columns = segments[0].region.geometry.shape[1:]
    labels = np.zeros((last - first, rows, columns), np.uint8)
    for number, segment in enumerate(segments, start=1):
        z, y, x = segment.region.box
        box = labels[z.start - first : z.stop - first, y, x]
        if number > np.iinfo(np.uint8).max or box[segment.region.mask].any():
            break
        box[segment.region.mask] = number
    else:
        return labels
    # The segment is the slowest axis in memory, since frames are what is read.
    masks = np.zeros((len(segments), last - first, rows, columns), np.uint8)
    for mask, segment in zip(masks, segments, strict=True):
        z, y, x = segment.region.box
        mask[z.start - first : z.stop - first, y, x] = segment.region.mask
    return np.moveaxis(masks, 0, -1)


def _fractions(segments: Sequence[Segment], first: int, last: int) -> NDArray[np.float32]:
    """Return `(z, y, x, segment)` fractions."""
    rows, columns = segments[0].region.geometry.shape[1:]
    fractions = np.zeros((len(segments), last - first, rows, columns), np.float32)
    for of_segment, segment in zip(fractions, segments, strict=True):
        z, y, x = segment.region.box
        given = segment.region.mask if segment.fractions is None else segment.fractions
        of_segment[z.start - first : z.stop - first, y, x] = given
    return np.moveaxis(fractions, 0, -1)


def _description(number: int, segment: Segment, header: Dataset, sop_instance_uid: str) -> hd.seg.SegmentDescription:
    label = text(segment.label, header)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=coded(segment.category),
        segmented_property_type=coded(segment.kind),
        algorithm_type="AUTOMATIC" if segment.algorithm else "MANUAL",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=segment.algorithm[0], family=ARTIFICIAL_INTELLIGENCE, version=segment.algorithm[1]
        )
        if segment.algorithm
        else None,
        tracking_uid=segment.tracking_uid or derived_uid(sop_instance_uid, f"segment {number}"),
        tracking_id=label,
        anatomic_regions=[coded(segment.site)],
    )
    if segment.laterality is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [coded(segment.laterality)]
    return description

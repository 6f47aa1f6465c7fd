"""Regions as a DICOM Segmentation (PS3.3, A.51; IHE AIR), on the slices of the series they were found on."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode

from auscult import __version__
from auscult.domain import codes
from auscult.domain.identity import NAMESPACE, dicom_uid
from auscult.domain.volume import Region
from auscult.imaging.seg import MANUFACTURER
from auscult.imaging.slices import POSITION_TOLERANCE

SERIES_NUMBER = 9501
"""Far above what scanners count to, so that results sort last."""

_ARTIFICIAL_INTELLIGENCE = DicomCode("123110", "DCM", "Artificial Intelligence")
"""Algorithm family, PS3.16, CID 7162."""


@dataclass(frozen=True)
class Segment:
    """One segment: a region, what the reader calls it, and who drew it.

    `algorithm`: name and version of the model; None where a person drew the region.
    """

    region: Region
    label: str
    algorithm: tuple[str, str] | None
    kind: codes.Code = codes.NODULE
    site: codes.Code = codes.LUNG


def write_seg(
    segments: Sequence[Segment],
    slices: Sequence[Path | Dataset],
    *,
    sop_instance_uid: str,
    series_uid: str,
    made: datetime,
    description: str = "Segmentation",
) -> Dataset:
    """Return a binary SEG of `segments`, which share one grid.

    `slices`: files or data sets of the CT series, one per slice in the order of axis z. The same arguments always
    give the same bytes: dates come from `made`, as its own clock shows it, UIDs from the caller.
    ValueError: the slices are not the grid's.
    """
    geometry = segments[0].region.geometry
    if len(slices) != geometry.shape[0] or any(not s.region.geometry.matches(geometry) for s in segments):
        raise ValueError("a SEG needs one grid for all its segments, and one source slice for each of the grid's")
    first = min(s.region.box[0].start for s in segments)
    last = max(s.region.box[0].stop for s in segments)
    sources = [_source(item) for item in slices[first:last]]
    for index, source in enumerate(sources, start=first):
        away = geometry.to_patient([index, 0, 0]) - np.array(source.ImagePositionPatient, float)
        if np.abs(away).max() > POSITION_TOLERANCE:
            raise ValueError(f"source slice {index} does not lie where the grid's does; give them in the order of z")
    masks = np.zeros((last - first, *geometry.shape[1:], len(segments)), bool)
    for number, segment in enumerate(segments):
        z, y, x = segment.region.box
        masks[z.start - first : z.stop - first, y, x, number] = segment.region.mask
    dataset: Dataset = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, segment, sop_instance_uid) for number, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number="none",
        series_description=description,
        content_label="SEGMENTATION",
        content_description=description,
    )
    _make_repeatable(dataset, sop_instance_uid, made)
    return dataset


def _source(item: Path | Dataset) -> Dataset:
    return item if isinstance(item, Dataset) else dcmread(item, stop_before_pixels=True)


def _description(number: int, segment: Segment, sop_instance_uid: str) -> hd.seg.SegmentDescription:
    algorithm = segment.algorithm
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label[:64],
        segmented_property_category=_coded(codes.ABNORMAL_STRUCTURE),
        segmented_property_type=_coded(segment.kind),
        algorithm_type="AUTOMATIC" if algorithm else "MANUAL",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm[0], family=_ARTIFICIAL_INTELLIGENCE, version=algorithm[1]
        )
        if algorithm
        else None,
        tracking_uid=_derived_uid(sop_instance_uid, f"segment {number}"),
        tracking_id=segment.label[:64],
        anatomic_regions=[_coded(segment.site)],
    )


def _coded(code: codes.Code) -> DicomCode:
    """Return `code` with the coding scheme designator that DICOM has for its system (PS3.16, 8)."""
    return DicomCode(code.code, {codes.SNOMED: "SCT", codes.DCM: "DCM", codes.LOINC: "LN"}[code.system], code.display)


def _derived_uid(sop_instance_uid: str, part: str) -> str:
    return dicom_uid(uuid.uuid5(NAMESPACE, f"{sop_instance_uid}|{part}"))


def _make_repeatable(dataset: Dataset, sop_instance_uid: str, made: datetime) -> None:
    """Replace the clock's and chance's share, so that a result sent again is the same object."""
    dimensions = _derived_uid(sop_instance_uid, "dimensions")
    for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
        item.DimensionOrganizationUID = dimensions
    for equipment in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = made.strftime("%Y%m%d%H%M%S.%f")
    for prefix in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{prefix}Date", made.strftime("%Y%m%d"))
        setattr(dataset, f"{prefix}Time", made.strftime("%H%M%S.%f"))

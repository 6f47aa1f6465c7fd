"""Regions as an RT Structure Set (PS3.3, A.19), for planning systems.

A contour runs along the edges of a region's pixels, half a pixel outside their centres: filled by any rule it gives
the mask back voxel by voxel, single voxels too. Pixels that touch at a corner alone are contours of their own.

Holes are keyholes: one CLOSED_PLANAR contour goes in to the hole and back on the same line, which PS3.3, C.8.8.6.3
defines and every planning system reads. The standard's newer CLOSEDPLANAR_XOR is not known to many systems (nor to
dciodvfy of 2022), and an inner CLOSED_PLANAR contour on its own is a hole to some systems and filled to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from auscult.domain import codes
from auscult.domain.volume import Geometry, Region
from auscult.imaging.contours import Polygon, outline
from auscult.imaging.slices import POSITION_TOLERANCE
from auscult.publish.dicom_codes import coded
from auscult.publish.dicom_modules import SERIES_NUMBER, begin, complete, references, text
from auscult.publish.keyholes import joined
from auscult.publish.sources import Source, distinct, headers

DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""The retired class by which RT Referenced Study Sequence names a study; readers expect it still."""
COLOURS = ((255, 196, 0), (0, 170, 255), (255, 80, 80), (80, 220, 100), (200, 120, 255), (255, 140, 0), (0, 220, 210))
"""ROI Display Colours, in turn."""
DECIMALS = 4
"""Of coordinates in mm: far below a pixel, and within the 16 characters of a DS."""


@dataclass(frozen=True)
class Structure:
    """One ROI: a region, its name in the planning system, and who drew it.

    `algorithm`: name and version of the model; None where a person drew it. `interpreted_type`: RT ROI Interpreted
    Type (PS3.3, C.8.8.8), such as `GTV` or `ORGAN`; empty where that is for the physician to say.
    """

    region: Region
    name: str
    algorithm: tuple[str, str] | None
    interpreted_type: str = ""
    kind: codes.Code = codes.NODULE
    colour: tuple[int, int, int] | None = None


def write_rtstruct(
    structures: Sequence[Structure],
    slices: Sequence[Source],
    *,
    sop_instance_uid: str,
    series_uid: str,
    made: datetime,
    description: str = "Structures",
    resampled: bool = False,
) -> Dataset:
    """Return an RTSTRUCT of `structures`, which share one grid, on the planes of `slices`.

    `slices`: files, data sets or frames of the series, one per slice in the order of axis z. `resampled`: the grid
    is none that they lie on, and each is the nearest to the grid's: contours are then drawn on each slice, in its
    plane, as the region is on the grid's nearest. Repeatable as `write_seg` is. ValueError: the slices are not the
    grid's.
    """
    geometry = structures[0].region.geometry
    if len(slices) != geometry.shape[0] or any(not s.region.geometry.matches(geometry) for s in structures):
        raise ValueError("an RTSTRUCT needs one grid for all its structures, and one source slice for each of its")
    found = headers(slices)
    chosen = _nearest(found, geometry) if resampled else dict(enumerate(found))
    planes = _planes(chosen, geometry, resampled=resampled)
    dataset = begin(RTStructureSetStorage, sop_instance_uid, series_uid, "RTSTRUCT", SERIES_NUMBER + 2)
    dataset.StructureSetLabel = "AUSCULT"
    dataset.StructureSetName = text(description, found[0])
    dataset.OperatorsName = ""
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.PositionReferenceIndicator = found[0].get("PositionReferenceIndicator", "")
    dataset.FrameOfReferenceUID = found[0].FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(list(chosen.values()))]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, structure in enumerate(structures, start=1):
        dataset.StructureSetROISequence.append(_roi(number, structure, found[0]))
        dataset.ROIContourSequence.append(_contours(number, structure, chosen, planes))
        dataset.RTROIObservationsSequence.append(_observation(number, structure, found[0]))
    complete(
        dataset,
        found[0],
        made=made,
        sop_instance_uid=sop_instance_uid,
        description=description,
        content_date="StructureSet",
    )
    return dataset


def _nearest(found: Sequence[Dataset], geometry: Geometry) -> dict[int, Dataset]:
    """Return each slice by the grid's that is nearest to it; of several slices the nearest."""
    heights = {id(each): float(geometry.to_index(each.ImagePositionPatient)[0]) for each in found}
    chosen: dict[int, Dataset] = {}
    for each in sorted(distinct(found), key=lambda each: abs(heights[id(each)] - round(heights[id(each)]))):
        chosen.setdefault(round(heights[id(each)]), each)
    return dict(sorted(chosen.items()))


def _planes(chosen: Mapping[int, Dataset], geometry: Geometry, *, resampled: bool) -> dict[int, NDArray[np.float64]]:
    """Return where the grid's first pixel lies in the plane of each slice, in mm: contours lie on slices."""
    planes = {index: np.array(header.ImagePositionPatient, float) for index, header in chosen.items()}
    grid = {index: geometry.to_patient([index, 0, 0]) for index in chosen}
    if resampled:
        normal = geometry.axes[0]
        return {index: grid[index] + ((planes[index] - grid[index]) @ normal) * normal for index in chosen}
    if max(np.abs(planes[index] - grid[index]).max() for index in chosen) > POSITION_TOLERANCE:
        raise ValueError("a source slice does not lie where the grid's does; give them in the order of z")
    return planes


def _frame_of_reference(headers: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ContourImageSequence = references(headers)
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY_MANAGEMENT
    study.ReferencedSOPInstanceUID = headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = headers[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, structure: Structure, header: Dataset) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = header.FrameOfReferenceUID
    roi.ROIName = text(structure.name, header)
    roi.ROIVolume = f"{structure.region.volume / 1000:.6g}"  # in ml
    roi.ROIGenerationAlgorithm = "AUTOMATIC" if structure.algorithm else "MANUAL"
    if structure.algorithm:
        roi.ROIGenerationDescription = text(" ".join(structure.algorithm), header)
    return roi


def _contours(
    number: int, structure: Structure, slices: Mapping[int, Dataset], planes: Mapping[int, NDArray[np.float64]]
) -> Dataset:
    region, geometry = structure.region, structure.region.geometry
    roi = Dataset()
    roi.ReferencedROINumber = number
    roi.ROIDisplayColor = list(structure.colour or COLOURS[(number - 1) % len(COLOURS)])
    roi.ContourSequence = []
    for index, header in slices.items():
        for polygon in joined(outline(region, index)):
            contour = Dataset()
            contour.ContourImageSequence = references([header])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            contour.ContourNumber = len(roi.ContourSequence) + 1
            contour.ContourData = _points(polygon, planes[index], geometry)
            roi.ContourSequence.append(contour)
    if not roi.ContourSequence:
        del roi.ContourSequence  # Of a region on a resampled grid that no slice meets.
    return roi


def _points(polygon: Polygon, plane: NDArray[np.float64], geometry: Geometry) -> list[str]:
    """Return x, y, z in mm of each point (x, y) in pixels of the slice whose first pixel lies at `plane`."""
    steps = geometry.axes[:0:-1] * geometry.spacing[:0:-1, None]
    positions = plane + np.array(polygon) @ steps
    return [f"{value:.{DECIMALS}f}" for value in positions.ravel()]


def _observation(number: int, structure: Structure, header: Dataset) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.ROIObservationLabel = text(structure.name, header, most=16)
    observation.RTROIIdentificationCodeSequence = [coded(structure.kind)]
    observation.RTROIInterpretedType = structure.interpreted_type
    observation.ROIInterpreter = ""
    return observation

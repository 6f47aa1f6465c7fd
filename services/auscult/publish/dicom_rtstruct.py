"""Regions as an RT Structure Set (PS3.3, A.19), for planning systems.

A contour runs along the edges of a region's pixels, half a pixel outside their centres: filled by any rule it gives
the mask back voxel by voxel, single voxels too. Pixels that touch at a corner alone are contours of their own.

Holes are keyholes: one CLOSED_PLANAR contour goes in to the hole and back on the same line, which PS3.3, C.8.8.6.3
defines and every planning system reads. The standard's newer CLOSEDPLANAR_XOR is not known to many systems (nor to
dciodvfy of 2022), and an inner CLOSED_PLANAR contour on its own is a hole to some systems and filled to others.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from auscult.publish.dicom_codes import coded, schemes
from auscult.publish.dicom_modules import SERIES_NUMBER, begin, complete, references, text
from auscult.publish.keyholes import joined
from auscult.publish.sources import Source, headers

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
) -> Dataset:
    """Return an RTSTRUCT of `structures`, which share one grid, on the planes of `slices`.

    `slices`: files or data sets of the CT series, one per slice in the order of axis z. Repeatable as `write_seg`
    is. ValueError: the slices are not the grid's.
    """
    geometry = structures[0].region.geometry
    if len(slices) != geometry.shape[0] or any(not s.region.geometry.matches(geometry) for s in structures):
        raise ValueError("an RTSTRUCT needs one grid for all its structures, and one source slice for each of its")
    found = headers(slices)
    planes = _planes(found, geometry)
    dataset = begin(RTStructureSetStorage, sop_instance_uid, series_uid, "RTSTRUCT", SERIES_NUMBER + 2)
    dataset.StructureSetLabel = "AUSCULT"
    dataset.StructureSetName = text(description, found[0])
    dataset.OperatorsName = ""
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.PositionReferenceIndicator = found[0].get("PositionReferenceIndicator", "")
    dataset.FrameOfReferenceUID = found[0].FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(found)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, structure in enumerate(structures, start=1):
        dataset.StructureSetROISequence.append(_roi(number, structure, found[0]))
        dataset.ROIContourSequence.append(_contours(number, structure, found, planes))
        dataset.RTROIObservationsSequence.append(_observation(number, structure, found[0]))
    if private := schemes(dataset):
        dataset.CodingSchemeIdentificationSequence = private
    complete(
        dataset,
        found[0],
        made=made,
        sop_instance_uid=sop_instance_uid,
        description=description,
        content_date="StructureSet",
    )
    return dataset


def _planes(headers: Sequence[Dataset], geometry: Geometry) -> NDArray[np.float64]:
    """Return the position of each slice's first pixel, `(z, 3)` in mm: contours lie on the slices as they are."""
    planes = np.array([header.ImagePositionPatient for header in headers], float)
    grid = geometry.to_patient([[index, 0, 0] for index in range(len(headers))])
    if np.abs(planes - grid).max() > POSITION_TOLERANCE:
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


def _contours(number: int, structure: Structure, headers: Sequence[Dataset], planes: NDArray[np.float64]) -> Dataset:
    region, geometry = structure.region, structure.region.geometry
    roi = Dataset()
    roi.ReferencedROINumber = number
    roi.ROIDisplayColor = list(structure.colour or COLOURS[(number - 1) % len(COLOURS)])
    roi.ContourSequence = []
    for index in (np.flatnonzero(region.mask.any(axis=(1, 2))) + region.offset[0]).tolist():
        for polygon in joined(outline(region, index)):
            contour = Dataset()
            contour.ContourImageSequence = references([headers[index]])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            contour.ContourNumber = len(roi.ContourSequence) + 1
            contour.ContourData = _points(polygon, planes[index], geometry)
            roi.ContourSequence.append(contour)
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

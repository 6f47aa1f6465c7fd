"""Small valid DICOM objects for tests: a CT series, and a structure set on it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Person:
    """Whose the objects are."""

    patient_id: str = "P-1"
    issuer: str = "HOSPITAL"
    birth_date: str = "19600203"
    sex: str = "F"
    name: str = "Doe^Jane"


JANE = Person()


def _base(sop_class: str, study_uid: str, series_uid: str, patient: Person) -> Dataset:
    """Return a data set with patient, study and file meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyDate, dataset.StudyTime = "20260131", "120000"
    dataset.SeriesDate, dataset.SeriesTime = "20260131", "120100"
    dataset.AccessionNumber = "A-1"
    dataset.Manufacturer, dataset.ManufacturerModelName = "Factory", "Test"
    dataset.ReferringPhysicianName = ""
    dataset.PatientName, dataset.PatientID = patient.name, patient.patient_id
    if patient.issuer:
        dataset.IssuerOfPatientID = patient.issuer
    dataset.PatientBirthDate, dataset.PatientSex = patient.birth_date, patient.sex
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.StudyID, dataset.SeriesNumber = "1", 1
    return dataset


def ct_series(
    shape: tuple[int, int, int] = (12, 32, 32),
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    *,
    hu: NDArray[np.int16] | None = None,
    patient: Person = JANE,
    study_uid: str | None = None,
    series_uid: str | None = None,
    origin: Sequence[float] = (-20.0, -30.0, 40.0),
    orientation: Sequence[float] = AXIAL,
    frame_of_reference_uid: str | None = None,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"),
) -> list[Dataset]:
    """Return a CT series, one data set per slice, sorted along the slice normal.

    `shape`, `spacing`: (z, y, x), mm. `hu`: `(z, y, x)`, by default random between -1000 and 1000.
    """
    study_uid, series_uid = study_uid or generate_uid(), series_uid or generate_uid()
    frame_of_reference_uid = frame_of_reference_uid or generate_uid()
    if hu is None:
        hu = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
    normal = np.cross(orientation[:3], orientation[3:])
    slices = []
    for index, plane in enumerate(hu):
        dataset = _base(CTImageStorage, study_uid, series_uid, patient)
        dataset.Modality = "CT"
        dataset.ImageType = list(image_type)
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20260131", "120130"
        dataset.PatientAge = "065Y"
        dataset.KVP, dataset.ConvolutionKernel = 120, "FC51"
        dataset.SliceThickness = spacing[0]
        dataset.AcquisitionNumber, dataset.InstanceNumber = 1, index + 1
        dataset.FrameOfReferenceUID = frame_of_reference_uid
        dataset.PositionReferenceIndicator = ""
        position = np.asarray(origin) + index * spacing[0] * normal
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        dataset.PixelSpacing = [spacing[1], spacing[2]]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
        dataset.PixelData = (plane + 1024).astype("<u2").tobytes()
        slices.append(dataset)
    return slices


def structure_set(
    slices: Sequence[Dataset],
    rois: dict[str, list[NDArray[np.float64]]],
    *,
    series_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
    patient: Person = JANE,
) -> Dataset:
    """Return an RTSTRUCT on `slices`. `rois`: name to closed contours, each `(n, 3)` LPS positions in mm."""
    first = slices[0]
    frame = frame_of_reference_uid or first.FrameOfReferenceUID
    dataset = _base(RTStructureSetStorage, first.StudyInstanceUID, generate_uid(), patient)
    dataset.Modality = "RTSTRUCT"
    dataset.StructureSetLabel, dataset.StructureSetDate, dataset.StructureSetTime = "TEST", "20260131", "130000"
    images = []
    for image in slices:
        reference = Dataset()
        reference.ReferencedSOPClassUID = CTImageStorage
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        images.append(reference)
    series = Dataset()
    series.SeriesInstanceUID = series_uid or first.SeriesInstanceUID
    series.ContourImageSequence = images
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    referenced = Dataset()
    referenced.FrameOfReferenceUID = frame
    referenced.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [referenced]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "MANUAL"
        roi.ReferencedFrameOfReferenceUID = frame
        drawn = Dataset()
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.10g}" for value in np.asarray(points).ravel()]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    return dataset


def encode(dataset: Dataset) -> bytes:
    """Return `dataset` as a DICOM file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def mr_series(shape: tuple[int, int, int] = (4, 6, 5), **changed: object) -> list[Dataset]:
    """Return an MR series: stored values as they are. `changed`: attributes of all slices."""
    slices = ct_series(shape)
    for dataset in slices:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.Modality, dataset.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
        for keyword in ("KVP", "ConvolutionKernel", "RescaleSlope", "RescaleIntercept", "RescaleType"):
            delattr(dataset, keyword)
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "SK", ""
        dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength = "2D", 12.5, 1
        for keyword, value in changed.items():
            setattr(dataset, keyword, value)
    return slices


def pet_series(
    shape: tuple[int, int, int] = (4, 6, 5), injected: dict[str, object] | None = None, **changed: object
) -> list[Dataset]:
    """Return a PET series in Bq/ml, each slice with a slope of its own, one hour after 370 MBq of fluorine-18.

    `injected`, `changed`: attributes of the radiopharmaceutical, and of all slices; None leaves one out.
    """
    slices = ct_series(shape)
    for index, dataset in enumerate(slices):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        dataset.Modality, dataset.ImageType = "PT", ["ORIGINAL", "PRIMARY"]
        for keyword in ("KVP", "ConvolutionKernel", "RescaleType"):
            delattr(dataset, keyword)
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 * (index + 1), 0
        dataset.Units, dataset.DecayCorrection, dataset.CorrectedImage = "BQML", "START", ["DECY", "ATTN", "DECAY"]
        dataset.SeriesType, dataset.PatientWeight = ["WHOLE BODY", "IMAGE"], 70.0
        dataset.SeriesTime = dataset.AcquisitionTime = "120000"
        dose = Dataset()
        dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = 370e6, 6586.2
        dose.RadiopharmaceuticalStartTime = "110000.00"
        for target, attributes in ((dataset, changed), (dose, injected or {})):
            for keyword, value in attributes.items():
                if value is None:
                    delattr(target, keyword)
                else:
                    setattr(target, keyword, value)
        dataset.RadiopharmaceuticalInformationSequence = [dose]
    return slices


def enhanced(slices: list[Dataset]) -> Dataset:
    """Return a series as one enhanced multi-frame CT, its frames in another order than their places."""
    first, whole = slices[0], deepcopy(slices[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(whole, keyword)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        delattr(whole, keyword)
    order = slices[::-1]
    whole.NumberOfFrames = len(order)
    whole.PixelData = b"".join(each.PixelData for each in order)
    orientation, measures, transformation, shared = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    transformation.RescaleSlope, transformation.RescaleIntercept = 1, -1024
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [transformation]
    whole.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for each in order:
        place, frame = Dataset(), Dataset()
        place.ImagePositionPatient = each.ImagePositionPatient
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    whole.PerFrameFunctionalGroupsSequence = frames
    return whole

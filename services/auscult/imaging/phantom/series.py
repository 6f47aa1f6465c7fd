"""A scanned phantom as a DICOM CT series: CT Image Storage (PS3.3, A.3), Explicit VR Little Endian."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from auscult.domain.volume import Volume
from auscult.imaging.phantom.anatomy import Phantom
from auscult.imaging.phantom.scanner import Protocol, scan, uid

SYNTHETIC = "Synthetic chest phantom, not a patient"
WINDOWS = {"lung": ("-600", "1500"), "soft": ("40", "400")}
"""WindowCenter and WindowWidth by kernel."""
INTERCEPT = -1024


@dataclass(frozen=True, slots=True)
class SyntheticPatient:
    """Who the phantom is said to be. `birth_date` and `sex` as DICOM writes them (YYYYMMDD; M, F, O)."""

    patient_id: str = "PHANTOM-1"
    issuer: str = "AUSCULT"
    name: str = "Phantom^Chest"
    birth_date: str = "19580214"
    sex: str = "F"

    def age(self, on: datetime) -> str:
        """Return PatientAge on a day, e.g. `067Y`."""
        born = self.birth_date
        before = on.strftime("%m%d") < born[4:]
        return f"{on.year - int(born[:4]) - before:03d}Y"


DEFAULT_TIME = datetime(2026, 1, 15, 9, 30, tzinfo=timezone(timedelta(hours=1)))


def write_series(
    phantom: Phantom,
    folder: Path,
    *,
    patient: SyntheticPatient | None = None,
    acquired: datetime = DEFAULT_TIME,
    protocol: Protocol | None = None,
    volume: Volume | None = None,
) -> list[Path]:
    """Write the series into `folder`, one file per slice from feet to head, and return the paths.

    `patient`: by default one whose PatientID is `PHANTOM-<seed>`. `acquired`: aware. `volume`: what
    `scan(phantom, ..., protocol)` gave, where it is at hand. The same arguments always write the same bytes.
    ValueError: `acquired` has no UTC offset.
    """
    if acquired.tzinfo is None:
        raise ValueError("acquired needs a UTC offset: TimezoneOffsetFromUTC is written from it")
    patient = patient or SyntheticPatient(patient_id=f"PHANTOM-{phantom.seed}")
    protocol = protocol or Protocol()
    volume = volume or scan(phantom, protocol=protocol)
    folder.mkdir(parents=True, exist_ok=True)
    common = _common(phantom, patient, acquired, protocol, volume)
    paths = []
    for index in range(volume.geometry.shape[0]):
        image = _slice(phantom.seed, common, volume, index)
        path = folder / f"{index + 1:04d}.dcm"
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _common(
    phantom: Phantom, patient: SyntheticPatient, acquired: datetime, protocol: Protocol, volume: Volume
) -> Dataset:
    """Return what all slices share."""
    geometry = volume.geometry
    day, time = acquired.strftime("%Y%m%d"), acquired.strftime("%H%M%S")
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.TimezoneOffsetFromUTC = acquired.strftime("%z")
    # Patient and patient study
    image.PatientName = patient.name
    image.PatientID = patient.patient_id
    image.IssuerOfPatientID = patient.issuer
    image.PatientBirthDate = patient.birth_date
    image.PatientSex = patient.sex
    image.PatientAge = patient.age(acquired)
    # Study: another patient or day is another study of the same phantom
    image.StudyInstanceUID = uid(phantom.seed, "study", patient.issuer, patient.patient_id, acquired.isoformat())
    image.StudyDate, image.StudyTime = day, time
    image.StudyID = str(phantom.seed)
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.StudyDescription = "CT chest, synthetic phantom"
    # Series, frame of reference, equipment
    image.Modality = "CT"
    image.SeriesInstanceUID = uid(phantom.seed, image.StudyInstanceUID, volume.series_uid)
    image.SeriesNumber = 2
    image.SeriesDate, image.SeriesTime = day, time
    image.SeriesDescription = f"{SYNTHETIC}, {protocol.kernel} kernel"
    image.BodyPartExamined = "CHEST"
    image.PatientPosition = "HFS"
    image.FrameOfReferenceUID = geometry.frame_of_reference_uid
    image.PositionReferenceIndicator = ""
    image.Manufacturer = "Auscult"
    image.ManufacturerModelName = "Chest phantom"
    # Acquisition and CT image
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.AcquisitionNumber = 1
    image.AcquisitionDate = image.ContentDate = day
    image.AcquisitionTime = image.ContentTime = time
    image.KVP = "120"
    image.ConvolutionKernel = protocol.kernel.upper()
    image.SliceThickness = _decimal(protocol.thickness_mm or geometry.spacing[0])
    image.PixelSpacing = [_decimal(step) for step in geometry.spacing[1:]]
    image.ImageOrientationPatient = [_decimal(v) for v in (*geometry.axes[2], *geometry.axes[1])]
    image.ImageComments = SYNTHETIC
    # Pixels
    image.Rows, image.Columns = geometry.shape[1:]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = str(INTERCEPT), "1", "HU"
    image.WindowCenter, image.WindowWidth = WINDOWS[protocol.kernel]
    return image


def _slice(seed: int, common: Dataset, volume: Volume, index: int) -> Dataset:
    image = Dataset()
    image.update(common)
    position = volume.geometry.to_patient((index, 0, 0))
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = uid(seed, common.StudyInstanceUID, volume.sop_instance_uids[index])
    image.InstanceNumber = index + 1
    image.ImagePositionPatient = [_decimal(v) for v in position]
    image.SliceLocation = _decimal(position[2])
    image.PixelData = (volume.hu[index] - INTERCEPT).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta = meta
    return image


def _decimal(value: float) -> str:
    """Return a decimal string (VR DS: at most 16 characters) exact to 0.1 micrometres."""
    return f"{value:.4f}"

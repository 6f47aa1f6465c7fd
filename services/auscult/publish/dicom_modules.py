"""What all objects that are written have in common: whose they are, what made them, when.

highdicom and pydicom see the sources without names: patient and study are copied at the end, byte by byte, so that
no character set, no date in a local form and no missing value gets in the way, or is "repaired".
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from auscult import __version__
from auscult.domain.identity import NAMESPACE, dicom_uid
from auscult.imaging.own_results import MANUFACTURER
from auscult.publish.dicom_codes import schemes

SERIES_NUMBER = 9501
"""Far above what scanners count to, so that results sort last; each kind of object has the next."""
IMPLEMENTATION = UID(dicom_uid(uuid.uuid5(NAMESPACE, "implementation")))
"""Implementation Class UID (PS3.7, D.3.3.2) of what is written without highdicom."""

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)
"""May be empty, and may not be absent (PS3.3, C.7.1.1, C.7.2.1)."""
COPIED = tuple(
    sorted(
        tag_for_keyword(keyword) or 0
        for keyword in (
            *TYPE_2,
            # Common to the study's instances (C.12.1): how its text and its times are to be read.
            *("SpecificCharacterSet", "TimezoneOffsetFromUTC"),
            # Patient (C.7.1.1)
            *("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "PatientBirthTime"),
            *("PatientBirthDateInAlternativeCalendar", "PatientAlternativeCalendar", "OtherPatientIDsSequence"),
            *("OtherPatientNames", "OtherPatientIDs", "ReferencedPatientSequence", "EthnicGroup"),
            *("QualityControlSubject", "PatientComments", "PatientIdentityRemoved", "DeidentificationMethod"),
            "DeidentificationMethodCodeSequence",
            *("PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription"),
            *("PatientBreedCodeSequence", "BreedRegistrationSequence"),
            *("ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization"),
            # Clinical Trial Subject (C.7.1.3) and Study (C.7.2.3)
            *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"),
            *("ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
            *("ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription"),
            # General Study (C.7.2.1)
            *("StudyInstanceUID", "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord"),
            *("ReferringPhysicianIdentificationSequence", "PhysiciansOfRecordIdentificationSequence"),
            *("NameOfPhysiciansReadingStudy", "PhysiciansReadingStudyIdentificationSequence"),
            *("RequestingServiceCodeSequence", "ReferencedStudySequence", "ProcedureCodeSequence"),
            *("ReasonForPerformedProcedureCodeSequence", "ConsultingPhysicianName"),
            # Patient Study (C.7.2.2)
            *("AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize"),
            *("PatientWeight", "PatientBodyMassIndex", "MedicalAlerts", "Allergies", "SmokingStatus"),
            *("PregnancyStatus", "LastMenstrualDate", "PatientState", "Occupation", "AdditionalPatientHistory"),
            *("AdmissionID", "IssuerOfAdmissionIDSequence", "PatientSexNeutered"),
        )
    )
)
"""The modules of patient and study, as PS3.3 names their attributes."""

_PIXELS = 0x7FE00000
_TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"}
"""VRs whose bytes are the same in every transfer syntax."""


def nameless(header: Dataset) -> Dataset:
    """Return `header` without pixels, patient and study: what highdicom is given to refer to and to measure by."""
    bare = Dataset({tag: header.get_item(tag) for tag in header.keys() if tag < _PIXELS and tag not in COPIED})  # noqa: SIM118
    bare.StudyInstanceUID = header.StudyInstanceUID
    for keyword in TYPE_2:
        setattr(bare, keyword, "")
    return bare


def complete(
    dataset: Dataset, header: Dataset, *, made: datetime, sop_instance_uid: str, description: str, content_date: str
) -> None:
    """Give a written object its patient and study from `header`, its equipment, and `made` as its only time.

    `content_date`: what its kind calls the date of its content, such as `Content` or `StructureSet`. No share of
    the clock or of chance is left: the same arguments give the same bytes.
    """
    dataset.Manufacturer = dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = __version__, "none"
    dataset.SeriesDescription = text(description, header)
    if private := schemes(dataset):
        dataset.CodingSchemeIdentificationSequence = private
    for prefix in ("InstanceCreation", "Series", content_date):
        setattr(dataset, f"{prefix}Date", made.strftime("%Y%m%d"))
        setattr(dataset, f"{prefix}Time", made.strftime("%H%M%S.%f"))
    for equipment in dataset.get("ContributingEquipmentSequence") or ():
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = made.strftime("%Y%m%d%H%M%S.%f")
    dimensions = derived_uid(sop_instance_uid, "dimensions")
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(keyword) or ():
            item.DimensionOrganizationUID = dimensions
    _copy(header, dataset)


def begin(sop_class: str, sop_instance_uid: str, series_uid: str, modality: str, series_number: int) -> Dataset:
    """Return a new object of `sop_class` for `complete` to finish."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_instance_uid
    dataset.SeriesInstanceUID, dataset.SeriesNumber = series_uid, series_number
    dataset.Modality, dataset.InstanceNumber = modality, 1
    return dataset


def derived_uid(sop_instance_uid: str, part: str) -> str:
    """Return the UID of a part of an object, such as a segment that no one tracks."""
    return dicom_uid(uuid.uuid5(NAMESPACE, f"{sop_instance_uid}|{part}"))


def text(said: str, header: Dataset, most: int = 64) -> str:
    """Return `said` within `most` characters, as the study's character set can write it; else with `?`."""
    said = said.replace("\\", "/")[:most].strip()
    if said.isascii() or str(header.get("SpecificCharacterSet") or "") in {"ISO_IR 192", "GB18030"}:
        return said
    return said.encode("ascii", "replace").decode()


def references(headers: Sequence[Dataset]) -> list[Dataset]:
    """Return Image SOP Instance Reference Macros (PS3.3, table 10-3), one for each instance with its frames."""
    items: dict[str, Dataset] = {}
    for header in headers:
        item = items.setdefault(header.SOPInstanceUID, Dataset())
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        if "ReferencedFrameNumber" in header:
            numbers = item.get("ReferencedFrameNumber") or []
            numbers = [numbers] if isinstance(numbers, int) else list(numbers)
            item.ReferencedFrameNumber = [*numbers, header.ReferencedFrameNumber]
    return list(items.values())


def _copy(header: Dataset, dataset: Dataset) -> None:
    # Bytes that are not decoded yet are written as they are; who reads them before needs their character set.
    dataset.set_original_encoding(
        is_implicit_vr=None, is_little_endian=None, character_encoding=header.original_character_set
    )
    for tag in COPIED:
        if tag in dataset:
            del dataset[tag]
        if tag in header:
            dataset[tag] = _verbatim(header, tag)
    for keyword in TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")


def _verbatim(header: Dataset, tag: int) -> DataElement | RawDataElement:
    element = header.get_item(tag)
    vr = dictionary_VR(tag)
    if not isinstance(element, RawDataElement) or element.value is None or vr not in _TEXT or tag == 0x00080005:
        return deepcopy(header[tag])
    return element._replace(VR=vr, is_implicit_VR=False, is_little_endian=True)

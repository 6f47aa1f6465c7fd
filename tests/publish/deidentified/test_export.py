"""What leaves the site tells nothing of whom it was about, and still fits together."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset

from auscult.domain.finding import Card, Result
from auscult.domain.study import StudyRef
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.platform.errors import Refused, RefuseToStart
from auscult.publish.deidentified import fhir
from auscult.publish.deidentified.cohort import Exporter
from auscult.publish.deidentified.dicom import deidentify
from auscult.publish.deidentified.pseudonyms import Pseudonyms, read_key
from auscult.publish.fhir.client import FhirClient
from dicom_factory import ct_series

KEY = b"k" * 32
NAMES = Pseudonyms(KEY, "default|Patient/42")
SECRETS = (
    "Featherstone",
    "Maximiliane",
    "MRN-778899",
    "19520317",
    "1952-03-17",
    "ACC-5551",
    "Dr^Whitcombe",
    "Lindenhof",
)


def secretive(dataset: Dataset) -> FileDataset:
    """Return `dataset` as a file with the secrets in every place where people put them."""
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = (
        "Featherstone^Maximiliane",
        "MRN-778899",
        "19520317",
    )
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "ACC-5551", "Dr^Whitcombe"
    dataset.InstitutionName = "Lindenhof"
    dataset.StudyDescription = "Thorax of Featherstone"
    dataset.ImageComments = "MRN-778899, born 1952-03-17"
    dataset.ContrastBolusAgent = "for Maximiliane Featherstone"
    dataset.ConvolutionKernel = "featherstone"
    dataset.PatientAge, dataset.PatientWeight = "093Y", 61.5
    dataset.StudyDate = "20260131"
    dataset.AcquisitionDateTime = "20260131120000.5"
    dataset.add_new(0x00091001, "LO", "Featherstone")
    dataset.add_new(0x60003000, "OW", b"Featherstone")
    item = Dataset()
    item.RequestedProcedureDescription, item.PatientName = "Featherstone", "Featherstone^Maximiliane"
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    dataset.ReferencedImageSequence = [item]
    return encoded(dataset)


def encoded(dataset: Dataset) -> FileDataset:
    """Return what a reader sees of `dataset`."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


def written(dataset: FileDataset) -> bytes:
    """Return the file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_no_identifier_is_in_any_byte_of_an_exported_object() -> None:
    """Names, numbers, dates, institution and UIDs are gone, wherever they stood; the pixels and the geometry stay."""
    original = secretive(ct_series()[0])
    uids = {str(original[name].value) for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    pixels, position = original.PixelData, list(original.ImagePositionPatient)
    left = deidentify(original, NAMES)
    data = written(left)
    for secret in (*SECRETS, *uids, "20260131", "Featherstone".upper(), "featherstone"):
        assert secret.encode() not in data
    assert left.PixelData == pixels
    assert list(left.ImagePositionPatient) == position
    assert left.PatientID == NAMES.patient
    assert (left.PatientAge, left.PatientSex, left.PatientWeight) == ("090Y", "F", 61.5)
    assert left.PatientIdentityRemoved == "YES"
    assert [str(code.CodeValue) for code in left.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert left.ReferencedImageSequence[0].ReferencedSOPInstanceUID == left.SOPInstanceUID
    assert left.file_meta.MediaStorageSOPInstanceUID == left.SOPInstanceUID


def test_what_belonged_together_still_does() -> None:
    """Slices keep one study and one series, dates keep their distance, and a second export gives the same."""
    slices = ct_series((3, 4, 4))
    slices[1].AcquisitionDate = "20260203"
    slices[0].AcquisitionDate = "20260131"
    again = [encoded(each) for each in slices]
    left = [deidentify(encoded(each), NAMES) for each in slices]
    assert len({each.StudyInstanceUID for each in left}) == len({each.FrameOfReferenceUID for each in left}) == 1
    assert len({each.SOPInstanceUID for each in left}) == 3
    days = [
        np.datetime64(f"{each.AcquisitionDate[:4]}-{each.AcquisitionDate[4:6]}-{each.AcquisitionDate[6:]}")
        for each in left[:2]
    ]
    assert days[1] - days[0] == np.timedelta64(3, "D")
    assert [written(deidentify(each, NAMES)) for each in again] == [written(each) for each in left]
    other = deidentify(encoded(slices[0]), Pseudonyms(b"x" * 32, "default|Patient/42"))
    assert other.StudyInstanceUID != left[0].StudyInstanceUID
    assert other.PatientID != left[0].PatientID


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in-annotation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "kind-not-exported"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "kind-not-exported"),
    ],
)
def test_what_cannot_be_cleaned_is_refused(changes: dict[str, str], reason: str) -> None:
    """Pixels with text in them, structured reports and screenshots do not leave."""
    original = ct_series((1, 4, 4))[0]
    original.update(changes)
    with pytest.raises(Refused) as refusal:
        deidentify(original, NAMES)
    assert refusal.value.reason == reason


@given(st.dates().map(lambda day: day.strftime("%Y%m%d").zfill(8)), st.binary(min_size=32, max_size=32))
def test_a_date_moves_by_whole_days_of_its_patient(day: str, key: bytes) -> None:
    """Every date moves by the same number of days, at least one, and text that is no date is emptied."""
    names = Pseudonyms(key, "p")
    assert names.dicom_date(day) != day
    assert 1 <= -names.shift.days <= 3650
    assert names.dicom_date("about noon") == ""


OBSERVATION = {
    "resourceType": "Observation",
    "id": "o1",
    "meta": {"security": [{"system": "s", "code": "AIAST"}], "source": "Lindenhof"},
    "text": {"status": "generated", "div": "<div>Featherstone</div>"},
    "contained": [{"resourceType": "Patient", "name": [{"family": "Featherstone"}]}],
    "extension": [{"url": "u", "valueString": "Featherstone"}],
    "identifier": [{"value": "ACC-5551"}],
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "1-8"}], "text": "size in Featherstone"},
    "subject": {"reference": "Patient/42", "display": "Featherstone"},
    "performer": [{"reference": "Practitioner/9", "display": "Dr^Whitcombe"}],
    "effectiveDateTime": "2026-01-31T12:00:00Z",
    "valueQuantity": {"value": 8.4, "unit": "mm", "code": "mm"},
    "note": [{"text": "MRN-778899"}],
    "derivedFrom": [{"reference": "ImagingStudy/i1"}, {"reference": "https://elsewhere/Patient/42"}],
}


def test_of_a_resource_only_what_is_listed_leaves() -> None:
    """Values, codes and links stay; narrative, notes, people, identifiers and extensions do not."""
    left = fhir.deidentify(OBSERVATION, NAMES)
    assert left
    text = json.dumps(left)
    assert not any(secret in text for secret in (*SECRETS, "2026-01-31", "Patient/42", '"o1"'))
    assert left["valueQuantity"] == {"value": 8.4, "unit": "mm", "code": "mm"}
    assert left["meta"] == {"security": [{"system": "s", "code": "AIAST"}]}
    assert left["derivedFrom"] == [{"reference": f"ImagingStudy/{NAMES.fhir_id('ImagingStudy', 'i1')}"}]
    person = fhir.deidentify(
        {"resourceType": "Patient", "id": "42", "birthDate": "1901-03-17", "gender": "female"}, NAMES
    )
    assert person
    assert left["subject"]["reference"] == f"Patient/{person['id']}"
    assert person["gender"] == "female"
    assert int(person["birthDate"]) > 1930
    assert fhir.deidentify({"resourceType": "Practitioner", "id": "9"}, NAMES) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["code", "subject", "reference", "coding", "component"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_whatever_a_server_sends_is_refused_or_reduced(content: Any) -> None:
    """An element of another shape than its rule is left out."""
    left = fhir.deidentify({"resourceType": "Observation", "code": content, "subject": content}, NAMES)
    assert left is not None
    assert set(left) <= {"resourceType", "code", "subject"}


def test_a_cohort_is_written_with_its_images_and_says_what_was_left_out(tmp_path: Path) -> None:
    """Record and images of one patient have the same pseudonyms; what was refused is counted, of nobody."""
    slices = [secretive(each) for each in ct_series((2, 4, 4))]
    slices[1].BurnedInAnnotation = "YES"
    store = ImageStore(tmp_path / "images", min_free_bytes=0)
    for each in slices:
        data = written(each)
        store.put("default", InstanceHeader.read(data), data)
    study = str(slices[0].StudyInstanceUID)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/fhir/Patient/42":
            return httpx.Response(200, json={"resourceType": "Patient", "id": "42", "birthDate": "1952-03-17"})
        found = []
        if request.url.path == "/fhir/Observation":
            found = [{"resource": OBSERVATION}]
        if request.url.path == "/fhir/ImagingStudy":
            identifier = [{"system": "urn:dicom:uid", "value": f"urn:oid:{study}"}]
            found = [{"resource": {"resourceType": "ImagingStudy", "id": "i1", "identifier": identifier}}]
        return httpx.Response(200, json={"resourceType": "Bundle", "type": "searchset", "entry": found})

    result = Result(
        StudyRef("default", study, "d"),
        "lung_nodule",
        "1",
        "Patient/42",
        "final",
        (),
        Card("s", "info", "d", "l"),
        "now",
    )
    folder = tmp_path / "out"
    with FhirClient("http://record/fhir", 5, transport=httpx.MockTransport(answer)) as record:
        manifest = Exporter(folder, KEY, record, store).export([result, result])
        with pytest.raises(RefuseToStart, match="folder-in-use"):
            Exporter(folder, KEY, record, store).export([result])
    assert manifest["written"] == {"ImagingStudy": 1, "Observation": 1, "Patient": 1, "dicom": 1}
    assert manifest["refused"] == {"burned-in-annotation": 1}
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    names = "".join(str(path) for path in folder.rglob("*"))
    assert not any(secret.encode() in everything or secret in names for secret in (*SECRETS, study))
    [file] = folder.rglob("*.dcm")
    study_line = json.loads((folder / "fhir" / "ImagingStudy.ndjson").read_text())
    assert study_line["identifier"][0]["value"] == f"urn:oid:{dcmread(file).StudyInstanceUID}"


def test_the_key_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    """The same file gives the same pseudonyms; one that this command did not write is refused."""
    path = tmp_path / "key"
    key = read_key(path)
    assert read_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(RefuseToStart, match="key-unusable"):
        read_key(path)

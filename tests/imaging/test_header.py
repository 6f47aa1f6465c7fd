"""The gate: what is no whole DICOM object is refused by name, and nothing else escapes."""

from __future__ import annotations

import struct
from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from auscult.imaging.header import InstanceHeader
from auscult.platform.errors import Refused
from dicom_factory import ct_series, encode, structure_set

SLICES = ct_series((3, 8, 8))
WHOLE = encode(SLICES[0])
STRUCTURES = encode(structure_set(SLICES, {"GTV": []}))
PREFIX = b"\0" * 128 + b"DICM"


def slice_with(**attributes: object) -> Dataset:
    """Return a slice with some attributes changed."""
    dataset = ct_series((1, 8, 8))[0]
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def reason_and_status(data: bytes) -> tuple[str, int]:
    """Return how `data` is refused."""
    with pytest.raises(Refused) as caught:
        InstanceHeader.read(data)
    return caught.value.reason, caught.value.status


def test_a_ct_slice_says_whose_and_where_it_is(tmp_path: Path) -> None:
    """A header has identity, place and patient, whether it comes from bytes or a file."""
    file = tmp_path / "slice.dcm"
    file.write_bytes(WHOLE)
    header = InstanceHeader.read(file)
    assert header == InstanceHeader.read(WHOLE)
    assert header.sop_instance_uid == SLICES[0].SOPInstanceUID
    assert (header.rows, header.columns, header.position) == (8, 8, (-20.0, -30.0, 40.0))
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.patient.patient_id == "P-1"
    assert header.patient.issuer == "HOSPITAL"
    assert header.patient.birth_date == date(1960, 2, 3)
    assert header.volume_modality == "CT"


def test_an_id_in_another_script_is_read_in_its_character_set() -> None:
    """Values that are not ASCII are decoded as SpecificCharacterSet says."""
    assert InstanceHeader.read(encode(slice_with(PatientID="Ж-17"))).patient.patient_id == "Ж-17"
    latin = slice_with(SpecificCharacterSet="ISO_IR 100", PatientID="Ä-17")
    assert InstanceHeader.read(encode(latin)).patient.patient_id == "Ä-17"


def test_a_localiser_is_no_slice() -> None:
    """A CT image of type LOCALIZER is stored, and is not counted as a slice."""
    assert not InstanceHeader.read(encode(slice_with(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))).volume_modality


def test_a_structure_set_names_the_series_it_was_drawn_on() -> None:
    """The series that an RTSTRUCT refers to is in its header."""
    header = InstanceHeader.read(STRUCTURES)
    assert header.is_structure_set
    assert header.referenced_series == (SLICES[0].SeriesInstanceUID,)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_uncompressed_transfer_syntaxes_are_walked(syntax: UID) -> None:
    """Implicit VR and big endian files are read, and found out where they are cut."""
    dataset = slice_with()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    data = buffer.getvalue()
    assert InstanceHeader.read(data).rows == 8
    assert reason_and_status(data[:-1]) == ("truncated", 0xC000)


def test_compressed_pixels_are_walked_fragment_by_fragment() -> None:
    """An RLE file is read; cut within its fragments it is refused."""
    dataset = slice_with()
    dataset.compress(RLELossless, generate_instance_uid=False)
    data = encode(dataset)
    assert InstanceHeader.read(data).transfer_syntax_uid == RLELossless
    for cut in (1, 9, 40):
        assert reason_and_status(data[:-cut])[0] == "truncated"


@pytest.mark.parametrize("data", [b"", b"not DICOM", PREFIX, b"\0" * 4096, PREFIX + b"\0" * 64, WHOLE[132:]])
def test_what_is_not_dicom_is_refused_as_such(data: bytes) -> None:
    """Files without prefix or transfer syntax are `not-dicom`."""
    assert reason_and_status(data) == ("not-dicom", 0xC000)


def test_a_deflated_file_is_refused() -> None:
    """A deflated data set could grow without limit; it is not inflated."""
    dataset = slice_with()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert reason_and_status(encode(dataset))[0] == "not-dicom"


@pytest.mark.parametrize("whole", [WHOLE, STRUCTURES])
def test_a_file_that_is_cut_anywhere_is_refused(whole: bytes) -> None:
    """No proper beginning of a file passes, except where only trailing whole elements are missing."""
    for length in range(0, len(whole) - 1, 7):
        try:
            InstanceHeader.read(whole[:length])
        except Refused as refused:
            assert refused.reason in {"truncated", "not-dicom", "missing-attribute"}  # noqa: PT017
        else:
            assert whole is STRUCTURES


def test_pixel_data_shorter_than_the_attributes_say_is_truncated() -> None:
    """A consistent file with too few pixels is found."""
    assert reason_and_status(encode(slice_with(PixelData=b"\0" * 126))) == ("truncated", 0xC000)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "PixelData"])
def test_a_missing_attribute_is_named(keyword: str) -> None:
    """The refusal carries the keyword and status 0xA900."""
    dataset = slice_with()
    del dataset[keyword]
    with pytest.raises(Refused, match=keyword) as caught:
        InstanceHeader.read(encode(dataset))
    assert (caught.value.reason, caught.value.status) == ("missing-attribute", 0xA900)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.02.3", "1." + "2" * 64, "1/2", "1..2"])
def test_a_uid_that_is_none_is_refused(uid: str) -> None:
    """Only UIDs as the standard defines them pass, and the refusal does not repeat the value."""
    at = WHOLE.index(b"\x20\x00\x0d\x00UI")
    length = struct.unpack_from("<H", WHOLE, at + 6)[0]
    value = uid.encode().ljust(len(uid) + len(uid) % 2, b"\0")
    changed = WHOLE[: at + 6] + struct.pack("<H", len(value)) + value + WHOLE[at + 8 + length :]
    with pytest.raises(Refused) as caught:
        InstanceHeader.read(changed)
    assert caught.value.reason == "invalid-uid"
    assert uid not in str(caught.value)


def test_a_directory_is_no_instance() -> None:
    """A DICOMDIR, and a class that is not known, are refused with 0x0122."""
    dataset = slice_with(SOPClassUID=MediaStorageDirectoryStorage)
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    assert reason_and_status(encode(dataset)) == ("unsupported-class", 0x0122)


def test_file_meta_of_another_instance_is_refused() -> None:
    """File meta information and data set must name the same instance."""
    uid = SLICES[0].SOPInstanceUID.encode()
    other = uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2")
    assert reason_and_status(WHOLE.replace(uid, other, 1)) == ("meta-mismatch", 0xA900)


def test_a_position_that_is_no_position_is_refused() -> None:
    """Two coordinates, or words, are not a place."""
    assert reason_and_status(encode(slice_with(ImagePositionPatient=[1, 2])))[0] == "missing-attribute"


def test_an_unknown_birth_date_is_none() -> None:
    """Empty and impossible birth dates are unknown ones."""
    for text in (b"00000000", b"1960    ", b"19601340"):
        assert InstanceHeader.read(WHOLE.replace(b"19600203", text)).patient.birth_date is None


def test_nesting_without_end_is_refused() -> None:
    """Ten thousand open sequences are refused, not followed."""
    at = WHOLE.index(b"\x08\x00\x05\x00CS")
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    assert reason_and_status(WHOLE[:at] + deep)[0] == "not-dicom"


def test_an_absurd_length_is_refused_before_anything_is_allocated() -> None:
    """A declared length of 4 GB in a file of a few hundred bytes is a cut file."""
    at = WHOLE.index(b"\x08\x00\x05\x00CS")
    assert reason_and_status(WHOLE[:at] + b"\x08\x00\x00\x00UN\0\0\xfe\xff\xff\xff")[0] == "truncated"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(tail: bytes) -> None:
    """No bytes raise anything but Refused."""
    for data in (tail, PREFIX + tail, WHOLE[:400] + tail):
        with pytest.raises(Refused):
            InstanceHeader.read(data)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from([WHOLE, STRUCTURES]),
    st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5),
)
def test_a_damaged_file_is_read_or_refused(whole: bytes, damage: list[tuple[int, bytes]]) -> None:
    """Flipped bytes give a header or Refused, never another error or a warning."""
    data = bytearray(whole)
    for at, patch in damage:
        data[at : at + len(patch)] = patch
    try:
        InstanceHeader.read(bytes(data))
    except Refused as refused:
        assert "Doe" not in str(refused)  # noqa: PT017

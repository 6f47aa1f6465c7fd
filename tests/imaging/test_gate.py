"""Hostile objects are accepted or refused by name, whatever their bytes are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, RLELossless

from auscult.domain.identity import is_uid
from auscult.imaging.gate import admit, unpacked
from auscult.imaging.header import InstanceHeader
from auscult.imaging.sandbox import Sandbox
from auscult.imaging.spool import Spool
from auscult.imaging.store import ImageStore
from auscult.platform.errors import Refused
from dicom_factory import ct_series, encode, structure_set
from hostile_dicom import Hostile, deflated, file_meta, objects

pytestmark = pytest.mark.golden

NO_STORE = mock.create_autospec(ImageStore)
"""The seeds stay in memory."""
CT = ct_series((3, 4, 4))
SEEDS = {
    "a CT slice": encode(CT[0]),
    "a structure set": encode(structure_set(CT, {"GTV": [[(-18, -28, 40), (-16, -28, 40), (-16, -26, 40)]]})),
    "a deflated slice": file_meta(CT[0].SOPClassUID, CT[0].SOPInstanceUID, DeflatedExplicitVRLittleEndian)
    + deflated(encode(CT[0])[400:]),
}


def became(hostile: Hostile, store: ImageStore) -> str:
    """Return the reason why an object is refused; empty where it is accepted, and stored."""
    try:
        with unpacked(hostile.file, store) as source:
            header = admit(source)
            store.put("site", header, source)
    except Refused as refused:
        return refused.reason
    return "" if store.instances("site", header.study_uid) else "not stored"


def test_each_hostile_object_is_accepted_or_refused_by_name(store: ImageStore) -> None:
    """Nothing but Refused is raised, with a reason that fits, and what is accepted is stored."""
    surprises = {
        hostile.name: (reason, hostile.reasons)
        for hostile in objects()
        if (reason := became(hostile, store)) not in (hostile.reasons or ("",))
    }
    assert surprises == {}


@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_bytes_are_accepted_or_refused(seed: str, data: st.DataObject) -> None:
    """Bytes overwritten, cut out and put in anywhere: a header with valid UIDs, or Refused."""
    whole = SEEDS[seed]
    for _ in range(data.draw(st.integers(1, 4))):
        at, drop = data.draw(st.integers(0, len(whole))), data.draw(st.sampled_from((0, 1, 2, 4, 50, 4000)))
        whole = whole[:at] + data.draw(st.binary(max_size=12)) + whole[at + drop :]
    try:
        with unpacked(whole, NO_STORE) as source:
            header = admit(source)
    except Refused:
        return
    assert is_uid(header.study_uid)
    assert is_uid(header.sop_instance_uid)


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    """Run one child that has two seconds for a task, and tasks that go wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        one = Sandbox(1, seconds=2, program="hostile_child")
        yield one
        one.close()


def test_a_child_that_takes_too_long_is_killed(child: Sandbox) -> None:
    """The task is refused by name, long before it would end, and the next one finds a new child."""
    child.warm()
    with pytest.raises(Refused, match="parser-timeout"):
        child.call("sleep", 600, answer=type(None))
    child.warm()


def test_a_child_that_wants_too_much_memory_is_refused(child: Sandbox) -> None:
    """An allocation beyond the limit fails inside the child, which lives on."""
    with pytest.raises(Refused, match="parser-memory"):
        child.call("allocate", 600 * 2**20, answer=type(None))
    child.call("allocate", 50 * 2**20, answer=type(None))


def test_a_child_that_dies_is_replaced(child: Sandbox) -> None:
    """A crash in a decoder costs its object, and no other."""
    with pytest.raises(Refused, match="parser-crashed"):
        child.call("crash", answer=type(None))
    assert child.call("header", SEEDS["a structure set"], answer=InstanceHeader).is_structure_set


def test_a_child_writes_no_file(child: Sandbox, tmp_path: Path) -> None:
    """What has taken over a parser cannot change the store."""
    with pytest.raises(Refused):
        child.call("write", str(tmp_path / "file"), answer=type(None))
    assert not (tmp_path / "file").exists() or not (tmp_path / "file").read_bytes()


def test_an_object_beyond_its_limit_takes_no_more_room(store: ImageStore) -> None:
    """Its bytes are dropped, in memory as on the disk, and the refusal says what to do."""
    for size, piece in ((100, 60), (6 * 2**20, 2**20)):
        with closing(Spool(store, size)) as spool:
            for _ in range(10):
                spool.write(bytes(piece))
            with pytest.raises(Refused, match="AUSCULT_MAX_OBJECT_BYTES"):
                _ = spool.source
    assert list(store.incoming().parent.iterdir()) == []


def test_a_large_object_goes_to_the_disk_with_its_preface(store: ImageStore) -> None:
    """Memory is not what it takes, and the file is gone when nobody took it."""
    with closing(Spool(store, 2**30, lambda: b"before")) as spool:
        for _ in range(6):
            spool.write(b"x" * 2**20)
        source = spool.source
        assert isinstance(source, Path)
        assert source.read_bytes() == b"before" + b"x" * 6 * 2**20
    assert not source.exists()


def test_a_full_disk_is_told_before_it_is_written(tmp_path: Path) -> None:
    """A large object is refused while it comes."""
    full = ImageStore(tmp_path / "images", min_free_bytes=2**60)
    with closing(Spool(full, 2**30)) as spool:
        spool.write(bytes(5 * 2**20))
        with pytest.raises(Refused, match="out-of-space"):
            _ = spool.source


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.3.4", "1" * 64])
def test_file_meta_information_is_as_pydicom_writes_it(uid: str) -> None:
    """Byte for byte, uneven lengths included."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid
    meta.TransferSyntaxUID = RLELossless
    expected = DicomBytesIO()
    write_file_meta_info(expected, meta)
    assert file_meta(CTImageStorage, uid, RLELossless) == bytes(128) + b"DICM" + expected.getvalue()

"""The image store keeps what it was given, once, or says why not."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ABANDONED, ImageStore
from auscult.platform.errors import Refused
from dicom_factory import ct_series, encode

SLICES = ct_series((3, 8, 8))
FILES = [encode(dataset) for dataset in SLICES]
HEADERS = [InstanceHeader.read(data) for data in FILES]


def files_in(folder: Path) -> list[Path]:
    """Return all files below `folder`."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_instance_lies_under_tenant_study_and_series(store: ImageStore, tmp_path: Path) -> None:
    """What was put is read back, byte for byte, and nothing else is left in the store."""
    paths = [store.put("site", header, data) for header, data in zip(HEADERS, FILES, strict=True)]
    header = HEADERS[0]
    assert paths[0] == (
        tmp_path / "images/site" / header.study_uid / header.series_uid / f"{header.sop_instance_uid}.dcm"
    )
    assert store.instances("site", header.study_uid) == sorted(paths)
    assert [path.read_bytes() for path in paths] == FILES
    assert sorted(files_in(tmp_path)) == sorted(paths)


def test_tenants_do_not_see_each_other(store: ImageStore) -> None:
    """A study of one tenant is not there for another."""
    store.put("one", HEADERS[0], FILES[0])
    assert store.instances("other", HEADERS[0].study_uid) == []


def test_the_same_instance_again_changes_nothing(store: ImageStore) -> None:
    """A resend succeeds and leaves the first file as it was."""
    first = store.put("site", HEADERS[0], FILES[0]).stat()
    assert store.put("site", HEADERS[0], FILES[0]).stat().st_ino == first.st_ino


def test_the_same_instance_in_another_transfer_syntax_is_the_same(store: ImageStore) -> None:
    """A PACS that forwards implicit VR what a scanner sent explicit VR sends nothing new."""
    dataset = ct_series((1, 8, 8))[0]
    data = encode(dataset)
    header = InstanceHeader.read(data)
    store.put("site", header, data)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    again = encode(dataset)
    assert again != data
    assert store.put("site", header, again).read_bytes() == data


def test_other_content_under_a_known_uid_is_a_conflict(store: ImageStore) -> None:
    """A changed object under an old UID is refused with `Duplicate SOP Instance`; the old one stays."""
    path = store.put("site", HEADERS[0], FILES[0])
    changed = FILES[0][:-2] + b"\xff\x0f"
    with pytest.raises(Refused) as caught:
        store.put("site", HEADERS[0], changed)
    assert (caught.value.reason, caught.value.status) == ("instance-conflict", 0x0111)
    assert path.read_bytes() == FILES[0]


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """With less free space than asked for, the answer is 0xA700 and no file appears."""
    store = ImageStore(tmp_path, min_free_bytes=2**62)
    with pytest.raises(Refused) as caught:
        store.put("site", HEADERS[0], FILES[0])
    assert (caught.value.reason, caught.value.status) == ("out-of-space", 0xA700)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "reason", "status"),
    [
        (errno.ENOSPC, "out-of-space", 0xA700),
        (errno.EDQUOT, "out-of-space", 0xA700),
        (errno.EIO, "store-failed", 0x0110),
    ],
)
def test_a_write_that_fails_leaves_nothing(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, status: int
) -> None:
    """A disk that fills up or fails while writing is a refusal, and the unfinished file is removed."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Refused) as caught:
        store.put("site", HEADERS[0], FILES[0])
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert files_in(store._root) == []


def test_file_and_folders_are_on_the_disk_before_put_returns(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced before it has its name, and each folder that got a new name after."""
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    header = HEADERS[0]
    store.put("site", header, FILES[0])
    assert len(synced[0]) == 32
    assert synced[1:] == [header.study_uid, "site", "images", header.series_uid]


def test_senders_racing_with_one_instance_all_succeed(store: ImageStore) -> None:
    """Eight threads that store the same instances leave each once."""
    with ThreadPoolExecutor(8) as pool:
        for header, data in zip(HEADERS, FILES, strict=True):
            assert len(set(pool.map(lambda _, h=header, d=data: store.put("site", h, d), range(8)))) == 1
    assert len(store.instances("site", HEADERS[0].study_uid)) == 3


@pytest.mark.parametrize("tenant", ["..", ".", "", "a/b", ".incoming", "a\0"])
def test_no_tenant_leaves_the_store(store: ImageStore, tenant: str) -> None:
    """A tenant that is no plain folder name is refused."""
    with pytest.raises(Refused, match="invalid-uid"):
        store.put(tenant, HEADERS[0], FILES[0])


@pytest.mark.parametrize("uid", ["..", "1/2", "", "*"])
def test_nothing_but_a_uid_becomes_a_path(store: ImageStore, uid: str) -> None:
    """Study, series and instance are UIDs or refused."""
    for changed in (
        replace(HEADERS[0], study_uid=uid),
        replace(HEADERS[0], series_uid=uid),
        replace(HEADERS[0], sop_instance_uid=uid),
    ):
        with pytest.raises(Refused, match="invalid-uid"):
            store.put("site", changed, FILES[0])
    with pytest.raises(Refused, match="invalid-uid"):
        store.instances("site", uid)


def test_what_a_dead_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    """Old unfinished files go at the next start; young ones may be another process's."""
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    (incoming / "old").touch()
    os.utime(incoming / "old", (0, ABANDONED))
    (incoming / "young").touch()
    ImageStore(tmp_path, min_free_bytes=0)
    assert [path.name for path in incoming.iterdir()] == ["young"]

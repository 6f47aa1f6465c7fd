"""The image store keeps what it was given, once, or says why not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from auscult.imaging.store import ABANDONED, ImageStore
from auscult.platform.errors import Refused
from contracts.image_store_contract import FILES, HEADERS, ImageStoreContract


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


def test_the_same_instance_again_changes_nothing(store: ImageStore) -> None:
    """A resend succeeds and leaves the first file as it was."""
    first = store.put("site", HEADERS[0], FILES[0]).stat()
    assert store.put("site", HEADERS[0], FILES[0]).stat().st_ino == first.st_ino


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


def test_what_a_dead_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    """Old unfinished files go at the next start; young ones may be another process's."""
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    (incoming / "old").touch()
    os.utime(incoming / "old", (0, ABANDONED))
    (incoming / "young").touch()
    ImageStore(tmp_path, min_free_bytes=0)
    assert [path.name for path in incoming.iterdir()] == ["young"]


class TestFolderStore(ImageStoreContract):
    """The contract of all image stores."""

"""The image store: bytes are durable here before anyone is told about them; the bus carries references only."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auscult.domain.identity import is_uid
from auscult.imaging import notes
from auscult.imaging.header import InstanceHeader
from auscult.imaging.part10 import CANNOT_UNDERSTAND, framing
from auscult.imaging.sandbox import sandbox
from auscult.platform.errors import Refused

OUT_OF_RESOURCES = 0xA700
"""C-STORE status `Refused: Out of Resources` (PS3.4, B.2.3)."""
DUPLICATE_INSTANCE = 0x0111
"""Status `Duplicate SOP Instance` (PS3.7, C.4.3)."""
PROCESSING_FAILURE = 0x0110
"""Status `Processing failure` (PS3.7, C.5.3)."""
ABANDONED = 3600.0
"""Seconds after which an unfinished file of a process that died is removed at the next start."""

_TENANT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ImageStore:
    """A folder `root/tenant/study/series/instance.dcm`, written once and never changed.

    Safe for several threads and processes. A file is complete and on the disk before it has its name.
    """

    def __init__(self, root: Path, *, min_free_bytes: int) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes
        self._incoming = root / ".incoming"
        self._making_folders = threading.Lock()
        self._incoming.mkdir(parents=True, exist_ok=True)
        for left in self._incoming.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            elif time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink(missing_ok=True)

    def put(self, tenant: str, header: InstanceHeader, data: bytes | Path) -> Path:
        """Store a DICOM file durably and return its path; storing the same instance again changes nothing.

        `data`: its bytes, or its file in `incoming`, of which the store then has a name of its own.

        Refused: `out-of-space` before anything is written, `instance-conflict` where the instance is here with
        other content, `store-failed`.
        """
        path = self.path(tenant, header.study_uid, header.series_uid, header.sop_instance_uid)
        if path.exists():
            return self._same(path, data)
        if isinstance(data, bytes):
            self.make_room(len(data))
        try:
            with storing():
                self._write(path, data)
        except FileExistsError:
            return self._same(path, data)
        return path

    def path(self, tenant: str, study_uid: str, series_uid: str, sop_instance_uid: str) -> Path:
        """Return where an instance lies. Refused (`invalid-uid`): nothing but UIDs becomes part of a path."""
        if not (is_uid(series_uid) and is_uid(sop_instance_uid)):
            raise _invalid()
        return self._study(tenant, study_uid) / series_uid / f"{sop_instance_uid}.dcm"

    def instances(self, tenant: str, study_uid: str) -> list[Path]:
        """Return a study's files, sorted; none where the study is not here. Refused (`invalid-uid`)."""
        return sorted(self._study(tenant, study_uid).glob("*/*.dcm"))

    def count(self, tenant: str, study_uid: str) -> int:
        """Return how many instances a study has. Refused (`invalid-uid`)."""
        return len(self.instances(tenant, study_uid))

    def newest(self, tenant: str, study_uid: str) -> float:
        """Return when the study's last instance was stored, in seconds since the epoch; 0 where it has none."""
        return max((path.stat().st_mtime for path in self.instances(tenant, study_uid)), default=0.0)

    def studies(self, tenant: str) -> list[str]:
        """Return the studies that are here, sorted. Refused (`invalid-uid`)."""
        if not _TENANT.fullmatch(tenant):
            raise _invalid()
        folder = self._root / tenant
        return sorted(each.name for each in folder.iterdir() if is_uid(each.name)) if folder.exists() else []

    def erase(self, tenant: str, study_uid: str) -> int:
        """Remove a study, durably, and return how many instances it had. Refused (`invalid-uid`)."""
        folder = self._study(tenant, study_uid)
        count = len(self.instances(tenant, study_uid))
        notes_of = (notes.of_study(study_uid), notes.kept_with(study_uid))
        for each in (folder, *(self._note(tenant, name) for name in notes_of)):
            if each.exists():
                # Away at once, so that nobody reads half a study.
                gone = self.incoming()
                each.rename(gone)
                sync_folder(each.parent)
                shutil.rmtree(gone)
                sync_folder(self._incoming)
        return count

    def note(self, tenant: str, name: str) -> bytes:
        """Return a note; empty where there is none. Refused (`invalid-uid`)."""
        try:
            return self._note(tenant, name).read_bytes()
        except FileNotFoundError:
            return b""

    def notes(self, tenant: str, folder: str) -> list[bytes]:
        """Return the notes in a folder of them, in the order of their names. Refused (`invalid-uid`)."""
        return [path.read_bytes() for path in sorted(self._note(tenant, folder).glob("*"))]

    def write_note(self, tenant: str, name: str, text: bytes) -> None:
        """Write a note durably, in the place of an earlier one. Refused: `invalid-uid`, `out-of-space`."""
        path, temporary = self._note(tenant, name), self.incoming()
        self.make_room(len(text))
        with storing():
            self._make_folder(path.parent)
            try:
                with temporary.open("wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(path.parent)

    def _note(self, tenant: str, name: str) -> Path:
        if not _TENANT.fullmatch(tenant):
            raise _invalid()
        return self._root / ".notes" / tenant / notes.checked(name)

    def free_bytes(self) -> int:
        """Return how many bytes may still be written on the store's file system."""
        return shutil.disk_usage(self._root).free

    def make_room(self, size: int) -> None:
        """Refused (`out-of-space`) where `size` more bytes would not leave the space that is kept free."""
        if self.free_bytes() - size < self._min_free_bytes:
            raise out_of_space()

    def incoming(self) -> Path:
        """Return a name for an unfinished file; what a process leaves there when it dies is removed at a start."""
        return self._incoming / uuid.uuid4().hex

    def _study(self, tenant: str, study_uid: str) -> Path:
        if not (_TENANT.fullmatch(tenant) and is_uid(study_uid)):
            raise _invalid()
        return self._root / tenant / study_uid

    def _write(self, path: Path, data: bytes | Path) -> None:
        """Write, fsync, name, fsync the folder. A hard link gives the name: unlike a rename it never replaces."""
        temporary = self.incoming() if isinstance(data, bytes) else data
        try:
            with temporary.open("wb" if isinstance(data, bytes) else "rb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                    file.flush()
                os.fsync(file.fileno())
            self._make_folder(path.parent)
            os.link(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        """Create `folder`; on return its name is on the disk, whichever thread created it."""
        with self._making_folders:
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True)
                for parent in folder.relative_to(self._root).parents:
                    sync_folder(self._root / parent)

    def _same(self, path: Path, data: bytes | Path) -> Path:
        """Return `path` where it holds what `data` holds.

        A forwarding PACS may write other file meta information, or another uncompressed transfer syntax:
        then the data sets are compared.
        """
        sync_folder(path.parent)
        if _data_set(path) == _data_set(data) or sandbox().call("same", path, data, answer=bool):
            return path
        raise Refused(
            "instance-conflict",
            "this SOP instance is stored with other content; a changed object needs its own SOPInstanceUID",
            status=DUPLICATE_INSTANCE,
        )


def _data_set(source: bytes | Path) -> memoryview:
    """Return the encoded data set, without preamble and file meta information."""
    framed = framing(source)
    return memoryview(framed.data)[framed.start :]


@contextmanager
def storing() -> Iterator[None]:
    """Turn what goes wrong when the disk is written into Refused: `out-of-space`, `store-failed`."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise out_of_space() from None
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        raise Refused(
            "store-failed",
            f"the image store cannot be written ({name}); check its folder and permissions",
            status=PROCESSING_FAILURE,
        ) from None


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def out_of_space() -> Refused:
    """Return what a sender is told when the store is full."""
    return Refused(
        "out-of-space",
        "the image store is full; free space on it or lower AUSCULT_MIN_FREE_BYTES, then send again",
        status=OUT_OF_RESOURCES,
    )


def _invalid() -> Refused:
    return Refused(
        "invalid-uid", "a UID or the tenant cannot be part of a path; see PS3.5, 9.1", status=CANNOT_UNDERSTAND
    )

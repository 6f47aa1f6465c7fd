"""The image store in S3, or what speaks its protocol: `s3://bucket/prefix`, its keys as the folder's names.

The bucket is the truth: an object is stored when the bucket has it. A folder on disk holds working copies, because
files are mapped, and parsed in children that read files; what was not used for an hour may go when there are many.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import S3Store

from auscult.domain.identity import is_uid
from auscult.imaging import notes
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import FULL, OUT_OF_RESOURCES, ImageStore, out_of_space
from auscult.platform.errors import Refused, RefuseToStart, Retry

PATIENCE = timedelta(seconds=10)
"""How long one request is tried again before the store counts as away: a sender waits meanwhile."""
KEPT = 3600.0
"""Seconds that a study's working copies stay after their last use."""
AT_ONCE = 8
"""Objects that are fetched at one time."""
_FULL = (
    "status code: 507",
    *(f"<Code>{code}" for code in ("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "EntityTooLarge")),
)
"""How the text of an error says so. The text holds the address and the key, too: a number alone would match them."""

_log = logging.getLogger(__name__)


class S3ImageStore(ImageStore):
    """`tenant/study/series/instance.dcm` in a bucket. Safe for several threads and processes.

    `working`: folder of the working copies. `largest_working`: bytes that they may have.
    """

    def __init__(self, bucket: S3Store, working: Path, *, min_free_bytes: int, largest_working: int) -> None:
        super().__init__(working, min_free_bytes=min_free_bytes)
        self._bucket, self._largest = bucket, largest_working
        self._next_look = 0.0
        self._looking = threading.Lock()

    def put(self, tenant: str, header: InstanceHeader, data: bytes | Path) -> Path:
        """Store as the folder does. Refused (0xA700), too, while the bucket is away: `store-unavailable`."""
        path = self.path(tenant, header.study_uid, header.series_uid, header.sop_instance_uid)
        key = self._key(path)
        with _sending():
            if self._has(key):
                self._fetch(key, path)
                return self._same(path, data)
            self.make_room(len(data) if isinstance(data, bytes) else 0)
            try:
                # A part at a time, which cannot be conditional, where it does not fit into memory.
                if isinstance(data, bytes):
                    self._bucket.put(key, data, mode="create")
                else:
                    self._bucket.put(key, data)
            except (AlreadyExistsError, FileExistsError):
                self._fetch(key, path)
                return self._same(path, data)
        path.unlink(missing_ok=True)
        self._keep(path, data)
        self._tidy(path)
        return path

    def instances(self, tenant: str, study_uid: str) -> list[Path]:
        """Return working copies of a study's files, sorted. Retry: `store-unavailable`."""
        listed = self._listed(tenant, study_uid)
        paths = {self._root / key: size for key, (size, _) in listed.items()}
        wanted = [path for path, size in paths.items() if not path.exists() or path.stat().st_size != size]
        if wanted:
            self.make_room(sum(paths[path] for path in wanted))
            with _reading(), ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda path: self._fetch(self._key(path), path), wanted))
        if paths:
            self._tidy(next(iter(paths)))
        return sorted(paths)

    def count(self, tenant: str, study_uid: str) -> int:
        """Return how many instances a study has."""
        return len(self._listed(tenant, study_uid))

    def newest(self, tenant: str, study_uid: str) -> float:
        """Return when the study's last instance was stored, in seconds since the epoch; 0 where it has none."""
        return max((stored for _, stored in self._listed(tenant, study_uid).values()), default=0.0)

    def studies(self, tenant: str) -> list[str]:
        """Return the studies that are in the bucket, sorted."""
        folder = self._study(tenant, "0.0").parent.name  # Refused where it is no tenant.
        with _reading():
            found = self._bucket.list_with_delimiter(f"{folder}/")["common_prefixes"]
        return sorted(uid for uid in (prefix.rstrip("/").rpartition("/")[2] for prefix in found) if is_uid(uid))

    def erase(self, tenant: str, study_uid: str) -> int:
        """Remove a study, its notes and the working copies. A bucket with versions keeps its own: expire them."""
        keys = [*self._listed(tenant, study_uid)]
        with _reading():
            notes_of = (notes.of_study(study_uid), notes.kept_with(study_uid))
            known = [key for name in notes_of for key in self._objects(self._key(self._note(tenant, name)))]
            for some in range(0, len(keys + known), 1000):
                self._bucket.delete((keys + known)[some : some + 1000])
        shutil.rmtree(self._study(tenant, study_uid), ignore_errors=True)
        return len(keys)

    def note(self, tenant: str, name: str) -> bytes:
        """Return a note; empty where there is none."""
        key = self._key(self._note(tenant, name))
        with _reading():
            try:
                return bytes(self._bucket.get(key).bytes())
            except (NotFoundError, FileNotFoundError):
                return b""

    def notes(self, tenant: str, folder: str) -> list[bytes]:
        """Return the notes in a folder of them, in the order of their names."""
        with _reading():
            return [
                bytes(self._bucket.get(key).bytes())
                for key in sorted(self._objects(self._key(self._note(tenant, folder))))
            ]

    def write_note(self, tenant: str, name: str, text: bytes) -> None:
        """Write a note durably, in the place of an earlier one."""
        with _sending():
            self._bucket.put(self._key(self._note(tenant, name)), text)

    def _key(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _has(self, key: str) -> bool:
        try:
            self._bucket.head(key)
        except (NotFoundError, FileNotFoundError):
            return False
        return True

    def _listed(self, tenant: str, study_uid: str) -> Mapping[str, tuple[int, float]]:
        with _reading():
            objects = self._objects(self._key(self._study(tenant, study_uid)))
            return {key: found for key, found in objects.items() if key.endswith(".dcm")}

    def _objects(self, folder: str) -> dict[str, tuple[int, float]]:
        """Return the size and the time of each object in a folder and below, by key."""
        return {
            each["path"]: (each["size"], each["last_modified"].timestamp())
            for page in self._bucket.list(f"{folder}/")
            for each in page
        }

    def _fetch(self, key: str, path: Path) -> None:
        """Make a working copy."""
        temporary = self.incoming()
        try:
            with temporary.open("wb") as file:
                for piece in self._bucket.get(key).stream():
                    file.write(piece)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _keep(self, path: Path, data: bytes | Path) -> None:
        """Keep what was stored as a working copy; where that fails it is fetched when it is wanted."""
        temporary = self.incoming() if isinstance(data, bytes) else data
        try:
            if isinstance(data, bytes):
                temporary.write_bytes(data)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            _log.warning("no working copy of an instance was kept (%s)", type(error).__name__)

    def _tidy(self, used: Path) -> None:
        """Note that a study is used; now and then remove the copies of those that were not for long."""
        now = time.time()
        used.parent.parent.mkdir(parents=True, exist_ok=True)
        os.utime(used.parent.parent)
        with self._looking:
            if now < self._next_look:
                return
            self._next_look = now + KEPT / 10
        studies = sorted(self._root.glob("[!.]*/*"), key=lambda study: study.stat().st_mtime)
        sizes = [sum(file.stat().st_size for file in study.glob("*/*.dcm")) for study in studies]
        excess = sum(sizes) - self._largest
        for study, size in zip(studies, sizes, strict=True):
            if excess <= 0 or study.stat().st_mtime > now - KEPT:
                return
            shutil.rmtree(study, ignore_errors=True)
            excess -= size


def open_bucket(url: str, *, endpoint: str, region: str) -> S3Store:
    """Return the bucket of `s3://bucket/prefix`. Credentials, and what is empty, come from AWS's own variables."""
    parts = urlsplit(url)
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3", "")
    plain = (endpoint or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://")
    config: Any = {name: value for name, value in (("endpoint", endpoint), ("region", region)) if value}
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=config,
            client_options={"allow_http": plain, "connect_timeout": "5s", "read_timeout": "20s"},
            retry_config={"max_retries": 2, "retry_timeout": PATIENCE},
        )
    except (BaseError, ValueError) as error:
        raise RefuseToStart(
            "image-store-url", f"cannot use AUSCULT_IMAGE_STORE ({type(error).__name__}): write s3://bucket/prefix"
        ) from None


@contextmanager
def _sending() -> Iterator[None]:
    """Tell a sender that the bucket does not take an object now. The texts of errors hold keys."""
    try:
        yield
    except (BaseError, OSError) as error:
        if getattr(error, "errno", None) in FULL or any(word in str(error) for word in _FULL):
            raise out_of_space() from None
        raise Refused(
            "store-unavailable",
            f"the bucket of the image store does not answer ({type(error).__name__}); see that it can be reached",
            status=OUT_OF_RESOURCES,
        ) from None


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise Retry(
            "store-unavailable",
            f"the bucket of the image store does not answer ({type(error).__name__}); see that it can be reached",
        ) from None

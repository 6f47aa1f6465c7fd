"""Where models come from: a folder, or an object store."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from auscult.inference import signing
from auscult.inference.integrity import Trust, verified
from auscult.inference.s3 import Bucket, open_store
from auscult.platform.settings import Settings


class Source(Protocol):
    """Models by name. OSError where the source cannot be reached; then what was read before goes on serving."""

    def look(self) -> Mapping[str, Hashable]:
        """Return a value for each model that differs once a file of it was written, replaced, added or removed."""
        ...

    def read(self, name: str) -> Mapping[str, bytes]:
        """Return the verified content of each file of a model by its path; OSError or UntrustedModelError."""
        ...

    def served(self, name: str) -> None:
        """Take note that what was last read of the model is what serves now."""
        ...


def trust(settings: Settings) -> Trust:
    """Return what the site accepts as a model."""
    return Trust(
        tuple(signing.public_key(text) for text in settings.model_trusted_keys),
        frozenset(settings.model_custom_operators),
        settings.model_largest_bytes,
    )


def bucket(settings: Settings) -> Bucket | None:
    """Return the object store that the settings name, None where models come from a folder."""
    if not isinstance(url := settings.model_repository, str):
        return None
    store = open_store(url, endpoint=settings.s3_endpoint, region=settings.s3_region)
    return Bucket(store, settings.bucket_cache(url), trust(settings))


class Folder:
    """A folder with a folder for each model. Those whose name starts with a dot are no models."""

    def __init__(self, root: Path, trust: Trust) -> None:
        self._root = root
        self._trust = trust

    def look(self) -> Mapping[str, Hashable]:
        """Return what `lstat` tells of each model's files."""
        return {
            path.name: tuple(_states(path))
            for path in sorted(self._root.iterdir())
            if path.is_dir() and path.name[0] != "."
        }

    def read(self, name: str) -> Mapping[str, bytes]:
        """Return the files of the model's folder."""
        return verified(self._root / name, self._trust)

    def served(self, name: str) -> None:
        """Nothing is to be kept: the folder is here."""


def _states(folder: Path) -> Iterator[tuple[str, int, int, int]]:
    try:
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            yield str(path), status.st_ino, status.st_size, status.st_ctime_ns
    except OSError:
        # A file went away meanwhile: whatever this is, it is not what comes next.
        yield "", -1, -1, -1

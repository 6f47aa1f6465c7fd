"""Models from S3, or a store that speaks its protocol: `s3://bucket/prefix`, in the same layout as a folder.

Each file is kept in a cache under its SHA-256 digest, and compared with it whenever it is read: one that was
damaged there is fetched again. The manifests of the models that serve are kept, too, so that a server that starts
while the store is away serves what it served before. Cards lie there under their names, for those who show them.

    <cache>/blobs/<sha256>    <cache>/manifests/<model>.json    <cache>/cards/<model>/card.yaml
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from auscult.inference import manifest
from auscult.inference.integrity import Trust
from auscult.inference.manifest import CARD, LARGEST_TEXT, SIGNATURE, SUMS, UntrustedModelError, check_digest
from auscult.platform.errors import RefuseToStart

_LOG = logging.getLogger("auscult.inference")

_PATIENCE = timedelta(seconds=20)
"""How long one request is tried again before the store counts as away."""

_KEPT = 3600.0
"""Seconds that a file of no model stays in the cache: it may just have been fetched, or be wanted again."""

T = TypeVar("T")


class StoreAwayError(OSError):
    """The object store cannot be read; the text says why, without credentials."""


@dataclass(frozen=True, slots=True)
class _Object:
    """A file as the store lists it. `tag` changes with its content."""

    tag: str
    size: int


def open_store(url: str, *, endpoint: str, region: str) -> S3Store:
    """Return the store of `s3://bucket/prefix`. Credentials, and what is empty, come from AWS's own variables."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise RefuseToStart("model-repository-url", f"{url!r} is not s3://bucket/prefix; correct it")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3", "")
    given = {"endpoint": endpoint, "region": region}
    # A store without TLS is for tests and closed networks, and only where its address says so.
    plain = (endpoint or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://")
    config: Any = {name: value for name, value in given.items() if value}
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=config,
            client_options={
                "allow_http": plain,
                "connect_timeout": "5s",
                "read_timeout": "30s",
                "timeout": timedelta(hours=1),
            },
            retry_config={"max_retries": 3, "retry_timeout": _PATIENCE},
        )
    except (BaseError, ValueError) as error:
        raise RefuseToStart("model-repository-url", f"cannot use {url}: {_told(error)}") from None


class Bucket:
    """The models below a prefix of a store, by way of a cache on disk."""

    def __init__(self, store: S3Store, cache: Path, trust: Trust) -> None:
        self._store = store
        self._trust = trust
        self._blobs, self._manifests, self._cards = (cache / name for name in ("blobs", "manifests", "cards"))
        for folder in (self._blobs, self._manifests, self._cards):
            folder.mkdir(parents=True, exist_ok=True)
        self._listing: Mapping[str, Mapping[str, _Object]] | None = None
        self._last_read: dict[str, bytes] = {}

    def look(self) -> Mapping[str, Hashable]:
        """Return what the store lists of each model's files.

        Where the store is away: StoreAwayError, unless nothing was listed before and the cache has models, which
        then are told to be all there is.
        """
        try:
            self._listing = self._list()
        except StoreAwayError as error:
            kept = {path.stem: path.read_bytes() for path in sorted(self._manifests.glob("*.json"))}
            if self._listing is not None or not kept:
                raise
            _LOG.warning("%s; the cache is served: %s", error, ", ".join(kept))
            return kept
        self._forget(self._listing)
        return {name: frozenset(files.items()) for name, files in self._listing.items()}

    def read(self, name: str) -> Mapping[str, bytes]:
        """Return the files of a model, from the cache where they are in it."""
        sums, signatures = self._manifest(name)
        listed = self._listed(name, sums, signatures)
        contents = {path: self._blob(name, path, digest) for path, digest in listed.items()}
        kept = {"manifest": sums, "signatures": signatures}
        self._last_read[name] = json.dumps(kept, default=bytes.decode).encode()
        _keep(self._cards / name / CARD, contents.get(CARD))
        return contents

    def served(self, name: str) -> None:
        """Keep the manifest that was last read, for a start while the store is away."""
        _keep(self._manifests / f"{name}.json", self._last_read[name])

    def fetch_cards(self) -> None:
        """Bring the card of each model into the cache, and no other file; a model whose card is not right has none.

        StoreAwayError where the store is away.
        """
        for name in self.look():
            try:
                digest = self._listed(name, *self._manifest(name)).get(CARD)
                _keep(self._cards / name / CARD, self._blob(name, CARD, digest) if digest else None)
            except UntrustedModelError as error:
                _LOG.warning("the card of model %s is not shown: %s", name, error)
                _keep(self._cards / name / CARD, None)

    def _manifest(self, name: str) -> tuple[bytes | None, bytes | None]:
        if self._listing is None:
            sums, signatures = _kept(self._manifests / f"{name}.json")
            if sums is None:
                raise StoreAwayError("its manifest is damaged in the cache, and the object store is away")
            return sums, signatures
        objects = self._listing[name]
        self._trust.check_size(sum(it.size for it in objects.values()))
        for file in (SUMS, SIGNATURE):
            if file in objects and objects[file].size > LARGEST_TEXT:
                raise UntrustedModelError(f"{file} has more than {LARGEST_TEXT} bytes; it cannot be one")
        sums, signatures = (self._fetch(name, file) if file in objects else None for file in (SUMS, SIGNATURE))
        return sums, signatures

    def _listed(self, name: str, sums: bytes | None, signatures: bytes | None) -> Mapping[str, str]:
        present: Collection[str] = (
            manifest.read(sums or b"") if self._listing is None else self._listing[name].keys() - {SUMS, SIGNATURE}
        )
        return self._trust.listed(sums, signatures, present)

    def _blob(self, name: str, path: str, digest: str) -> bytes:
        """Return a file's content, which has this digest, whatever is in cache or store."""
        kept = self._blobs / digest
        if (content := _content(kept)) is not None:
            with suppress(UntrustedModelError):
                check_digest(path, content, digest)
                return content
            _LOG.warning("%s of model %s is damaged in the cache; fetching it again", path, name)
        if self._listing is None:
            raise StoreAwayError(f"{path} is not whole in the cache, and the object store is away")
        content = self._fetch(name, path)
        check_digest(path, content, digest)
        _keep(kept, content)
        return content

    def _list(self) -> Mapping[str, Mapping[str, _Object]]:
        models: dict[str, dict[str, _Object]] = {}
        for batch in _asked(lambda: list(self._store.list())):
            for it in batch:
                name, _, path = it["path"].partition("/")
                # Without a slash it is no file of a model; with one at its end it stands for a folder.
                if path and not path.endswith("/") and name[0] != ".":
                    tag = it["e_tag"] or it["last_modified"].isoformat()
                    models.setdefault(name, {})[path] = _Object(tag, it["size"])
        return models

    def _fetch(self, name: str, path: str) -> bytes:
        listed = self._listing[name][path] if self._listing else _Object("", 0)
        found = _asked(lambda: self._store.get(f"{name}/{path}"))
        if found.meta["size"] > listed.size:
            raise UntrustedModelError(f"{path} has more than {listed.size} bytes; is it still being written?")
        return _asked(lambda: bytes(found.bytes()))

    def _forget(self, models: Collection[str]) -> None:
        """Remove what no model needs any longer."""
        needed: set[str] = set()
        for path in self._manifests.glob("*.json"):
            if path.stem not in models:
                path.unlink(missing_ok=True)
            elif sums := _kept(path)[0]:
                needed.update(manifest.read(sums).values())
        for card in self._cards.glob(f"*/{CARD}"):
            if card.parent.name not in models:
                card.unlink(missing_ok=True)
        old = time.time() - _KEPT
        for blob in self._blobs.iterdir():
            with suppress(FileNotFoundError):  # another process has the same cache
                if blob.name not in needed and blob.stat().st_mtime < old:
                    blob.unlink()


def _asked(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except NotFoundError:
        raise StoreAwayError("the object store has no such bucket, or not the file that it listed") from None
    except BaseError as error:
        raise StoreAwayError(f"the object store cannot be read: {_told(error)}") from None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _kept(path: Path) -> tuple[bytes | None, bytes | None]:
    """Return the manifest and the signatures that were kept; None where they cannot be read."""
    try:
        kept = json.loads(path.read_bytes())
        sums, signatures = (
            None if text is None else text.encode() for text in (kept["manifest"], kept["signatures"])
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None, None
    return sums, signatures


def _keep(path: Path, content: bytes | None) -> None:
    """Write a file so that it is there as a whole or not at all, also after a crash; None removes it."""
    try:
        if content is None:
            path.unlink(missing_ok=True)
        elif _content(path) != content:
            path.parent.mkdir(exist_ok=True)
            _write(path, content)
    except OSError as error:
        # What was read serves all the same; it is fetched again, and is not there while the store is away.
        _LOG.warning("the cache of models cannot be written: %s", error)


def _write(path: Path, content: bytes) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _told(error: Exception) -> str:
    """Return the first sentence of the library's text: what follows is the answer's XML."""
    return str(error).partition("\n")[0].partition(": <")[0][:300]

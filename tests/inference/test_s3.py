"""Models from an object store, by way of a cache that is never trusted more than the store."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from auscult.inference import s3
from auscult.inference.integrity import Trust
from auscult.inference.repository import AwayError, LoadError, Repository, UnknownModelError
from auscult.inference.s3 import Bucket, StoreAwayError, open_store
from auscult.inference.signing import generate, public_key
from auscult.inference.statuses import status
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings


class Store:
    """An object store in memory that can be away, and counts what is fetched."""

    def __init__(self) -> None:
        self.objects = MemoryStore()
        self.away = False
        self.fetched: list[str] = []

    def list(self) -> Iterator[Any]:
        """List all objects."""
        self._reach()
        return iter(self.objects.list())

    def get(self, path: str) -> Any:
        """Fetch one."""
        self._reach()
        self.fetched.append(path)
        return self.objects.get(path)

    def _reach(self) -> None:
        if self.away:
            raise GenericError("connection refused\nby somebody")

    def upload(self, folder: Path) -> None:
        """Put a model's folder in place of what is there of it."""
        for batch in self.objects.list(f"{folder.name}/"):
            self.objects.delete([it["path"] for it in batch])
        for path in folder.rglob("*"):
            if path.is_file():
                self.objects.put(f"{folder.name}/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture
def store() -> Store:
    """Return an empty store."""
    return Store()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return the folder of the cache."""
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path, write: Callable[..., Path], double: bytes, store: Store) -> Path:
    """Return a sealed model's folder, which is in the store."""
    folder = write(tmp_path / "double", "max_batch_size: 4", double)
    store.upload(folder)
    return folder


def bucket(store: Store, cache: Path, trust: Trust | None = None) -> Bucket:
    """Return the models of the store as a new process sees them."""
    served: Any = store
    return Bucket(served, cache, trust or Trust())


def answer(repository: Repository) -> float:
    """Return what the model that is served makes of a one."""
    model, version = repository.find("double")
    (y,) = model.sessions[version].run(["y"], {"x": np.ones((1, 3), np.float32)})
    return float(y[0, 0])


@pytest.mark.usefixtures("model")
def test_each_file_is_fetched_once(store: Store, cache: Path) -> None:
    """A second start takes all but the manifest from the cache, where each file has its digest for a name."""
    assert answer(Repository(bucket(store, cache), 1)) == 2
    assert len(store.fetched) == 4
    del store.fetched[:]
    assert answer(Repository(bucket(store, cache), 1)) == 2
    assert store.fetched == ["double/SHA256SUMS"]


def test_poll_sees_what_is_new_changed_and_gone(
    store: Store, cache: Path, model: Path, write: Callable[..., Path], times: Callable[[float], bytes]
) -> None:
    """As with folders; what nobody needs any longer leaves the cache once it is old."""
    repository = Repository(bucket(store, cache), 1)
    before = repository.find("double")[0]
    repository.poll()
    assert repository.find("double")[0] is before
    store.upload(write(model.parent / "other/double", "max_batch_size: 4", times(4)))
    store.upload(write(model.parent / "second", "max_batch_size: 4", times(8)))
    repository.poll()
    assert answer(repository) == 4
    assert list(repository.models) == ["double", "second"]
    for batch in store.objects.list("double/"):
        store.objects.delete([it["path"] for it in batch])
    for blob in (cache / "blobs").iterdir():
        os.utime(blob, (0, 0))
    repository.poll()
    with pytest.raises(UnknownModelError):
        repository.find("double")
    assert len(list((cache / "blobs").iterdir())) == 3
    assert not list((cache / "cards").glob("double/*"))


def test_refused_model_leaves_the_old_one(
    store: Store, cache: Path, model: Path, seal: Callable[[Path], None]
) -> None:
    """Also over a restart while the store is away: the cache has the manifest of what served."""
    repository = Repository(bucket(store, cache), 1)
    (model / "config.pbtxt").write_text("max_batch_size: -1")
    seal(model)
    store.upload(model)
    repository.poll()
    assert repository.refused == {"double": "config.pbtxt: max_batch_size is negative"}
    assert answer(repository) == 2
    with pytest.raises(LoadError, match="is negative; the model loaded before goes on serving"):
        repository.load("double")
    store.away = True
    assert answer(Repository(bucket(store, cache), 1)) == 2


def test_file_that_is_not_what_the_manifest_lists_is_refused(store: Store, cache: Path, model: Path) -> None:
    """A changed file in the store is not parsed."""
    store.objects.put("double/1/model.onnx", (model / "1/model.onnx").read_bytes()[:-1] + b"!")
    reason = Repository(bucket(store, cache), 1).refused["double"]
    assert reason.startswith("1/model.onnx is not the file that SHA256SUMS lists")


def test_store_that_is_away_changes_nothing(store: Store, cache: Path, model: Path) -> None:
    """What serves goes on; the failure says what it is in one line."""
    repository = Repository(bucket(store, cache), 1)
    store.away = True
    with pytest.raises(StoreAwayError, match=r"cannot be read: connection refused$"):
        repository.poll()
    assert answer(repository) == 2
    assert model.exists()


@pytest.mark.usefixtures("model")
def test_start_without_the_store_serves_the_cache(
    store: Store, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And says so; once the store is back, what it has is served."""
    Repository(bucket(store, cache), 1)
    store.away = True
    with caplog.at_level(logging.WARNING):
        repository = Repository(bucket(store, cache), 1)
    assert "connection refused; the cache is served: double" in caplog.text
    assert answer(repository) == 2
    store.away = False
    repository.poll()
    assert answer(repository) == 2


@pytest.mark.usefixtures("model")
def test_damaged_cache_is_never_served(store: Store, cache: Path) -> None:
    """A file that was changed in the cache is fetched again; without the store it is refused."""
    Repository(bucket(store, cache), 1)
    for blob in (cache / "blobs").iterdir():
        blob.write_bytes(blob.read_bytes() + b"!")
    store.away = True
    refused = Repository(bucket(store, cache), 1).refused
    assert "is not whole in the cache, and the object store is away" in refused["double"]
    store.away = False
    assert answer(Repository(bucket(store, cache), 1)) == 2


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"manifest": 1, "signatures": null}'])
def test_damaged_manifest_of_the_cache_is_told(store: Store, cache: Path, content: bytes) -> None:
    """Without the store the model is refused; with it the manifest is fetched again."""
    Repository(bucket(store, cache), 1)
    (cache / "manifests/double.json").write_bytes(content)
    store.away = True
    assert "its manifest is damaged in the cache" in Repository(bucket(store, cache), 1).refused["double"]
    store.away = False
    assert answer(Repository(bucket(store, cache), 1)) == 2


def test_model_that_could_not_be_fetched_is_tried_again(store: Store, cache: Path, model: Path) -> None:
    """Where the store goes away between its listing and a file, the next look brings the model."""
    get = store.get

    def goes_away(path: str) -> Any:
        store.away = path.endswith("model.onnx")
        return get(path)

    store.get = goes_away  # type: ignore[method-assign]
    repository = Repository(bucket(store, cache), 1)
    assert "connection refused" in repository.refused[model.name]
    store.get, store.away = get, False  # type: ignore[method-assign]
    repository.poll()
    assert answer(repository) == 2


@pytest.mark.usefixtures("model")
def test_cache_that_cannot_be_written_keeps_nothing_from_serving(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk is told, and the models serve."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(s3, "_write", full)
    assert answer(Repository(bucket(store, cache), 1)) == 2
    assert "the cache of models cannot be written: [Errno 28] No space left on device" in caplog.text


def test_load_tells_that_the_store_is_away(store: Store, cache: Path, model: Path) -> None:
    """As something that may be tried again."""
    repository = Repository(bucket(store, cache), 1)
    store.away = True
    with pytest.raises(AwayError, match="what is served stays as it is") as failure:
        repository.load(model.name)
    assert status(failure.value)[0] == grpc.StatusCode.UNAVAILABLE


def test_start_without_store_and_cache_is_refused(store: Store, cache: Path) -> None:
    """There is nothing that could be served."""
    store.away = True
    with pytest.raises(StoreAwayError):
        Repository(bucket(store, cache), 1)


def test_store_is_held_against_its_manifest_and_signature(
    store: Store, cache: Path, model: Path, tmp_path: Path
) -> None:
    """Files that are unlisted, missing or too large, and a missing signature, are refused as in a folder."""
    trust = Trust(keys=(public_key(generate(tmp_path / "key.pem")),))
    assert "only signed models" in Repository(bucket(store, cache, trust), 1).refused["double"]
    assert "are allowed" in Repository(bucket(store, cache, Trust(largest=100)), 1).refused["double"]
    store.objects.put("double/1/extra.bin", b"")
    assert "does not list 1/extra.bin" in Repository(bucket(store, cache), 1).refused["double"]
    store.upload(model)
    store.objects.delete("double/config.pbtxt")
    assert "lists config.pbtxt, which is not there" in Repository(bucket(store, cache), 1).refused["double"]
    store.objects.delete("double/SHA256SUMS")
    assert Repository(bucket(store, cache), 1).refused["double"].startswith("SHA256SUMS is missing")


def test_cards_come_without_the_models(store: Store, cache: Path, model: Path) -> None:
    """Who only shows cards fetches no graph; a card that is not right is not shown."""
    bucket(store, cache).fetch_cards()
    assert sorted(store.fetched) == ["double/SHA256SUMS", "double/card.yaml"]
    assert (cache / "cards/double/card.yaml").read_bytes() == (model / "card.yaml").read_bytes()
    store.objects.put("double/card.yaml", b"another")
    bucket(store, cache).fetch_cards()
    assert (cache / "cards/double/card.yaml").read_bytes() == (model / "card.yaml").read_bytes()
    store.objects.delete("double/SHA256SUMS")
    bucket(store, cache).fetch_cards()
    assert not (cache / "cards/double/card.yaml").exists()


def test_settings_name_the_bucket(tmp_path: Path) -> None:
    """Each bucket has a cache of its own, where its cards are; a wrong address refuses to start."""
    settings = Settings(home=tmp_path, model_repository="s3://models/site")
    assert settings.models == settings.bucket_cache("s3://models/site") / "cards"
    assert settings.bucket_cache("s3://models/site") != settings.bucket_cache("s3://models/other")
    assert Settings(model_repository="/models").models_to_write == Path("/models")
    with pytest.raises(RefuseToStart, match="models are written to a folder"):
        _ = settings.models_to_write
    for url in ("s3://", "s3:///prefix", "s3://bucket/prefix?x"):
        with pytest.raises(RefuseToStart, match="is not s3://bucket/prefix"):
            open_store(url, endpoint="", region="")

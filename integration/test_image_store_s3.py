"""The image store in a real S3 server, which passes the contract of the folder, and goes away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack.servers import s3

from auscult.entrypoints.demo.processes import free_port
from auscult.imaging.store import ImageStore
from auscult.imaging.stores import open_images
from auscult.platform.errors import Refused, Retry
from auscult.platform.settings import Settings
from contracts.image_store_contract import FILES, HEADERS, STUDY, ImageStoreContract

AWS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give AWS's own variables."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the server."""
    with s3(tmp_path_factory.mktemp("s3"), free_port(), "images") as address:
        yield address


@pytest.fixture
def settings(endpoint: str, tmp_path: Path) -> Settings:
    """Return settings with a prefix of their own."""
    return Settings(home=tmp_path, image_store=f"s3://images/{tmp_path.name}", s3_endpoint=endpoint, min_free_bytes=0)


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    """Return an empty store."""
    return open_images(settings)


class TestS3ImageStore(ImageStoreContract):
    """The contract."""


def test_another_process_sees_what_is_stored(store: ImageStore, settings: Settings) -> None:
    """The bucket is the truth: working copies may be lost, and what the bucket lost is no longer there."""
    for header, data in zip(HEADERS, FILES, strict=True):
        store.put("site", header, data)
    other = open_images(settings.model_copy(update={"image_cache": settings.home / "other"}))
    assert [path.read_bytes() for path in other.instances("site", STUDY)] == [
        path.read_bytes() for path in store.instances("site", STUDY)
    ]
    shutil.rmtree(settings.images / "site")
    assert len([path.read_bytes() for path in store.instances("site", STUDY)]) == len(FILES)
    assert other.erase("site", STUDY) == len(FILES)
    assert store.instances("site", STUDY) == []
    store.put("site", HEADERS[0], FILES[0])
    assert [path.read_bytes() for path in other.instances("site", STUDY)] == [FILES[0]]


def test_while_the_bucket_is_away_a_sender_is_told_in_time(tmp_path: Path) -> None:
    """0xA700 within half a minute; who reads tries again."""
    store = open_images(
        Settings(home=tmp_path, image_store="s3://images", s3_endpoint=f"http://127.0.0.1:{free_port()}")
    )
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        store.put("site", HEADERS[0], FILES[0])
    assert (caught.value.reason, caught.value.status) == ("store-unavailable", 0xA700)
    assert time.monotonic() - began < 30
    with pytest.raises(Retry, match="store-unavailable"):
        store.instances("site", STUDY)

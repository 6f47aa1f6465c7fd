"""DICOMweb over TLS, as server and as client of a PACS: who is not who they should be is refused by name."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date
from functools import partial
from pathlib import Path

import httpx
import pytest

from auscult.bus.sqlite import SqliteBus
from auscult.imaging.store import ImageStore
from auscult.listen import http_bounds, pacs
from auscult.listen.dicomweb_server import DicomwebServer
from auscult.listen.reception import Reception
from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings
from certificates import Authority
from dicom_factory import ct_series, encode
from dicom_sender import PATIENCE

pytestmark = pytest.mark.golden

SERIES = ct_series((3, 8, 8))
Server = Callable[..., AbstractContextManager[int]]
STUDY = str(SERIES[0].StudyInstanceUID)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return the authority that both sides trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


@contextmanager
def serving(settings: Settings, bus: SqliteBus, store: ImageStore, **tls: Path) -> Iterator[int]:
    """Run a server and give its port."""
    server = DicomwebServer(settings.model_copy(update={"dicomweb_port": 0, **tls}), bus, store)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def server(settings: Settings, bus: SqliteBus, store: ImageStore) -> Server:
    """Return what runs a server."""
    return partial(serving, settings, bus, store)


def files(authority: Authority, **how: object) -> dict[str, Path]:
    """Return a server's settings with a new certificate."""
    certificate, key = authority.issue("dicomweb", **how)  # type: ignore[arg-type]
    return {"dicomweb_tls_cert": certificate, "dicomweb_tls_key": key}


def trusting(authority: Authority, *, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return a client's context."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if shown is not None:
        context.load_cert_chain(*shown)
    return context


def test_https_is_served_to_who_shows_a_certificate(
    settings: Settings, bus: SqliteBus, store: ImageStore, authority: Authority, tmp_path: Path
) -> None:
    """Of the authority; without one, with a stranger's, in plain text or in an old version nobody is."""
    mutual = files(authority) | {"dicomweb_tls_ca": authority.certificate}
    with serving(settings, bus, store, **mutual) as port:
        url = f"https://127.0.0.1:{port}/dicom-web/studies"
        with httpx.Client(verify=trusting(authority, shown=authority.issue("viewer"))) as client:
            assert client.get(url).status_code == 200
        for shown in (None, Authority(tmp_path, "stranger").issue("viewer")):
            with httpx.Client(verify=trusting(authority, shown=shown)) as client, pytest.raises(httpx.TransportError):
                client.get(url)
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"))
        old = trusting(authority, shown=authority.issue("viewer"))
        with warnings.catch_warnings(action="ignore"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with httpx.Client(verify=old) as client, pytest.raises(httpx.TransportError):
            client.get(url)


def test_half_of_the_settings_refuses_to_start(settings: Settings, bus: SqliteBus, store: ImageStore) -> None:
    """A certificate without its key is not served in plain text instead; neither is one that is no PEM."""
    nothing = settings.home / "nothing.pem"
    with pytest.raises(RefuseToStart, match="AUSCULT_DICOMWEB_TLS_KEY"):
        DicomwebServer(settings.model_copy(update={"dicomweb_tls_cert": nothing}), bus, store)
    both = {"dicomweb_tls_cert": nothing, "dicomweb_tls_key": nothing}
    with pytest.raises(RefuseToStart, match="PEM"):
        DicomwebServer(settings.model_copy(update=both), bus, store)


def test_a_pacs_is_asked_over_tls_with_a_certificate(
    settings: Settings, bus: SqliteBus, store: ImageStore, authority: Authority, tmp_path: Path
) -> None:
    """Its own authority's file, and ours: a study is found and fetched."""
    mutual = files(authority) | {"dicomweb_tls_ca": authority.certificate}
    source = Reception("site", bus, store)
    for dataset in SERIES:
        assert source.take(nullcontext(encode(dataset))).problem is None
    with serving(settings, bus, store, **mutual) as port:
        certificate, key = authority.issue("auscult")
        asking = settings.model_copy(
            update={
                "pacs_url": f"https://127.0.0.1:{port}/dicom-web",
                "pacs_tls_ca": authority.certificate,
                "pacs_tls_cert": certificate,
                "pacs_tls_key": key,
            }
        )
        own = ImageStore(tmp_path / "own", min_free_bytes=0)
        assert pacs.priors(asking, "P-1", "CT", date(2026, 2, 1)) == [STUDY]
        assert asyncio.run(pacs.fetch(asking, own, Reception("site", bus, own), STUDY)) == (3, 0)


WRONG = {
    "expired": ({"days": -1}, "certificate has expired"),
    "another host's": ({"host": "127.0.0.2"}, "IP address mismatch"),
    "another authority's": ({}, "unable to get local issuer certificate"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_pacs_that_is_not_who_it_should_be_is_named(
    server: Server, settings: Settings, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    """The operator reads what is wrong with its certificate."""
    how, said = WRONG[wrong]
    issuer = authority if how else Authority(tmp_path, "stranger")
    with server(**files(issuer, **how)) as port:
        update = {"pacs_url": f"https://127.0.0.1:{port}/dicom-web", "pacs_tls_ca": authority.certificate}
        with pytest.raises(Retry, match=said):
            pacs.priors(settings.model_copy(update=update), "P-1", "CT", date(2026, 2, 1))


def test_a_head_that_does_not_come_ends_the_connection(
    settings: Settings, bus: SqliteBus, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty idle connections would lock everybody out; so would one head without end fill the memory."""
    monkeypatch.setattr(http_bounds, "HEAD_SECONDS", 0.3)
    with serving(settings, bus, store) as port:
        for begun in (b"", b"GET /dicom-web/studies HTTP/1.1\r\nHost: a\r\n"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
                peer.sendall(begun)
                assert gone(peer)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as peer:
            peer.sendall(b"GET /dicom-web/studies HTTP/1.1\r\nX: " + b"a" * 100_000)
            assert gone(peer)
        assert httpx.get(f"http://127.0.0.1:{port}/dicom-web/studies").status_code == 200


def gone(peer: socket.socket) -> bool:
    """Wait until the other side has closed the connection."""
    try:
        while peer.recv(4096):
            pass
    except ConnectionError:
        return True
    return True

"""A DICOMweb server's answers become success, another try or a dead letter; no text names the study."""

from __future__ import annotations

from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain.deadline import Deadline
from auscult.platform.errors import DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings
from auscult.publish.pacs.dicomweb import DicomWeb
from dicom_factory import ct_series, encode

SLICES = ct_series((2, 4, 4))
BASE = "https://pacs.example.org/dicom-web"
Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, **settings: Any) -> DicomWeb:
    """Return a client of a server that answers so."""
    return DicomWeb(Settings(pacs_url=BASE, **settings), transport=httpx.MockTransport(answer))


def always(status: int, **response: Any) -> Answer:
    """Answer each request alike."""
    return lambda _: httpx.Response(status, **response)


def failing(reason: int) -> dict[str, Any]:
    """Return a STOW-RS answer of which one instance failed."""
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


def multipart(dataset: Dataset) -> httpx.Response:
    """Return a WADO-RS answer."""
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + encode(dataset) + b"\r\n--b--\r\n"
    return httpx.Response(
        200, content=body, headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    )


def test_all_objects_go_in_one_request(tmp_path: Path) -> None:
    """As parts of multipart/related, to their study, with the credentials of the file as it is now."""
    secret = tmp_path / "authorization"
    secret.write_text("Bearer abc\n")
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={})

    pacs = client(answer, pacs_authorization_file=secret)
    pacs.store(SLICES, Deadline.after(5))
    (request,) = asked
    assert request.url.path == f"/dicom-web/studies/{SLICES[0].StudyInstanceUID}"
    assert request.headers["Authorization"] == "Bearer abc"
    assert int(request.headers["Content-Length"]) == len(request.content)
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    parts = list(BytesParser(policy=HTTP).parsebytes(head + request.content).iter_parts())
    assert [dcmread(BytesIO(part.get_payload(decode=True))).SOPInstanceUID for part in parts] == [
        dataset.SOPInstanceUID for dataset in SLICES
    ]
    pacs.close()


@pytest.mark.parametrize(
    ("status", "body"), [(200, failing(0x0111)), (409, failing(0xB00E)), (202, failing(0xB000)), (200, None)]
)
def test_what_is_there_already_counts_as_stored(status: int, body: Any) -> None:
    """Duplicates and warnings are success; the read-back says whether it is the same."""
    client(always(status, json=body)).store(SLICES, Deadline.after(5))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (409, failing(0xA700), Retry),
        (409, failing(0x0110), Retry),
        (409, failing(0x0122), DeadLetter),
        (202, failing(0xC000), DeadLetter),
        (409, {}, DeadLetter),
        (503, {}, Retry),
        (429, {}, Retry),
        (401, {}, DeadLetter),
        (302, {}, DeadLetter),
    ],
)
def test_failures_say_what_happens_next(status: int, body: Any, error: type[Exception]) -> None:
    """Space and load pass; a class that is not taken, or credentials, do not. No text has a UID in it."""
    with pytest.raises(error) as caught:
        client(always(status, json=body, headers={"Retry-After": "7"})).store(SLICES, Deadline.after(5))
    assert SLICES[0].StudyInstanceUID not in str(caught.value)
    if status in {429, 503}:
        assert isinstance(caught.value, Retry)
        assert caught.value.after == 7


def test_a_server_that_is_away_is_tried_again() -> None:
    """Neither its address nor the study is in the text."""

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"cannot reach {request.url}")

    with pytest.raises(Retry, match="pacs-unavailable") as caught:
        client(away).store(SLICES, Deadline.after(5))
    assert "example.org" not in str(caught.value)
    with pytest.raises(Retry, match="no time was left"):
        client(always(200)).store(SLICES, Deadline.after(-1))


def test_it_is_asked_what_it_holds() -> None:
    """By QIDO-RS; a server that cannot be asked is taken to hold nothing."""
    held = str(SLICES[0].SOPInstanceUID)
    uids = [str(dataset.SOPInstanceUID) for dataset in SLICES]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[{}] if request.url.params["SOPInstanceUID"] == held else [])

    study = str(SLICES[0].StudyInstanceUID)
    assert client(answer).held(study, uids, Deadline.after(5)) == {held}
    for status in (204, 404, 501):
        assert client(always(status)).held(study, uids, Deadline.after(5)) == set()


def test_objects_are_read_back() -> None:
    """One part of a multipart answer; not offered is None; not there, or nonsense, is tried again."""
    back = client(lambda _: multipart(SLICES[0])).retrieve(SLICES[0], Deadline.after(5))
    assert back == SLICES[0]
    assert client(always(501)).retrieve(SLICES[0], Deadline.after(5)) is None
    with pytest.raises(Retry, match="pacs-missing"):
        client(always(404)).retrieve(SLICES[0], Deadline.after(5))
    with pytest.raises(Retry, match="pacs-malformed"):
        client(always(200, content=b"<html>")).retrieve(SLICES[0], Deadline.after(5))


@pytest.mark.parametrize("url", ["https://", "https://user:secret@host/x", "https://host/x?y=1"])
def test_an_address_that_cannot_be_one_stops_the_start(url: str) -> None:
    """It is not repeated in the error: it may hold a password."""
    with pytest.raises(RefuseToStart) as caught:
        DicomWeb(Settings(pacs_url=url))
    assert "secret" not in str(caught.value)

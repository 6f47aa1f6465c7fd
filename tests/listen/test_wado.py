"""WADO-RS and QIDO-RS give what their client accepts, and say what they cannot give."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from auscult.bus.sqlite import SqliteBus
from auscult.imaging.store import ImageStore
from auscult.listen.dicomweb_server import DicomwebServer
from auscult.listen.wado import Accepted, accepted
from auscult.platform.settings import Settings
from dicom_factory import ct_series, encode

pytestmark = pytest.mark.golden

SHAPE = (3, 8, 8)
STOW = 'multipart/related; type="application/dicom"; boundary=b'
OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture
def client(settings: Settings, bus: SqliteBus, store: ImageStore) -> Iterator[httpx.Client]:
    """Return a client of a server."""
    server = DicomwebServer(settings.model_copy(update={"dicomweb_port": 0}), bus, store)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.start()}/dicom-web", timeout=30) as client:
            yield client
    finally:
        server.stop()


def stored(client: httpx.Client, dataset: Dataset) -> str:
    """Store an instance and return its path."""
    content = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + encode(dataset) + b"\r\n--b--"
    answer = client.post("/studies", content=content, headers={"Content-Type": STOW})
    assert answer.status_code == 200
    told = Dataset.from_json(answer.json()).ReferencedSOPSequence[0].RetrieveURL
    return str(told).partition("/dicom-web")[2]


def get(client: httpx.Client, path: str, accept: str) -> httpx.Response:
    """Retrieve."""
    return client.get(path, headers={"Accept": accept})


def parts(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """Return the type and the content of each part."""
    assert answer.status_code == 200
    mark = answer.headers["content-type"].partition("boundary=")[2].encode()
    found = []
    for part in answer.content.split(b"--" + mark)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        found.append((head.decode().partition("Content-Type: ")[2], content[:-2]))
    return found


def rle() -> Dataset:
    """Return a slice with compressed pixels."""
    dataset = ct_series(SHAPE)[0]
    dataset.compress(RLELossless, generate_instance_uid=False)
    return dataset


def test_frames_are_octets_or_what_they_are_stored_as(client: httpx.Client) -> None:
    """Native ones as they are; compressed ones decoded, unless the client takes them as they are."""
    native = ct_series(SHAPE)[0]
    path = stored(client, native)
    (part,) = parts(get(client, f"{path}/frames/1", OCTETS))
    assert part == ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1", native.PixelData)
    assert get(client, f"{path}/frames/1", "application/octet-stream").content == native.PixelData
    compressed = rle()
    path = stored(client, compressed)
    (part,) = parts(get(client, f"{path}/frames/1", OCTETS))
    assert np.array_equal(np.frombuffer(part[1], "<u2").reshape(8, 8), compressed.pixel_array)
    for accept in ('multipart/related; type="image/dicom-rle"', f"{OCTETS}; transfer-syntax=*"):
        ((kind, content),) = parts(get(client, f"{path}/frames/1", accept))
        assert kind == f"image/dicom-rle; transfer-syntax={RLELossless}"
        assert content in compressed.PixelData


def test_frames_of_a_multi_frame_image_are_told_apart(client: httpx.Client) -> None:
    """In the order that was asked for; bits of a segmentation come packed."""
    dataset = ct_series(SHAPE)[0]
    dataset.NumberOfFrames, dataset.PixelData = 3, np.arange(192, dtype="<u2").tobytes()
    path = stored(client, dataset)
    found = [content for _, content in parts(get(client, f"{path}/frames/3,1", OCTETS))]
    assert found == [dataset.PixelData[256:], dataset.PixelData[:128]]


@pytest.mark.parametrize(
    ("frames", "accept", "status"),
    [
        ("2", OCTETS, 404),
        ("0", OCTETS, 404),
        ("one", OCTETS, 400),
        ("1", 'multipart/related; type="image/jls"', 406),
        ("1", "text/html", 406),
    ],
)
def test_frames_that_cannot_be_had_are_refused(client: httpx.Client, frames: str, accept: str, status: int) -> None:
    """The status says why."""
    path = stored(client, ct_series(SHAPE)[0])
    assert get(client, f"{path}/frames/{frames}", accept).status_code == status


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
def test_an_instance_comes_in_the_transfer_syntax_that_is_asked_for(client: httpx.Client, syntax: UID) -> None:
    """As it is stored, or in Explicit VR Little Endian; another one is not made."""
    dataset = rle() if syntax == RLELossless else ct_series(SHAPE)[0]
    dataset.file_meta.TransferSyntaxUID = syntax
    path = stored(client, dataset)
    accept = 'multipart/related; type="application/dicom"; transfer-syntax='
    kept = ExplicitVRLittleEndian if syntax.is_deflated else syntax
    for asked, given in (("*", kept), (kept, kept), (ExplicitVRLittleEndian, ExplicitVRLittleEndian)):
        ((_, content),) = parts(get(client, path, accept + asked))
        found = dcmread(BytesIO(content))
        assert found.file_meta.TransferSyntaxUID == given
        assert found.SOPInstanceUID == dataset.SOPInstanceUID
        assert np.array_equal(found.pixel_array, dataset.pixel_array)
    assert get(client, path, f"{accept}1.2.840.10008.1.2.4.80").status_code == 406


def test_metadata_refer_to_bulk_data(client: httpx.Client) -> None:
    """Each reference gives the value's bytes."""
    dataset = ct_series(SHAPE)[0]
    block = dataset.private_block(0x0099, "AUSCULT TEST", create=True)
    block.add_new(1, "OB", bytes(range(256)) * 40)
    path = stored(client, dataset)
    (told,) = client.get(f"{path}/metadata").json()
    ((_, pixels),) = parts(get(client, told["7FE00010"]["BulkDataURI"], OCTETS))
    assert pixels == dataset.PixelData
    assert get(client, told["00991001"]["BulkDataURI"], "application/octet-stream").content == bytes(range(256)) * 40
    assert get(client, f"{path}/bulkdata/00991002", OCTETS).status_code == 404
    assert get(client, f"{path}/bulkdata/..%2fetc", OCTETS).status_code == 404
    assert get(client, f"{stored(client, rle())}/bulkdata/7FE00010", OCTETS).status_code == 406


def test_a_search_says_what_it_left_out(client: httpx.Client) -> None:
    """Results beyond the limit, and a matching that it does not have; further attributes come where asked for."""
    series = ct_series(SHAPE)
    for dataset in series:
        stored(client, dataset)
    study = f"/studies/{series[0].StudyInstanceUID}"
    answer = client.get(f"{study}/instances", params={"limit": 2, "fuzzymatching": "true"})
    assert len(answer.json()) == 2
    assert [each[:3] for each in answer.headers.get_list("Warning")] == ["299", "299"]
    rest = client.get(f"{study}/instances", params={"offset": 2})
    assert (len(rest.json()), "Warning" in rest.headers) == (1, False)
    asked = {"includefield": ["KVP,00180050", "SliceThickness"]}
    (found, *_) = client.get(f"{study}/instances", params=asked).json()
    assert Dataset.from_json(found).KVP == 120
    assert Dataset.from_json(found).SliceThickness == 2
    assert "00180060" not in client.get(f"{study}/instances", params={"includefield": "all"}).json()[0]
    assert get(client, f"{study}/instances", "application/dicom+xml").status_code == 406


def test_an_accept_header_is_read_in_its_order() -> None:
    """Quotation marks are optional, an empty header accepts everything."""
    given = 'multipart/related; type="image/jls"; q=0.5, multipart/related;type=application/octet-stream, image/jp2'
    assert accepted(given) == [
        Accepted("image/jls", "", multipart=True),
        Accepted("application/octet-stream", "", multipart=True),
        Accepted("image/jp2", "", multipart=False),
    ]
    assert accepted("") == [Accepted("*/*", "", multipart=True)]

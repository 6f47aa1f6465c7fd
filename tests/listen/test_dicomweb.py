"""STOW-RS takes each instance for itself; QIDO-RS and WADO-RS give back what the store holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from auscult.bus import events, topics
from auscult.bus.sqlite import SqliteBus
from auscult.imaging.store import ImageStore
from auscult.listen import pacs
from auscult.listen.archive import Archive
from auscult.listen.dicomweb_server import DicomwebServer
from auscult.listen.multipart import parts
from auscult.listen.reception import Reception
from auscult.platform.errors import RefuseToStart, Retry
from auscult.platform.settings import Settings as AuscultSettings
from dicom_factory import Person, ct_series, encode
from hostile_dicom import PROGRAMS

pytestmark = pytest.mark.golden

SHAPE = (3, 8, 8)
KIND = 'multipart/related; type="application/dicom"; boundary=b'
SERIES = ct_series(SHAPE)
STUDY = str(SERIES[0].StudyInstanceUID)


def body(files: list[bytes]) -> bytes:
    """Return files as parts."""
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n" for data in files]
    return b"".join(parts) + b"--b--\r\n"


@contextmanager
def serving(settings: AuscultSettings, bus: SqliteBus, store: ImageStore) -> Iterator[httpx.Client]:
    """Run a server and give a client of it."""
    server = DicomwebServer(settings, bus, store)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.start()}", timeout=30) as client:
            yield client
    finally:
        server.stop()


@pytest.fixture
def client(settings: AuscultSettings, bus: SqliteBus, store: ImageStore) -> Iterator[httpx.Client]:
    """Return a client of a server."""
    with serving(settings.model_copy(update={"dicomweb_port": 0}), bus, store) as client:
        yield client


def post(client: httpx.Client, files: list[bytes], path: str = "/studies", kind: str = KIND) -> tuple[int, Dataset]:
    """Store files and return status and answer."""
    answer = client.post(f"/dicom-web{path}", content=body(files), headers={"Content-Type": kind})
    told = answer.json()
    return answer.status_code, Dataset.from_json(told) if "reason" not in told else Dataset()


def test_what_is_stored_is_found_and_retrieved(client: httpx.Client, bus: SqliteBus) -> None:
    """Each instance is referred to; the study is announced once, searched, and comes back as it was sent."""
    files = [encode(dataset) for dataset in SERIES]
    status, answer = post(client, files)
    assert status == 200
    assert [each.ReferencedSOPInstanceUID for each in answer.ReferencedSOPSequence] == [
        dataset.SOPInstanceUID for dataset in SERIES
    ]
    kinds = [delivery.event.type for delivery in bus.read(topics.INSTANCES)]
    assert kinds == [events.INSTANCE_STORED] * 3 + [events.INSTANCES_DELIVERED]
    (found,) = client.get("/dicom-web/studies", params={"PatientName": "doe^j*"}).json()
    assert Dataset.from_json(found).NumberOfStudyRelatedInstances == 3
    assert client.get("/dicom-web/studies", params={"00100010": "Roe"}).json() == []
    assert len(client.get(f"/dicom-web/studies/{STUDY}/instances", params={"limit": "2"}).json()) == 2
    metadata = client.get(f"/dicom-web/studies/{STUDY}/metadata").json()
    assert {each["00080018"]["Value"][0] for each in metadata} == {each.SOPInstanceUID for each in SERIES}
    url = answer.ReferencedSOPSequence[0].RetrieveURL
    assert client.get(url, headers={"Accept": "application/dicom"}).content[132:] == files[0][132:]
    whole = client.get(f"/dicom-web/studies/{STUDY}")
    assert whole.content.count(b"Content-Type: application/dicom") == 3


def test_each_instance_is_taken_for_itself(client: httpx.Client) -> None:
    """One that is refused is named with its reason; only where all are is the request a conflict."""
    files = [encode(SERIES[0]), b"no DICOM"]
    status, answer = post(client, files)
    assert (status, len(answer.ReferencedSOPSequence), len(answer.FailedSOPSequence)) == (202, 1, 1)
    assert answer.FailedSOPSequence[0].FailureReason == 0xC000
    status, answer = post(client, [encode(SERIES[1])], f"/studies/{generate_uid()}")
    assert (status, answer.FailedSOPSequence[0].FailureReason) == (409, 0xA900)
    assert answer.FailedSOPSequence[0].ReferencedSOPInstanceUID == SERIES[1].SOPInstanceUID


def test_what_is_broken_after_its_first_part_is_no_full_success(client: httpx.Client) -> None:
    """What came before the break is stored and named; the status and a failure without a name tell of the rest."""
    content = body([encode(SERIES[0]), encode(SERIES[1])])[:-8]
    answer = client.post("/dicom-web/studies", content=content, headers={"Content-Type": KIND})
    told = Dataset.from_json(answer.json())
    assert (answer.status_code, len(told.ReferencedSOPSequence), len(told.FailedSOPSequence)) == (202, 1, 1)


def test_a_request_of_refusals_is_not_read_to_its_end(
    client: httpx.Client, bus: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leaves an outcome; a hundred thousand of them would keep the bus busy for minutes."""
    monkeypatch.setattr("auscult.listen.dicomweb.MOST_REFUSED", 3)
    status, answer = post(client, [b"no DICOM"] * 50)
    assert (status, len(answer.FailedSOPSequence)) == (409, 4)
    assert len(list(bus.read(topics.OUTCOMES))) == 3


def test_a_pattern_longer_than_any_value_matches_nothing(client: httpx.Client) -> None:
    """It is not even compiled."""
    post(client, [encode(SERIES[0])])
    assert client.get("/dicom-web/studies", params={"PatientName": "*a" * 3000 + "*"}).json() == []


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_preamble_that_is_a_program_is_not_stored(client: httpx.Client, store: ImageStore, program: bytes) -> None:
    """The object is; before its prefix are zeros."""
    data = encode(SERIES[0])
    assert post(client, [program.ljust(128, b"\1") + data[128:]])[0] == 200
    (path,) = store.instances("site", STUDY)
    assert path.read_bytes() == bytes(128) + data[128:]


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ('multipart/related; type="application/dicom"', body([]), 415),
        (KIND, b"--b\r\nContent-Type: image/jpeg\r\n\r\nx\r\n--b--\r\n", 415),
        (KIND, body([]), 400),
        (KIND, b"--b\r\nContent-Type: application/dicom\r\n\r\nDICM", 400),
        (KIND, b"--b\r\n" + b"x" * 50_000, 400),
    ],
)
def test_a_request_that_is_none_is_refused(client: httpx.Client, kind: str, content: bytes, status: int) -> None:
    """The status says what is wrong with it."""
    assert client.post("/dicom-web/studies", content=content, headers={"Content-Type": kind}).status_code == status


def test_a_token_is_asked_for(settings: AuscultSettings, bus: SqliteBus, store: ImageStore) -> None:
    """Where there is one; and beyond this machine there must be one."""
    guarded = settings.model_copy(update={"dicomweb_port": 0, "dicomweb_token": "secret"})
    with serving(guarded, bus, store) as client:
        assert client.get("/dicom-web/studies").status_code == 401
        assert client.get("/dicom-web/studies", headers={"Authorization": "Bearer secret"}).status_code == 200
    with pytest.raises(RefuseToStart, match="AUSCULT_DICOMWEB_TOKEN"):
        DicomwebServer(settings.model_copy(update={"dicomweb_host": "0.0.0.0"}), bus, store).start()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60).filter(lambda data: b"\r\n--b" not in b"\r\n" + data), max_size=4), st.data())
def test_parts_come_out_however_they_are_cut(files: list[bytes], data: st.DataObject) -> None:
    """Delimiters and headers may be split anywhere."""
    whole = body(files)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))

    async def stream() -> AsyncIterator[bytes]:
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            yield whole[start:end]

    async def read() -> list[bytes]:
        found, part = [], b""
        async for piece in parts(stream(), b"b"):
            if piece is None:
                found.append(part)
                part = b""
            else:
                part += piece
        return found

    assert asyncio.run(read()) == files


def test_queries_match_as_the_standard_says(store: ImageStore, client: httpx.Client) -> None:
    """Ranges, lists of UIDs, wildcards; characters that are patterns elsewhere are themselves."""
    other = ct_series(SHAPE, patient=Person(patient_id="P[1]", name="Müller^Jörg"))
    post(client, [encode(SERIES[0]), *map(encode, other)])
    archive = Archive(store, "site")

    def studies(**query: str) -> set[str]:
        return {each["0020000D"]["Value"][0] for each in archive.find("STUDY", query)}

    both = {STUDY, str(other[0].StudyInstanceUID)}
    assert studies() == studies(StudyDate="20260131-") == studies(StudyInstanceUID="\\".join(both)) == both
    assert studies(StudyDate="-20251231") == set()
    assert studies(PatientID="P[1]") == both - {STUDY}
    assert studies(PatientName="M?LLER*") == both - {STUDY}
    assert studies(StudyInstanceUID="../../etc") == set()
    assert len(list(archive.find("IMAGE", {"SeriesInstanceUID": str(other[0].SeriesInstanceUID)}))) == 3


def test_a_study_is_fetched_from_a_pacs_and_earlier_ones_are_found(
    settings: AuscultSettings, bus: SqliteBus, client: httpx.Client, tmp_path: Path
) -> None:
    """What WADO-RS gives is taken as if it were sent; of a patient's studies those before a day are priors."""
    post(client, [encode(dataset) for dataset in SERIES])
    asking = settings.model_copy(update={"pacs_url": f"{client.base_url}/dicom-web"})
    own = ImageStore(tmp_path / "own", min_free_bytes=0)
    reception = Reception("site", bus, own, "wado-rs")
    assert asyncio.run(pacs.fetch(asking, own, reception, STUDY)) == (3, 0)
    assert len(own.instances("site", STUDY)) == 3
    assert list(bus.read(topics.INSTANCES))[-1].event.payload(events.InstancesDelivered).count == 3
    assert pacs.priors(asking, "P-1", "CT", date(2026, 2, 1)) == [STUDY]
    assert pacs.priors(asking, "P-1", "CT", date(2026, 1, 31)) == []
    assert pacs.priors(asking, "P-1", "MR", date(2026, 2, 1)) == []
    with pytest.raises(Retry, match="pacs-unavailable"):
        asyncio.run(pacs.fetch(asking, own, reception, "1.2.3"))

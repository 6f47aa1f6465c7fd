"""Unmodified DICOM programs against the listener: dcmtk, a DICOMweb client, Orthanc."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydicom import dcmread
from stack.servers import DICOMWEB_CLIENT, dcmqrscp, orthanc, storescp

from auscult.bus import events, topics
from auscult.bus.sqlite import SqliteBus
from auscult.domain.identity import sop_digest
from auscult.domain.study import StudyRef
from auscult.entrypoints.demo.processes import free_port
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from auscult.listen.dicom_scp import DicomScp
from auscult.listen.dicomweb_server import DicomwebServer
from auscult.listen.orthanc import NOTE, OrthancFollower
from auscult.listen.pacs import Expected, fetch, priors
from auscult.listen.reception import Reception
from auscult.platform.settings import Settings
from dicom_factory import ct_series, encode
from product import eventually

SHAPE = (6, 32, 32)
HOOK = re.findall("```lua\n(.*?)```", (Path(__file__).parents[1] / "docs" / "dicom.md").read_text(), re.DOTALL)[0]
"""What a site puts into its Orthanc."""


@dataclass(frozen=True)
class Listener:
    """A listener with its ports, and the destination of its C-MOVE."""

    port: int
    web: str
    bus: SqliteBus
    store: ImageStore
    destination: Path


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """Run the listener, and dcmtk's storescp as the place to which it moves."""
    home = tmp_path_factory.mktemp("listen")
    with storescp(home / "moved") as (move_port, moved):
        settings = Settings(
            tenant="site",
            home=home,
            dicom_port=0,
            dicomweb_port=0,
            min_free_bytes=0,
            dicom_destinations={"MOVED": f"127.0.0.1:{move_port}"},
        )
        bus, store = SqliteBus(home / "bus.db"), ImageStore(settings.images, min_free_bytes=0)
        scp, web = DicomScp(settings, bus, store), DicomwebServer(settings, bus, store)
        try:
            yield Listener(scp.start(), f"http://127.0.0.1:{web.start()}/dicom-web", bus, store, moved)
        finally:
            web.stop()
            scp.stop()
            bus.close()


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], str]:
    """Return a CT series as files, and its study."""
    series = ct_series(SHAPE)
    paths = [tmp_path / f"{index}.dcm" for index in range(len(series))]
    for path, dataset in zip(paths, series, strict=True):
        path.write_bytes(encode(dataset))
    return paths, str(series[0].StudyInstanceUID)


def dcmtk(command: str, *arguments: object) -> str:
    """Run one of dcmtk's programs and return what it says."""
    done = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def keys(*each: str) -> list[str]:
    """Return a query as dcmtk takes it."""
    return [part for key in each for part in ("-k", key)]


def stored(listener: Listener, study: str) -> int:
    """Return how many instances of a study the store has."""
    return len(listener.store.instances("site", study))


@pytest.mark.parametrize(
    "proposing", ["-xe", "-xi", "-xb", "-xd", "-R"], ids=["explicit", "implicit", "big", "deflated", "required"]
)
def test_storescu_stores(listener: Listener, files: tuple[list[Path], str], proposing: str) -> None:
    """In each uncompressed transfer syntax, deflated, and with only the contexts that it needs."""
    paths, study = files
    dcmtk("storescu", proposing, "-aec", "AUSCULT", "127.0.0.1", listener.port, *paths)
    assert stored(listener, study) == len(paths)


def test_findscu_movescu_and_getscu_find_and_fetch(
    listener: Listener, files: tuple[list[Path], str], tmp_path: Path
) -> None:
    """At every level; what comes back is what was sent."""
    paths, study = files
    here = "-aec", "AUSCULT", "127.0.0.1", listener.port
    dcmtk("echoscu", *here)
    dcmtk("storescu", *here, *paths)
    ask = ("findscu", "-v", "-S", *here)
    one = keys(f"StudyInstanceUID={study}", "StudyDate=20260101-20261231", "NumberOfStudyRelatedInstances")
    found = dcmtk(*ask, *keys("QueryRetrieveLevel=STUDY", "PatientName=DOE*"), *one)
    assert f"IS [{len(paths)} ]" in found
    assert "IS [" not in dcmtk(*ask, *keys("QueryRetrieveLevel=STUDY", "PatientName=NOBODY"), *one)
    images = dcmtk(*ask, *keys("QueryRetrieveLevel=IMAGE", f"StudyInstanceUID={study}", "SOPInstanceUID"))
    assert images.count("(Pending)") == len(paths)
    whole = keys("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={study}")
    dcmtk("movescu", "-S", "-aem", "MOVED", *here, *whole)
    assert len(list(listener.destination.iterdir())) == len(paths)
    fetched = tmp_path / "got"
    fetched.mkdir()
    dcmtk("getscu", "-S", "-od", fetched, *here, *whole)
    assert len(list(fetched.iterdir())) == len(paths)


def test_a_dicomweb_client_stores_searches_and_retrieves(listener: Listener, files: tuple[list[Path], str]) -> None:
    """The unmodified dicomweb-client, in an environment of its own."""
    paths, study = files
    done = subprocess.run(
        [DICOMWEB_CLIENT, Path(__file__).parent / "dicomweb_session.py", listener.web, study, *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert stored(listener, study) == len(paths)
    (told,) = [
        payload
        for delivery in listener.bus.read(topics.INSTANCES)
        if delivery.event.type == events.INSTANCES_DELIVERED
        and (payload := delivery.event.payload(events.InstancesDelivered)).study_uid == study
    ]
    assert (told.count, told.aborted) == (len(paths), False)


def test_orthanc_forwards_by_c_store_and_by_stow_rs(
    listener: Listener, files: tuple[list[Path], str], tmp_path: Path
) -> None:
    """Its modality and its DICOMweb client; it finds and moves from us as from any PACS."""
    paths, study = files
    with orthanc(tmp_path / "orthanc", listener.port) as (pacs, _):
        for path in paths:
            httpx.post(f"{pacs}/instances", content=path.read_bytes()).raise_for_status()
        server = {"Url": f"{listener.web}/", "ChunkedTransfers": True}
        httpx.put(f"{pacs}/dicom-web/servers/auscult", json=server).raise_for_status()
        (resource,) = httpx.post(f"{pacs}/tools/lookup", content=study).json()
        job = {"Resources": [resource["ID"]], "Synchronous": True}
        httpx.post(f"{pacs}/dicom-web/servers/auscult/stow", json=job, timeout=60).raise_for_status()
        assert stored(listener, study) == len(paths)
        own = ImageStore(tmp_path / "own", min_free_bytes=0)
        asking = Settings(tenant="site", pacs_url=f"{pacs}/dicom-web")
        reception = Reception("site", listener.bus, own, "wado-rs")
        assert asyncio.run(fetch(asking, own, reception, study)) == (len(paths), 0)
        assert priors(asking, "P-1", "CT", date(2026, 2, 1)) == [study]
        with closing(Expected(asking)) as expected:
            assert expected.count(study) == len(paths)
        query = {"Level": "Study", "Query": {"StudyInstanceUID": study}}
        httpx.put(f"{pacs}/modalities/us", json=["AUSCULT", "127.0.0.1", listener.port]).raise_for_status()
        found = httpx.post(f"{pacs}/modalities/us/query", json=query, timeout=60).raise_for_status().json()["ID"]
        assert len(httpx.get(f"{pacs}/queries/{found}/answers").json()) == 1


@pytest.mark.parametrize(
    ("compress", "proposing"),
    [("dcmcjpeg", "-xs"), ("dcmcjpls", "-xt"), ("dcmcrle", "-xr")],
    ids=["JPEG lossless", "JPEG-LS", "RLE"],
)
def test_compressed_series_are_stored_retrieved_and_decoded(
    listener: Listener, files: tuple[list[Path], str], tmp_path: Path, compress: str, proposing: str
) -> None:
    """As dcmtk compresses them; they come back as they were sent, and the volume is what was compressed."""
    paths, study = files
    hu = np.stack([dcmread(path).pixel_array.astype(int) - 1024 for path in paths])
    for path in paths:
        dcmtk(compress, path, path)
    dcmtk("storescu", proposing, "-R", "-aec", "AUSCULT", "127.0.0.1", listener.port, *paths)
    stored_files = listener.store.instances("site", study)
    # What a workstation fetches is compressed as it was sent, from the whole study down to one instance.
    here = "-S", "-aec", "AUSCULT", "127.0.0.1", listener.port
    series, instance = stored_files[0].parent.name, stored_files[0].stem
    below = keys(f"StudyInstanceUID={study}")
    for level, more, count in (
        ("STUDY", [], len(paths)),
        ("SERIES", keys(f"SeriesInstanceUID={series}"), len(paths)),
        ("IMAGE", keys(f"SeriesInstanceUID={series}", f"SOPInstanceUID={instance}"), 1),
    ):
        found = tmp_path / level
        found.mkdir()
        dcmtk(
            "getscu",
            proposing.replace("-x", "+x"),
            "-od",
            found,
            *here,
            *keys(f"QueryRetrieveLevel={level}"),
            *below,
            *more,
        )
        assert len(list(found.iterdir())) == count
        dcmtk("movescu", "-aem", "MOVED", *here, *keys(f"QueryRetrieveLevel={level}"), *below, *more)
        for path in found.iterdir():
            kept = dcmread(next(each for each in stored_files if each.stem == dcmread(path).SOPInstanceUID))
            moved = dcmread(next(listener.destination.glob(f"*{kept.SOPInstanceUID}")))
            assert dcmread(path).file_meta.TransferSyntaxUID == kept.file_meta.TransferSyntaxUID
            assert dcmread(path).PixelData == moved.PixelData == kept.PixelData
    assert {
        dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_compressed for path in stored_files
    } == {True}
    plain = tmp_path / "plain"
    plain.mkdir()
    dcmtk("getscu", "-od", plain, *here, *keys("QueryRetrieveLevel=STUDY"), *below)
    assert {str(dcmread(path).SOPInstanceUID) for path in plain.iterdir()} == {path.stem for path in stored_files}
    assert not any(dcmread(path).file_meta.TransferSyntaxUID.is_compressed for path in plain.iterdir())
    ref = StudyRef("site", study, sop_digest(path.stem for path in stored_files))
    assert np.array_equal(load_study(ref, listener.store).volume.hu, hu)


def orthanc_with(pacs: str, paths: list[Path]) -> None:
    """Put files into Orthanc."""
    for path in paths:
        httpx.post(f"{pacs}/instances", content=path.read_bytes()).raise_for_status()


def test_orthancs_changes_are_followed_across_a_restart(files: tuple[list[Path], str], tmp_path: Path) -> None:
    """What became stable while nobody followed is taken then; the hook of its Lua wakes the follower."""
    paths, study = files
    second = [tmp_path / f"second-{index}.dcm" for index in range(SHAPE[0])]
    series = ct_series(SHAPE)
    for path, dataset in zip(second, series, strict=True):
        path.write_bytes(encode(dataset))
    with orthanc(tmp_path / "orthanc", free_port()) as (pacs, _):
        settings = Settings(
            tenant="site",
            home=tmp_path,
            dicomweb_port=0,
            min_free_bytes=0,
            orthanc_url=pacs,
            dicomweb_token="secret",  # noqa: S106 - of this test alone
        )
        store = ImageStore(settings.images, min_free_bytes=0)
        with closing(SqliteBus(tmp_path / "bus.db")) as bus:
            follower = OrthancFollower(settings, bus, store)
            follower.start()
            eventually(lambda: store.note("site", NOTE) or None, "the feed is followed")
            follower.stop()
            orthanc_with(pacs, paths)
            eventually(lambda: "StableStudy" in httpx.get(f"{pacs}/changes").text or None, "the study becomes stable")
            follower = OrthancFollower(settings, bus, store)
            web = DicomwebServer(settings, bus, store, follower.wake)
            hook = f"http://127.0.0.1:{web.start()}/orthanc/stable-study"
            follower.start()
            eventually(lambda: len(store.instances("site", study)) == len(paths) or None, "the first study is taken")
            assert httpx.post(hook).status_code == 401
            script = HOOK.replace("http://auscult:11180/orthanc/stable-study", hook).replace("TOKEN", "secret")
            httpx.post(f"{pacs}/tools/execute-script", content=script).raise_for_status()
            orthanc_with(pacs, second)
            uid = str(series[0].StudyInstanceUID)
            eventually(
                lambda: len(store.instances("site", uid)) == len(second) or None, "the hook wakes the follower"
            )
            follower.stop()
            web.stop()
            ended = [
                delivery.event.payload(events.InstancesDelivered)
                for delivery in bus.read(topics.INSTANCES)
                if delivery.event.type == events.INSTANCES_DELIVERED
            ]
        assert [(each.study_uid, each.count) for each in ended] == [(study, len(paths)), (uid, len(second))]


def test_a_pacs_without_dicomweb_is_asked_and_gives_by_c_get_or_c_move(
    listener: Listener, files: tuple[list[Path], str], tmp_path: Path
) -> None:
    """Orthanc by C-GET; dcmtk's dcmqrscp, which has no C-GET, by C-MOVE to our listener."""
    paths, study = files
    with orthanc(tmp_path / "orthanc", listener.port) as (pacs, port):
        orthanc_with(pacs, paths)
        httpx.put(f"{pacs}/modalities/out", json=["AUSCULT_OUT", "127.0.0.1", listener.port]).raise_for_status()
        own = ImageStore(tmp_path / "own", min_free_bytes=0)
        asking = Settings(tenant="site", pacs_url=f"dicom://ORTHANC@127.0.0.1:{port}")
        assert priors(asking, "P-1", "CT", date(2026, 2, 1)) == [study]
        with closing(Expected(asking)) as expected:
            assert expected.count(study) == len(paths)
        reception = Reception("site", listener.bus, own, "fetch")
        assert asyncio.run(fetch(asking, own, reception, study)) == (len(paths), 0)
        assert len(own.instances("site", study)) == len(paths)
    with dcmqrscp(tmp_path / "dcmqrscp", listener.port) as port:
        dcmtk("storescu", "-aec", "QR", "127.0.0.1", port, *paths)
        asking = Settings(tenant="site", pacs_url=f"dicom://QR@127.0.0.1:{port}", pacs_ae_title="AUSCULT_OUT")
        assert priors(asking, "P-1", "CT", date(2026, 2, 1)) == [study]
        before = stored(listener, study)
        reception = Reception("site", listener.bus, listener.store, "fetch")
        taken, refused = asyncio.run(fetch(asking, listener.store, reception, study))
        assert (before, taken, refused) == (0, len(paths), 0)
        assert stored(listener, study) == len(paths)

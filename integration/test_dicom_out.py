"""Results as DICOM objects, judged by programs that know nothing of us: dciodvfy, dcmtk, highdicom and Orthanc."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from stack.servers import orthanc

from auscult.domain.deadline import Deadline
from auscult.domain.study import PatientIdentity, Study
from auscult.domain.volume import Volume
from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.processes import Services, demo_settings, environment, free_port, running
from auscult.entrypoints.demo.study import write_later, write_phantom
from auscult.imaging.header import InstanceHeader
from auscult.imaging.slices import stack
from auscult.imaging.store import ImageStore
from auscult.models.build import build_repository
from auscult.platform.settings import Settings
from auscult.publish.dicom_seg import Segment, write_seg
from auscult.publish.pacs.objects import ResultObjects
from auscult.publish.pacs.sink import PacsSink, open_archive
from auscult.publish.sources import FrameOf
from dicom_factory import encode, enhanced, mr_series, pet_series
from dicom_results import Read, read_series
from product import Product, eventually

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("seg", "sr", "rtstruct", "capture")
SERVICES = ("fhir-sandbox", "inference", "cds-hooks", "listen", "pathways")


@dataclass(frozen=True)
class Pacs:
    """An Orthanc, with its REST address and DICOM port, which forwards stable studies to `auscult_port`."""

    url: str
    port: int
    auscult_port: int

    def objects(self, study_uid: str) -> dict[str, list[str]]:
        """Return the study's SOP Instance UIDs by modality, by QIDO-RS."""
        answer = httpx.get(
            f"{self.url}/dicom-web/studies/{study_uid}/instances", headers={"Accept": "application/json"}
        )
        answer.raise_for_status()
        found: dict[str, list[str]] = {}
        for item in answer.json():
            found.setdefault(item["00080060"]["Value"][0], []).append(item["00080018"]["Value"][0])
        return found

    def file(self, sop_instance_uid: str) -> bytes:
        """Return an instance as it is stored."""
        (identity,) = httpx.post(f"{self.url}/tools/lookup", content=sop_instance_uid).json()
        return httpx.get(f"{self.url}/instances/{identity['ID']}/file").content


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """Run an Orthanc."""
    auscult_port = free_port()
    with orthanc(tmp_path_factory.mktemp("orthanc"), auscult_port) as (url, port):
        yield Pacs(url, port, auscult_port)


@pytest.fixture
def read() -> Read:
    """Return a result on a series of its own."""
    return read_series()


@pytest.fixture
def study(read: Read, tmp_path: Path) -> tuple[Study, ImageStore]:
    """Put the series into an image store."""
    store = ImageStore(tmp_path / "images", min_free_bytes=0)
    for dataset in read.slices:
        data = encode(dataset)
        store.put("default", InstanceHeader.read(data), data)
    first = read.slices[0]
    uids = tuple(str(dataset.SOPInstanceUID) for dataset in read.slices)
    volume = Volume(read.regions[0].mask.astype("int16"), read.geometry, str(first.SeriesInstanceUID), uids)
    return Study(read.result.study, PatientIdentity("P-1", "", None, ""), volume, (), None), store


def complaints(dataset: Dataset, path: Path) -> list[str]:
    """Return what dciodvfy has against an object, our private coding scheme apart."""
    path.write_bytes(encode(dataset))
    told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
    lines = [line for line in told.splitlines() if line.startswith(("Error", "Warning"))]
    return [line for line in lines if "<99AUSCULT>" not in line]


@pytest.mark.parametrize("changes", [{}, {"status": "degraded", "reasons": ("too late",)}, {"findings": ()}])
def test_dciodvfy_has_nothing_against_any_object(read: Read, changes: dict[str, Any], tmp_path: Path) -> None:
    """SEG, SR, RTSTRUCT and SC of a final, a degraded and an empty result: no error, no warning."""
    result = replace(read.result, **changes)
    objects = ResultObjects(result, read.regions[: len(result.findings)], read.slices, KINDS)
    found = [complaints(dataset, tmp_path / "object.dcm") for dataset in objects.datasets()]
    assert found == [[]] * len(objects.uids())


def test_dciodvfy_has_nothing_against_objects_on_an_enhanced_image(read: Read, tmp_path: Path) -> None:
    """Frames are referred to, and instances of a series once."""
    frames = [FrameOf(enhanced(read.slices), number) for number in range(len(read.slices), 0, -1)]
    objects = ResultObjects(read.result, read.regions, frames, KINDS)
    found = [complaints(dataset, tmp_path / "object.dcm") for dataset in objects.datasets()]
    assert found == [[]] * len(objects.uids())


@pytest.mark.parametrize("series", [mr_series, pet_series])
def test_dciodvfy_has_nothing_against_objects_on_mr_and_pet(
    read: Read, series: Callable[..., list[Dataset]], tmp_path: Path
) -> None:
    """Their procedure is named, and the picture has a window of its own."""
    slices = series(read.geometry.shape)
    grid = stack([InstanceHeader.read(encode(each)) for each in slices]).geometry
    regions = [replace(region, geometry=grid) for region in read.regions]
    objects = ResultObjects(read.result, regions, slices, KINDS)
    found = [complaints(dataset, tmp_path / "object.dcm") for dataset in objects.datasets()]
    assert found == [[]] * len(objects.uids())


def test_dciodvfy_has_nothing_against_a_fractional_segmentation(read: Read, tmp_path: Path) -> None:
    """As against a binary one."""
    segment = Segment(read.regions[0], "nodule", ("model", "1"), fractions=read.regions[0].mask * 0.7)
    uids = {"sop_instance_uid": "2.25.11", "series_uid": "2.25.12"}
    made = ResultObjects(read.result, read.regions, read.slices, ()).made
    assert (
        complaints(write_seg([segment], read.slices, made=made, kind="FRACTIONAL", **uids), tmp_path / "f.dcm") == []
    )


def test_dcmtk_reads_the_report(read: Read, tmp_path: Path) -> None:
    """Dsrdump and dsr2html show the numbers."""
    (report,) = ResultObjects(read.result, read.regions, read.slices, ("sr",)).datasets()
    path = tmp_path / "sr.dcm"
    path.write_bytes(encode(report))
    for program in ("dsrdump", "dsr2html"):
        shown = subprocess.run([program, str(path)], capture_output=True, text=True, check=True).stdout
        assert "8.42312" in shown, program


@pytest.mark.parametrize("scheme", ["http", "dicom"])
def test_orthanc_holds_the_result_once(
    pacs: Pacs,
    read: Read,
    study: tuple[Study, ImageStore],
    scheme: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By STOW-RS and by C-STORE with commitment: all is there, a second write sends nothing, highdicom reads it."""
    url = f"{pacs.url}/dicom-web" if scheme == "http" else f"dicom://ORTHANC@127.0.0.1:{pacs.port}"
    port = free_port()
    httpx.put(
        f"{pacs.url}/modalities/out", json={"AET": "AUSCULT_OUT", "Host": "127.0.0.1", "Port": port}
    ).raise_for_status()
    archive = open_archive(Settings(pacs_url=url, pacs_commitment_port=port))
    assert archive is not None
    sink = PacsSink(archive, study[1], KINDS)
    try:
        caplog.clear()
        assert sink.write(read.result, read.regions, study[0], Deadline.after(60))
        assert not sink.write(read.result, read.regions, study[0], Deadline.after(60))
        (back,) = [archive.retrieve(d, Deadline.after(60)) for d in _objects(read, "seg")]
    finally:
        archive.close()
    assert back is not None
    assert [record.message for record in caplog.records if record.name.startswith("auscult")] == []
    held = pacs.objects(read.result.study.study_uid)
    assert {kind: len(uids) for kind, uids in held.items()} == {"SEG": 1, "SR": 1, "RTSTRUCT": 1, "OT": 2}
    files = {kind: BytesIO(pacs.file(uids[0])) for kind, uids in held.items()}
    assert hd.seg.segread(files["SEG"]).number_of_segments == 2
    groups = hd.sr.srread(files["SR"]).content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["nodule-1", "nodule-2"]


def _objects(read: Read, *kinds: str) -> list[Dataset]:
    return list(ResultObjects(read.result, read.regions, read.slices, kinds).datasets())


@contextmanager
def site(pacs: Pacs, home: Path, seed: int) -> Iterator[tuple[Product, Services, list[Path], str]]:
    """Run the product with the PACS; give it, its services, and a phantom's files and study."""
    models = ROOT / ".auscult" / "models"
    build_repository(models, if_changed=True)
    settings = demo_settings(home / "home", models, {"": SYSTEM, "HOSPITAL": SYSTEM, "AUSCULT": SYSTEM}).model_copy(
        update={
            "dicom_port": pacs.auscult_port,
            "pacs_url": f"{pacs.url}/dicom-web",
            "pacs_objects": ("seg", "sr", "rtstruct"),
        }
    )
    write_phantom(home / "phantom", seed=seed, seg=False)
    files = sorted((home / "phantom").rglob("*.dcm"))
    header = dcmread(files[0], stop_before_pixels=True)
    with running(settings, SERVICES) as services:
        assert sorted(services.wait_ready(SERVICES)) == sorted(SERVICES)
        product = Product(settings)
        try:
            product.register(f"phantom-{seed}", header.PatientID)
            yield product, services, files, header.StudyInstanceUID
        finally:
            product.close()


def test_a_worker_killed_with_its_card_out_still_writes_to_the_pacs(pacs: Pacs, tmp_path: Path) -> None:
    """The clinician has the card while the PACS has nothing; the successor writes it once, the card stays one."""
    with site(pacs, tmp_path, 22) as (product, services, files, study):
        services.processes["pathways"].stop()
        dying = subprocess.Popen(
            [sys.executable, str(ROOT / "integration" / "worker_that_dies.py"), "card"],
            env=environment(product.settings),
        )
        product.send(files)
        assert dying.wait(120) == -9
        card = product.card("phantom-22")
        assert pacs.objects(study) == {}
        assert product.outcomes(study) == []
        services.start("pathways")
        assert product.outcome(study).status == "published"
        assert {kind: len(uids) for kind, uids in pacs.objects(study).items()} == {"SEG": 1, "SR": 1, "RTSTRUCT": 1}
        [again] = product.cards("phantom-22")
        assert again["uuid"] == card["uuid"]
        assert len(product.outcomes(study)) == 1


def test_a_nodule_that_grew_is_known_again_from_what_the_pacs_has(pacs: Pacs, tmp_path: Path) -> None:
    """The earlier CT comes by QIDO-RS and WADO-RS; the card tells the growth, both SEGs have one Tracking UID."""
    with site(pacs, tmp_path, 23) as (product, _, files, study):
        for path in files:
            httpx.post(f"{pacs.url}/instances", content=path.read_bytes()).raise_for_status()
        assert product.outcome(study).status == "published"
        ImageStore(product.settings.images, min_free_bytes=0).erase("default", study)
        write_later(tmp_path / "later", seed=23, seg=False, days=150, doubling_days=200.0)
        of_later = sorted((tmp_path / "later").rglob("*.dcm"))
        later = dcmread(of_later[0], stop_before_pixels=True).StudyInstanceUID
        product.send(of_later)
        assert product.outcome(later).status == "published"
        details = [card["detail"] for card in product.cards("phantom-23")]
        (told,) = [detail for detail in details if "Compared with the CT of 2026-01-15, 150 days before" in detail]
        assert "| In 150 days | grown: " in told
        (other,) = [detail for detail in details if detail != told]
        assert "No earlier CT was compared: none of the patient is known." in other
        found = product.result(later).findings
        assert "growth" in {group.name for finding in found for group in finding.groups}
        tracked = [
            {
                segment.TrackingUID
                for segment in dcmread(BytesIO(pacs.file(pacs.objects(uid)["SEG"][0]))).SegmentSequence
            }
            for uid in (study, later)
        ]
        grown = {f.tracking_uid for f in found if any(group.name == "growth" for group in f.groups)}
        assert grown
        assert grown <= tracked[0] & tracked[1]
    report = dcmread(BytesIO(pacs.file(pacs.objects(later)["SR"][0])))
    assert complaints(report, tmp_path / "sr.dcm") == []


def test_the_main_job_leaves_its_result_in_the_pacs_and_hears_of_it_no_more(pacs: Pacs, tmp_path: Path) -> None:
    """A study goes in, SEG, SR and RTSTRUCT are in the PACS; that it forwards them starts no second run."""
    with site(pacs, tmp_path, 21) as (product, _, files, study):
        for path in files:
            httpx.post(f"{pacs.url}/instances", content=path.read_bytes()).raise_for_status()
        outcome = product.outcome(study)
        assert outcome.status == "published", outcome
        held = pacs.objects(study)
        assert {kind: len(uids) for kind, uids in held.items() if kind != "CT"} == {
            "SEG": 1,
            "SR": 1,
            "RTSTRUCT": 1,
        }
        log = product.settings.home / "logs" / "listen.log"
        eventually(lambda: "new but our own results" in log.read_text() or None, "the PACS to forward")
        product.send(files[:1])
        assert product.outcome(study, after=1).status == "published"
        assert len(product.outcomes(study)) == 2
        assert len({result.study.digest for result in product.results(study)}) == 1
    for kind in ("SEG", "SR", "RTSTRUCT"):
        dataset = dcmread(BytesIO(pacs.file(held[kind][0])))
        assert complaints(dataset, tmp_path / "again.dcm") == []

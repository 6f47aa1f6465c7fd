"""NVIDIA Triton in the place of the product's own inference service, and perf_analyzer against that service."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pydicom
import pytest
from peers.processes import NotInstalledError, Peer, installed, triton

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.processes import SERVICES, demo_settings, running
from auscult.entrypoints.demo.study import write_phantom
from auscult.inference.client import InferenceClient
from auscult.inference.repository import Repository
from auscult.inference.server import create_server
from auscult.models.build import build_repository
from product import Product

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = tuple(name for name in SERVICES if name != "inference")


@pytest.fixture(scope="module")
def models() -> Path:
    """Return the reference models' repository."""
    root = ROOT / ".auscult" / "models"
    build_repository(root, if_changed=True)
    return root


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Peer]:
    """Run Triton with the reference models."""
    try:
        installed("triton")
    except NotInstalledError as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))
    with triton(models, tmp_path_factory.mktemp("triton")) as peer:
        yield peer


@contextmanager
def product_with(home: Path, models: Path, target: str | None) -> Iterator[Product]:
    """Run the pipeline below `home` on the models served at `target`; None: on the product's own service."""
    settings = demo_settings(home, models, {"": SYSTEM, "HOSPITAL": SYSTEM, "AUSCULT": SYSTEM})
    if target:
        settings = settings.model_copy(update={"inference_target": target})
    names = PIPELINE if target else SERVICES
    with running(settings, names) as services:
        assert sorted(services.wait_ready(names)) == sorted(names)
        product = Product(settings)
        yield product
        product.close()


def result_of(product: Product, files: list[Path]) -> Result:
    """Send a study and return what was found."""
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    product.register("phantom", header.PatientID)
    product.send(files)
    assert product.outcome(header.StudyInstanceUID).status == "published"
    return product.result(header.StudyInstanceUID)


def test_pipeline_runs_unchanged_on_triton(tmp_path: Path, models: Path, peer: Peer) -> None:
    """Segmentation, radiomics and risk of a study are the same whoever serves the models."""
    write_phantom(tmp_path / "study", seed=11, seg=False)
    files = sorted((tmp_path / "study").rglob("*.dcm"))
    found = []
    for name, target in (("ours", None), ("triton", peer.target)):
        with product_with(tmp_path / name, models, target) as product:
            found.append(msgspec.to_builtins(result_of(product, files)))
    assert found[0]["findings"]
    for result in found:
        del result["recorded"]
    assert found[0] == found[1]


def test_clients_get_the_same_numbers_from_triton(models: Path, peer: Peer) -> None:
    """The risk model's outputs are equal to the last bit; its reference is read from core metadata."""
    feed = {name: np.full((1, 1), 1.0) for name in ("age", "female", "diameter", "upper_lobe", "nodule_count")}
    feed |= {name: np.zeros((1, 1)) for name in ("family_history_lung_cancer", "emphysema", "spiculation")}
    feed["type"] = np.zeros((1, 1), np.int64)
    server = create_server(Repository(models, threads=1), "127.0.0.1:0")
    server.start()
    try:
        answers = []
        for target in (f"127.0.0.1:{server.port}", peer.target):
            with InferenceClient(target, models) as client:
                client.wait_ready(["brock_full", "lung_nodule_seg"], 30)
                answers.append(
                    (client.reference("brock_full"), client.infer("brock_full", feed, deadline=Deadline.after(30)))
                )
    finally:
        server.stop(None)
    (ours, numbers), (theirs, others) = answers
    assert ours == theirs
    assert numbers.keys() == others.keys()
    assert all(np.array_equal(numbers[name], others[name]) for name in numbers)


@pytest.mark.parametrize("way", ["", "--streaming --async", "--shared-memory=system"])
def test_perf_analyzer_completes(tmp_path: Path, models: Path, way: str) -> None:
    """NVIDIA's own load generator measures the service, over single calls, a stream and shared memory."""
    try:
        perf = installed("perf")
    except NotInstalledError as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))
    (cuda,) = perf.glob("lib/python3.*/site-packages/nvidia/cuda_runtime/lib")
    server = create_server(Repository(models, threads=1), "127.0.0.1:0")
    server.start()
    report = tmp_path / "report.csv"
    command = [str(perf / "bin" / "perf_analyzer"), "-u", f"127.0.0.1:{server.port}", "-f", str(report)]
    command += ["-i", "grpc", "-m", "brock_full", "--concurrency-range", "4", "--measurement-mode", "count_windows"]
    command += f"--measurement-request-count 50 --stability-percentage 999 --max-trials 3 {way}".split()
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"LD_LIBRARY_PATH": f"{perf / 'lib'}:{cuda}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    finally:
        server.stop(None)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    header, row, *_ = report.read_text().splitlines()
    measured = dict(zip(header.split(","), row.split(","), strict=False))
    assert float(measured["Inferences/Second"]) > 0
    assert "Failed" not in done.stderr

"""DICOM: an instance in, and a study read again as a volume."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from auscult.domain.identity import sop_digest
from auscult.domain.study import StudyRef
from auscult.entrypoints.demo.processes import demo_settings, running
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from benchmarks.processes import dicom_scp, elsewhere
from benchmarks.table import OURS
from dicom_factory import ct_series, encode

STORE = "DICOM: C-STORE of one CT slice, 512 x 512"
LOAD = "DICOM: 100 stored slices of 512 x 512 to a volume in HU"
SHAPE = (512, 512)


def again(slice_: Dataset) -> Callable[[], tuple[Dataset]]:
    """Return a function that makes the next instance of a series that has no end."""

    def following() -> tuple[Dataset]:
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        return (slice_,)

    return following


@contextmanager
def sending(port: int, title: str) -> Iterator[Callable[[Dataset], None]]:
    """Open an association and give the function that sends an instance over it."""
    scu = AE("BENCHMARK")
    scu.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = scu.associate("127.0.0.1", port, ae_title=title)
    assert association.is_established

    def send(dataset: Dataset) -> None:
        assert association.send_c_store(dataset).Status == 0

    try:
        yield send
    finally:
        association.release()


@pytest.fixture
def slice_() -> Dataset:
    """Return a CT slice."""
    return ct_series((1, *SHAPE))[0]


def test_store(measure: Callable[..., Any], folder: Path, models: Path, slice_: Dataset) -> None:
    """Success is answered when the bytes are on the disk and their event is recorded."""
    settings = demo_settings(folder, models, {})
    with running(settings, ("listen",)) as services:
        assert list(services.wait_ready(("listen",))) == ["listen"]
        with sending(settings.dicom_port, settings.ae_title) as send:
            measure(STORE, OURS, send, setup=again(slice_), rounds=100)


def test_store_bare(measure: Callable[..., Any], slice_: Dataset) -> None:
    """The peer: pynetdicom's SCP as it comes, which answers success and keeps nothing."""
    with (
        elsewhere(dicom_scp, CTImageStorage, ExplicitVRLittleEndian) as line,
        sending(line.recv(), "BARE") as send,
    ):
        measure(STORE, "pynetdicom with its defaults, nothing kept", send, setup=again(slice_), rounds=100)


def test_store_raw(measure: Callable[..., Any], folder: Path, slice_: Dataset) -> None:
    """The raw limit: as many bytes written to a new file and synced."""
    content = encode(slice_)

    def write() -> None:
        with (folder / generate_uid()).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    measure(STORE, "write and fsync of as many bytes", write, rounds=100)


@pytest.fixture(scope="module")
def stored(disk: Path) -> tuple[ImageStore, StudyRef, list[Path]]:
    """Return an image store with a study in it, and the study's files."""
    store = ImageStore(disk / "images", min_free_bytes=0)
    for slice_ in ct_series((100, *SHAPE)):
        data = encode(slice_)
        store.put("default", InstanceHeader.read(data), data)
        study = str(slice_.StudyInstanceUID)
    files = store.instances("default", study)
    return store, StudyRef("default", study, sop_digest(path.stem for path in files)), files


def test_load(measure: Callable[..., Any], stored: tuple[ImageStore, StudyRef, list[Path]]) -> None:
    """Every header is read and checked, the slices are ordered and put into HU."""
    store, ref, _ = stored
    study = measure(LOAD, OURS, lambda: load_study(ref, store), rounds=15, warm=2)
    assert study.volume.hu.shape == (100, *SHAPE)


def test_load_by_pydicom(measure: Callable[..., Any], stored: tuple[ImageStore, StudyRef, list[Path]]) -> None:
    """The peer: pydicom reads, sorts by position and rescales; nothing is checked."""

    def load() -> None:
        slices = sorted(map(dcmread, stored[2]), key=lambda dataset: dataset.ImagePositionPatient[2])
        for dataset in slices:
            rescaled = dataset.pixel_array * np.float32(dataset.RescaleSlope) + np.float32(dataset.RescaleIntercept)
            rescaled.astype(np.int16)

    measure(LOAD, "pydicom's pixel_array, rescaled", load, rounds=15, warm=2)


def test_load_raw(measure: Callable[..., Any], stored: tuple[ImageStore, StudyRef, list[Path]]) -> None:
    """The raw limit: the files' bytes."""
    measure(
        LOAD, "numpy.fromfile of the files", lambda: [np.fromfile(path, np.uint8) for path in stored[2]], rounds=15
    )

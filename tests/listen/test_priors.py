"""A pathway finds a patient's earlier studies in the PACS, and loads one; our own listener is the PACS here."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from auscult.bus import topics
from auscult.bus.sqlite import SqliteBus
from auscult.domain.identity import sop_digest
from auscult.domain.study import Study, StudyRef
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from auscult.listen.pacs import Expected
from auscult.listen.priors import Priors
from auscult.platform.errors import Quarantine
from auscult.platform.settings import Settings
from dicom_factory import Person, ct_series, encode
from dicom_sender import send, take

pytestmark = pytest.mark.golden

SHAPE = (4, 8, 8)


def study_of(store: ImageStore, patient: str) -> Study:
    """Put today's study of a patient into a store, and load it."""
    headers = []
    for dataset in ct_series(SHAPE, patient=Person(patient)):
        dataset.StudyDate = dataset.AcquisitionDate = "20260601"
        data = encode(dataset)
        headers.append(InstanceHeader.read(data))
        store.put("site", headers[-1], data)
    digest = sop_digest(header.sop_instance_uid for header in headers)
    return load_study(StudyRef("site", headers[0].study_uid, digest), store)


@pytest.fixture
def priors(port: int, settings: Settings, tmp_path: Path) -> Priors:
    """Return the priors of a hospital whose PACS answers on `port`, with a store of its own."""
    here = settings.model_copy(update={"pacs_url": f"dicom://AUSCULT@127.0.0.1:{port}"})
    return Priors(here, ImageStore(tmp_path / "own", min_free_bytes=0))


def test_an_earlier_study_is_found_counted_fetched_and_loaded(port: int, priors: Priors, bus: SqliteBus) -> None:
    """By C-FIND and C-GET; nobody is told, so it starts no run of its own."""
    earlier = ct_series(SHAPE, patient=Person("A-1"))
    send(port, earlier)
    told = len(take(bus, topics.INSTANCES, SHAPE[0] + 1))
    study = study_of(priors.store, "A-1")
    assert study.acquired == date(2026, 6, 1)
    assert priors.of(study) == [earlier[0].StudyInstanceUID]
    assert Expected(priors.settings).count(earlier[0].StudyInstanceUID) == SHAPE[0]
    prior = priors.load(str(earlier[0].StudyInstanceUID), study)
    assert prior.volume.geometry.shape == SHAPE
    assert len(list(bus.read(topics.INSTANCES))) == told


def test_another_patients_study_is_no_prior(port: int, priors: Priors) -> None:
    """Whatever the PACS says: it goes to quarantine."""
    other = ct_series(SHAPE, patient=Person("B-2"))
    send(port, other)
    study = study_of(priors.store, "A-1")
    assert priors.of(study) == []
    with pytest.raises(Quarantine, match="another-patient"):
        priors.load(str(other[0].StudyInstanceUID), study)

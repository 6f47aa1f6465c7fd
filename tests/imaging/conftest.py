"""A store filled from data sets, and the study loaded from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from auscult.domain.identity import sop_digest
from auscult.domain.study import Study, StudyRef
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.imaging.volume import load_study
from dicom_factory import encode

Load = Callable[[Iterable[Dataset | bytes]], Study]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Return an empty store."""
    return ImageStore(tmp_path / "images", min_free_bytes=0)


@pytest.fixture
def load(store: ImageStore) -> Load:
    """Return a function that stores data sets or files and loads the study they are."""

    def stored(objects: Iterable[Dataset | bytes]) -> Study:
        headers = []
        for each in objects:
            data = each if isinstance(each, bytes) else encode(each)
            headers.append(InstanceHeader.read(data))
            store.put("site", headers[-1], data)
        study_uid = headers[0].study_uid
        digest = sop_digest(header.sop_instance_uid for header in headers)
        return load_study(StudyRef("site", study_uid, digest), store)

    return stored

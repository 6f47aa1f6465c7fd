"""A result is in the PACS once, and what comes back is what was sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain.deadline import Deadline
from auscult.domain.study import PatientIdentity, Study
from auscult.domain.volume import Volume
from auscult.imaging.header import InstanceHeader
from auscult.imaging.store import ImageStore
from auscult.platform.errors import DeadLetter
from auscult.publish.pacs.comparison import differences
from auscult.publish.pacs.objects import ResultObjects
from auscult.publish.pacs.sink import PacsSink
from dicom_factory import encode

SOON = 30.0


@dataclass
class Memory:
    """A PACS in memory that changes what it is given by `change`."""

    kept: dict[str, Dataset] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    answers: bool = True

    def held(self, _study_uid: str, instances: Collection[str], _deadline: Deadline) -> set[str]:
        """Tell what is kept, if it can be asked."""
        return set(instances) & self.kept.keys() if self.answers else set()

    def store(self, datasets: Sequence[Dataset], _deadline: Deadline) -> None:
        """Keep what is not kept yet."""
        for dataset in datasets:
            self.sent.append(dataset.Modality)
            self.kept.setdefault(dataset.SOPInstanceUID, dcmread(BytesIO(encode(dataset))))

    def retrieve(self, dataset: Dataset, _deadline: Deadline) -> Dataset | None:
        """Give back what is kept."""
        return self.kept[dataset.SOPInstanceUID]

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def study(read: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, ImageStore]:
    """Put the series into an image store."""
    store = ImageStore(tmp_path_factory.mktemp("images"), min_free_bytes=0)
    for dataset in read.slices:
        data = encode(dataset)
        store.put("default", InstanceHeader.read(data), data)
    first = read.slices[0]
    uids = tuple(str(dataset.SOPInstanceUID) for dataset in read.slices)
    volume = Volume(np.zeros((1, 1, 1), np.int16), read.geometry, str(first.SeriesInstanceUID), uids)
    return Study(read.result.study, PatientIdentity("P-1", "", None, ""), volume, (), None), store


def test_a_result_is_written_once(read: Any, study: tuple[Study, ImageStore]) -> None:
    """What is there is not sent again; what is missing of it is."""
    pacs = Memory()
    sink = PacsSink(pacs, study[1], ("seg", "sr"))
    assert sink.write(read.result, read.regions, study[0], Deadline.after(SOON))
    assert not sink.write(read.result, read.regions, study[0], Deadline.after(SOON))
    assert pacs.sent == ["SEG", "SR"]
    (report,) = (uid for uid, dataset in pacs.kept.items() if dataset.Modality == "SR")
    del pacs.kept[report]
    assert sink.write(read.result, read.regions, study[0], Deadline.after(SOON))
    assert pacs.sent == ["SEG", "SR", "SR"]
    assert report in pacs.kept


def test_a_pacs_that_cannot_be_asked_gets_the_same_objects(read: Any, study: tuple[Study, ImageStore]) -> None:
    """The same UIDs with the same content, so that it has each once."""
    pacs = Memory(answers=False)
    sink = PacsSink(pacs, study[1], ("seg",))
    for _ in range(2):
        assert sink.write(read.result, read.regions, study[0], Deadline.after(SOON))
    assert pacs.sent == ["SEG", "SEG"]
    assert len(pacs.kept) == 1


def test_an_object_that_comes_back_otherwise_goes_to_an_operator(read: Any, study: tuple[Study, ImageStore]) -> None:
    """Another content under our UID is not silently taken for ours."""
    pacs = Memory(answers=False)
    sink = PacsSink(pacs, study[1], ("seg",))
    sink.write(read.result, read.regions, study[0], Deadline.after(SOON))
    (kept,) = pacs.kept.values()
    kept.PixelData = bytes(len(kept.PixelData))
    with pytest.raises(DeadLetter, match="PixelData") as caught:
        sink.write(read.result, read.regions, study[0], Deadline.after(SOON))
    assert read.result.study.study_uid not in str(caught.value)


def test_images_on_which_nothing_can_be_written_go_to_an_operator(
    read: Any, study: tuple[Study, ImageStore], tmp_path: Path
) -> None:
    """The text names the kind of the error, and no value of the study."""
    store = ImageStore(tmp_path, min_free_bytes=0)
    with pytest.raises(DeadLetter, match="dicom-unwritable") as caught:
        PacsSink(Memory(), store, ("sr",)).write(read.result, read.regions, study[0], Deadline.after(SOON))
    assert read.result.study.study_uid not in str(caught.value)


def test_a_pacs_may_correct_the_patient_and_add_its_own(read: Any) -> None:
    """Names, identifiers and new elements are its own affair; a changed number is not."""
    (sent,) = ResultObjects(read.result, read.regions, read.slices, ("sr",)).datasets()
    back = dcmread(BytesIO(encode(sent)))
    back.PatientName, back.AccessionNumber, back.InstitutionName = "Roe^Jane", "B-2", "Hospital"
    assert differences(sent, back) == []
    changed = deepcopy(back)
    containers = (item for item in changed.ContentSequence if item.ValueType == "CONTAINER")
    groups = next(item for item in containers if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    number = next(item for item in groups.ContentSequence[0].ContentSequence if item.ValueType == "NUM")
    number.MeasuredValueSequence[0].NumericValue = "99"
    assert differences(sent, changed) == ["NumericValue"]
    del back.ContentSequence[-1]
    assert differences(sent, back) == ["ContentSequence"]


def test_every_object_is_known_as_ours(read: Any) -> None:
    """So that it is no news when the PACS forwards it; a region that a person drew is ours, too, in our object."""
    drawn = tuple(
        replace(each, outline=replace(each.outline, model=None, source_kind="rtstruct"))
        for each in read.result.findings
    )
    result = replace(read.result, findings=drawn)
    for dataset in ResultObjects(result, read.regions, read.slices, ("seg", "sr", "rtstruct", "capture")).datasets():
        assert InstanceHeader.read(encode(dataset)).own_result
        dataset.InstanceCreatorUID = "1.2.3"
        assert not InstanceHeader.read(encode(dataset)).own_result

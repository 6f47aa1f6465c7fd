"""Writes each result into the PACS once, and looks whether it is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.domain.study import Study
from auscult.domain.volume import Region
from auscult.imaging.store import ImageStore
from auscult.platform.errors import DeadLetter
from auscult.platform.settings import Settings
from auscult.publish.pacs.archive import Archive
from auscult.publish.pacs.comparison import differences
from auscult.publish.pacs.dicomweb import DicomWeb
from auscult.publish.pacs.dimse import Dimse
from auscult.publish.pacs.objects import ResultObjects
from auscult.publish.sources import FrameOf, Source

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PacsSink:
    """Results out to one PACS.

    What the PACS has is not sent again, so a resend changes nothing; a PACS that cannot be asked gets the same
    UIDs again. After a Retry it is not known what was stored; the next try asks.
    """

    archive: Archive
    store: ImageStore
    kinds: Sequence[str]

    def write(self, result: Result, regions: Sequence[Region], study: Study, deadline: Deadline) -> bool:
        """Write what the PACS does not have of `result`; False where it has all.

        `regions`: of the result's findings, in their order. DeadLetter (`pacs-altered`) where the PACS gives back
        something else than it was given.
        """
        volume, ref = study.volume, study.ref
        paths = [
            self.store.path(ref.tenant, ref.study_uid, volume.series_uid, uid) for uid in volume.sop_instance_uids
        ]
        frames = map(FrameOf, paths, volume.frames)
        slices: list[Source] = list(frames) if volume.frames else [*paths]
        objects = ResultObjects(result, regions, slices, self.kinds, resampled=volume.resampled is not None)
        uids = objects.uids()
        held = self.archive.held(ref.study_uid, uids, deadline)
        if held.issuperset(uids):
            return False
        datasets = [dataset for dataset in _made(objects) if dataset.SOPInstanceUID not in held]
        self.archive.store(datasets, deadline)
        unread = [str(dataset.SOPInstanceUID) for dataset in datasets if not self._read_back(dataset, deadline)]
        if not self.archive.held(ref.study_uid, unread, deadline).issuperset(unread):
            _log.warning(
                "study %s: the PACS took %d objects and offers no way to see that it has them",
                ref.pseudonym,
                len(unread),
            )
        return True

    def _read_back(self, dataset: Dataset, deadline: Deadline) -> bool:
        """Compare an object with what the PACS has of it; False where it does not give objects back."""
        back = self.archive.retrieve(dataset, deadline)
        if back is not None and (altered := differences(dataset, back)):
            raise DeadLetter(
                "pacs-altered",
                f"the PACS has another object under the UID of a {dataset.Modality} that it was sent "
                f"(different: {', '.join(altered[:5])}); correct it there, then replay",
            )
        return back is not None


def _made(objects: ResultObjects) -> list[Dataset]:
    try:
        return list(objects.datasets())
    except Exception as error:  # noqa: BLE001 - highdicom raises many types; their texts may quote the study
        raise DeadLetter(
            "dicom-unwritable",
            f"the result cannot be written on the study's images ({type(error).__name__}); check them with dciodvfy",
        ) from None


def open_archive(settings: Settings) -> Archive | None:
    """Return the PACS of `settings`, if there is one. RefuseToStart where they cannot be used."""
    if not settings.pacs_url:
        return None
    return DicomWeb(settings) if settings.pacs_url.startswith("http") else Dimse(settings)

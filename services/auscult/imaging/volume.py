"""A stored study becomes a volume in the unit of its modality, with the regions that came with it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from auscult.domain.identity import sop_digest
from auscult.domain.study import Study, StudyRef
from auscult.domain.volume import Region, Volume
from auscult.imaging import part10
from auscult.imaging.acquisition import acquired, age_in_years
from auscult.imaging.drawn import regions
from auscult.imaging.filling import AS_USUAL, Reading, filled
from auscult.imaging.gate import admit
from auscult.imaging.header import InstanceHeader
from auscult.imaging.patient import one_patient
from auscult.imaging.slices import primary_series, stack
from auscult.imaging.store import ImageStore
from auscult.platform.errors import AuscultError, DeadLetter, Refused, Retry, Superseded

NO_SERIES = "no-image-series"
"""The reason of a study that has nothing of the modality that is asked for."""


@dataclass(frozen=True, slots=True)
class _Instance:
    header: InstanceHeader
    path: Path


def load_study(ref: StudyRef, store: ImageStore, modality: str = "", reading: Reading = AS_USUAL) -> Study:
    """Read a complete study, each file once.

    `modality`: of the volume; by default that of `slices.primary_series`.

    Superseded: `study-changed`. Quarantine: `two-patients`. Retry: `store-unreadable`. DeadLetter: `study-missing`;
    `no-image-series`; the reasons of `slices.stack`, `filling.filled`, `rtstruct.rtstruct_regions` and
    `seg.seg_regions`; for a file that was damaged on the disk those of `InstanceHeader.read`, and
    `undecodable-attribute`.
    """
    with _parked():
        paths = store.instances(ref.tenant, ref.study_uid)
        if not paths:
            raise DeadLetter("study-missing", "the image store does not hold this study; send it again")
        instances = {
            instance.header.sop_instance_uid: instance
            for instance in map(_read, paths)
            if not instance.header.own_result
        }
        if sop_digest(instances) != ref.digest:
            raise Superseded("study-changed", "instances came after this event was made; a newer event follows")
        return _study(ref, instances, modality, reading)


def _study(ref: StudyRef, instances: dict[str, _Instance], modality: str, reading: Reading) -> Study:
    headers = [instance.header for instance in instances.values()]
    identity = one_patient(headers)
    series = primary_series(headers, modality)
    if not series:
        wanted = modality or "CT, MR or PT"
        raise DeadLetter(NO_SERIES, f"the study has no {wanted} slices with a position; nothing can be computed")
    stacked = stack(series, resample=reading.resample)
    files = {uid: part10.read(instances[uid].path) for uid in {each.sop_instance_uid for each in series}}
    volume = filled(stacked, files, reading)
    first = part10.read(instances[volume.sop_instance_uids[0]].path, quick=True)
    return Study(
        ref=ref,
        identity=identity,
        volume=volume,
        regions=tuple(_regions(volume, instances)),
        acquired=acquired(first),
        age_at_study=age_in_years(first),
        modality=series[0].volume_modality,
    )


def _regions(volume: Volume, instances: dict[str, _Instance]) -> Iterator[Region]:
    """Yield what was drawn on `volume`. What was drawn on another image series of the study is left out."""
    others = {each.header.series_uid for each in instances.values() if each.header.volume_modality}
    others.discard(volume.series_uid)
    for uid in sorted(instances):
        header = instances[uid].header
        on = header.referenced_series
        if volume.series_uid not in on and others.intersection(on):
            continue
        if header.is_structure_set or header.is_segmentation:
            yield from regions(instances[uid].path, header, volume)


def _read(path: Path) -> _Instance:
    return _Instance(admit(path), path)


@contextmanager
def _parked() -> Iterator[None]:
    """Say what happens next to a message whose study cannot be read."""
    try:
        yield
    except Refused as refused:
        raise DeadLetter(refused.reason, f"in the image store: {refused.args[0]}") from None
    except AuscultError:
        raise
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        raise Retry("store-unreadable", f"the image store cannot be read ({name}); check its folder") from None
    except Exception as error:  # noqa: BLE001 - pydicom raises many types; their texts may quote a patient's values
        raise DeadLetter(
            "undecodable-attribute",
            f"an attribute of a stored object cannot be decoded ({type(error).__name__}); check it with dciodvfy",
        ) from None

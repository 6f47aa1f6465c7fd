"""What the demo sends: a phantom that the product makes, or the user's own series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext

from auscult.domain.volume import Volume
from auscult.imaging.phantom.anatomy import Phantom, chest, grown
from auscult.imaging.phantom.nodule import NoduleTruth
from auscult.imaging.phantom.scanner import Protocol, scan, uid
from auscult.imaging.phantom.series import DEFAULT_TIME, write_series
from auscult.platform.errors import AuscultError
from auscult.publish.dicom_seg import Segment, write_seg

ELSEWHERE_MM = (7.0, -12.0, 340.0)
"""How far from where it lay a patient lies another day, LPS."""
OTHER_NOISE_HU = 22.0
"""No two scans have the same noise."""


class DemoError(AuscultError):
    """The demo cannot go on; its text says why."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came back for one file: `status` is the C-STORE status, or None where it could not be sent."""

    path: Path
    status: int | None
    reason: str = ""


def dicom_files(folder: Path) -> tuple[list[Path], list[Sent]]:
    """Return the DICOM files below `folder`, and a report of those that are none."""
    good, bad = [], []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        try:
            pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            good.append(path)
        except (InvalidDicomError, OSError, ValueError):
            bad.append(Sent(path, None, "not a DICOM file: not sent"))
    return good, bad


def write_phantom(folder: Path, *, seed: int, seg: bool) -> NoduleTruth:
    """Write the chest phantom `seed` as a CT series, with its nodule's truth as a SEG if asked; return that truth."""
    phantom = chest(seed)
    return _write(folder, phantom, scan(phantom), DEFAULT_TIME, seg=seg, uids="seg")


def write_later(folder: Path, *, seed: int, seg: bool, days: int, doubling_days: float) -> NoduleTruth:
    """Write the same patient `days` later, with a nodule that doubled its volume every `doubling_days`.

    The patient lies elsewhere, in another frame of reference, as it is between two days. DemoError where the nodule
    would be larger than a phantom's may be.
    """
    try:
        phantom = grown(chest(seed), days, doubling_days)
    except ValueError as problem:
        raise DemoError("no-growth", str(problem)) from None
    volume = scan(phantom, protocol=Protocol(noise_hu=OTHER_NOISE_HU))
    moved = replace(
        volume.geometry,
        origin=volume.geometry.origin + np.array(ELSEWHERE_MM),
        frame_of_reference_uid=uid(seed, "frame", str(days)),
    )
    acquired = DEFAULT_TIME + timedelta(days=days)
    return _write(folder, phantom, replace(volume, geometry=moved), acquired, seg=seg, uids=f"seg {days}")


def _write(
    folder: Path, phantom: Phantom, volume: Volume, acquired: datetime, *, seg: bool, uids: str
) -> NoduleTruth:
    if phantom.truth is None:
        raise DemoError("no-nodule", "this phantom has no nodule")
    paths = write_series(phantom, folder / "ct", volume=volume, acquired=acquired)
    if seg:
        region = replace(phantom.region(phantom.grid()), geometry=volume.geometry)
        made = write_seg(
            [Segment(region, "Nodule", algorithm=None)],
            paths,
            sop_instance_uid=uid(phantom.seed, uids),
            series_uid=uid(phantom.seed, f"{uids} series"),
            made=acquired,
            description="The phantom's own nodule",
        )
        made.save_as(folder / "seg.dcm", enforce_file_format=True)
    return phantom.truth


def describe(truth: NoduleTruth) -> str:
    """Say in words what the phantom's nodule is by construction."""
    kind = truth.type.replace("_", "-")
    lobe = "upper lobe" if truth.upper_lobe else "middle or lower lobe"
    return (
        f"{kind} nodule, {truth.diameter_mm:.1f} x {truth.perpendicular_mm:.1f} mm, {truth.volume_mm3:.0f} mm3, "
        f"{truth.side} lung, {lobe}{', spiculated' if truth.spiculated else ''}"
    )


def send(files: list[Path], host: str, port: int, ae_title: str) -> Iterator[Sent]:
    """C-STORE `files` in one association; yield each answer as it comes."""
    scu = AE("DEMO")
    contexts: dict[str, set[str]] = {}
    for path in files:
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
        contexts.setdefault(str(meta.MediaStorageSOPClassUID), set()).add(str(meta.TransferSyntaxUID))
    for sop_class, syntaxes in contexts.items():
        scu.add_requested_context(sop_class, sorted(syntaxes))
    association = scu.associate(host, port, ae_title=ae_title)
    if not association.is_established:
        raise DemoError("association-rejected", "the C-STORE service did not accept the association")
    accepted: list[PresentationContext] = association.accepted_contexts
    try:
        for path in files:
            try:
                answer = association.send_c_store(path)
                status = int(answer.Status) if "Status" in answer else None
                yield Sent(path, status, str(getattr(answer, "ErrorComment", "")))
            except (ValueError, AttributeError, RuntimeError) as problem:
                syntax = "its transfer syntax was not accepted" if accepted else "nothing was accepted"
                yield Sent(path, None, f"not sent ({type(problem).__name__}): {syntax}")
    finally:
        association.release()

"""What the demo sends: a phantom that the product makes, or the user's own series."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext

from auscult.imaging.phantom.anatomy import chest
from auscult.imaging.phantom.nodule import NoduleTruth
from auscult.imaging.phantom.scanner import scan, uid
from auscult.imaging.phantom.series import DEFAULT_TIME, write_series
from auscult.platform.errors import AuscultError
from auscult.publish.dicom_seg import Segment, write_seg


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
    volume = scan(phantom)
    paths = write_series(phantom, folder / "ct", volume=volume, acquired=DEFAULT_TIME)
    if seg:
        segment = Segment(phantom.region(volume.geometry), "Nodule", algorithm=None)
        made = write_seg(
            [segment],
            paths,
            sop_instance_uid=uid(seed, "seg"),
            series_uid=uid(seed, "seg series"),
            made=DEFAULT_TIME,
            description="The phantom's own nodule",
        )
        made.save_as(folder / "seg.dcm", enforce_file_format=True)
    if phantom.truth is None:
        raise DemoError("no-nodule", "this phantom has no nodule")
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

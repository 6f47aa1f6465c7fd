"""A DICOM series in a folder as an image, and the SEG or RTSTRUCT drawn on it as masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.processing import apply_rescale

from auscult.domain.volume import ARBITRARY, Region, Volume
from auscult.imaging import part10
from auscult.imaging.filling import AS_USUAL, Reading, filled
from auscult.imaging.grid import Image
from auscult.imaging.header import InstanceHeader
from auscult.imaging.rtstruct import rtstruct_regions
from auscult.imaging.seg import seg_regions
from auscult.imaging.slices import separate, stack
from auscult.platform.errors import AuscultError, Refused, TellClinician

Slice = tuple[InstanceHeader, part10.Part10]


def read_series(
    path: Path, series: str = "", *, reading: Reading = AS_USUAL, mask: Path | None = None
) -> tuple[Image, Volume]:
    """Read the image series in a folder, or that of one file of it, single slices or multi-frame.

    `series`: number or UID, where there are more; `mask`, a SEG or RTSTRUCT, chooses, too. CT comes as HU, PET as
    `reading` says, MR and other modalities as their rescaled values. TellClinician: `no-dicom-series`,
    `several-series`, `several-stacks`, `multi-frame`, `image-not-scalar`; the reasons of `slices.stack` and
    `filling.filled`.
    """
    with told("mask"):
        on = _Drawn.of(mask) if mask else _Drawn()
    with told("image"):
        found = _series(path)
        uid = _chosen(found, series, on)
        files = {header.sop_instance_uid: file for header, file in found[uid]}
        headers = {header.sop_instance_uid: header for header, _ in found[uid]}
        if any(not header.frames and _several(files[each]) for each, header in headers.items()):
            raise TellClinician("multi-frame", "the series has several frames in a file; give it as single slices")
        stacked = stack(_stack([plane for header in headers.values() for plane in header.planes()], on))
        first = stacked.slices[0]
        if first.volume_modality:
            volume = filled(stacked, files, reading)
        else:
            uids = tuple(header.sop_instance_uid for header in stacked.slices)
            voxels = np.stack([_rescaled(files[each]) for each in uids])
            volume = Volume(voxels, stacked.geometry, uid, uids, ARBITRARY)
    return Image(volume.voxels, volume.geometry, unit=volume.unit, study_uid=first.study_uid), volume


def read_segments(path: Path, volume: Volume) -> tuple[dict[int, str], dict[int, Region]]:
    """Return the names of a SEG's segments or an RTSTRUCT's ROIs by number, and the regions of those with a voxel.

    TellClinician: `mask-unreadable`; the reasons of `seg_regions` and `rtstruct_regions`.
    """
    with told("mask"):
        file = part10.read(path)
        header = InstanceHeader.of(file)
        dataset = file.dataset
        if header.is_segmentation:
            regions = seg_regions(path, header.referenced_series, volume, automatic=True)
            names = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in dataset.SegmentSequence}
        elif header.is_structure_set:
            regions = rtstruct_regions(dataset, header.referenced_series, volume)
            names = {int(item.ROINumber): str(item.get("ROIName", "")) for item in dataset.StructureSetROISequence}
        else:
            raise TellClinician("mask-unreadable", "the mask is a DICOM object, but no SEG and no RTSTRUCT; give one")
    return names, {region.source.number: region for region in regions if region.source.number is not None}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say what is wrong with a DICOM file, whatever it is."""
    try:
        yield
    except Refused as refused:
        raise TellClinician(refused.reason, f"the {what}: {refused.args[0]}") from None
    except AuscultError:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises many types; their texts may quote a patient's values
        raise TellClinician(
            "undecodable-attribute",
            f"an attribute of the {what} cannot be decoded ({type(error).__name__}); check it with dciodvfy",
        ) from None


def _series(path: Path) -> dict[str, list[Slice]]:
    """Return all image series below a folder, or the one of a file in its folder."""
    only = None if path.is_dir() else InstanceHeader.read(path).series_uid
    found: defaultdict[str, list[Slice]] = defaultdict(list)
    for place in sorted((path if path.is_dir() else path.parent).rglob("*")):
        if not place.is_file():
            continue
        try:
            file = part10.read(place)
            header = InstanceHeader.of(file)
        except Refused as refused:
            if refused.reason in {"not-dicom", "unsupported-class"}:
                continue
            raise
        localiser = "LOCALIZER" in header.image_type
        if (header.is_placed or header.frames) and not localiser and header.rows:
            found[header.series_uid].append((header, file))
    return {uid: slices for uid, slices in found.items() if only in {None, uid}}


def _several(file: part10.Part10) -> bool:
    return file.integer("NumberOfFrames") not in {None, 1}


@dataclass(frozen=True, slots=True)
class _Drawn:
    """On which series and instances a mask was drawn."""

    series: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()

    @classmethod
    def of(cls, path: Path) -> _Drawn:
        file = part10.read(path)
        dataset = file.dataset
        images = [
            image
            for each in dataset.get("ReferencedSeriesSequence") or ()
            for image in each.get("ReferencedInstanceSequence") or ()
        ]
        for roi in dataset.get("ROIContourSequence") or ():
            for contour in roi.get("ContourSequence") or ():
                images += contour.get("ContourImageSequence") or ()
        uids = frozenset(str(image.get("ReferencedSOPInstanceUID")) for image in images)
        return cls(frozenset(InstanceHeader.of(file).referenced_series), uids)


def _chosen(found: dict[str, list[Slice]], series: str, on: _Drawn) -> str:
    numbers = {uid: slices[0][1].text("SeriesNumber") for uid, slices in found.items()}
    fitting = [uid for uid in found if not series or series in {uid, numbers[uid]}]
    if not series and len(fitting) > 1:
        fitting = [uid for uid in fitting if uid in on.series] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not found:
        raise TellClinician("no-dicom-series", "the folder has no DICOM slices with a position; give the series' own")
    listed = ", ".join(
        f"{numbers[uid] or '(no number)'} ({slices[0][0].modality}, {len(slices)} slices)"
        for uid, slices in found.items()
    )
    raise TellClinician("several-series", f"choose one by --series, its number or UID; there are {listed}")


def _stack(planes: Sequence[InstanceHeader], on: _Drawn) -> list[InstanceHeader]:
    """Return the one stack of a series, or the one that was drawn on; what makes no stack is for `stack` to name."""
    parts = separate(planes)
    fitting = [part for part in parts if any(each.sop_instance_uid in on.instances for each in part)]
    if len(parts) == 1 or len(fitting) == 1:
        return (fitting or parts)[0]
    raise TellClinician(
        "several-stacks",
        f"the series has {len(parts)} stacks of slices, such as of several kernels, echoes or phases; "
        "give one of them in a folder of its own, or a mask that refers to the slices of one",
    )


def _rescaled(file: part10.Part10) -> NDArray[Any]:
    """Return a slice's values (PS3.3, C.11.1), `(y, x)`."""
    dataset = dcmread(BytesIO(file.data))
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise TellClinician("image-not-scalar", "the series is in colour; give one with a number per voxel")
    try:
        pixels = dataset.pixel_array
    except Exception:  # noqa: BLE001 - each decoder raises its own types
        raise TellClinician(
            "undecodable-transfer-syntax",
            f"no decoder here reads {file.transfer_syntax.name}; convert it to Explicit VR Little Endian",
        ) from None
    values: NDArray[Any] = apply_rescale(pixels, dataset)
    return values


def named(numbers: Sequence[int], names: dict[int, str]) -> str:
    """Return segments as a reader is told of them: number and name."""
    return ", ".join(f"{number} ({names[number]})" for number in numbers)

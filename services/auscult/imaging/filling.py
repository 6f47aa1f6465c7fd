"""A stack's pixels as a volume, in the unit of its modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.domain.ibsi import HU
from auscult.domain.volume import ARBITRARY, Volume
from auscult.imaging.part10 import Part10
from auscult.imaging.pixels import PADDING, PADDING_HU, hounsfield, rescaled
from auscult.imaging.slices import Stack
from auscult.imaging.suv import scale


@dataclass(frozen=True, slots=True)
class Reading:
    """How a series is to be read, where there are several ways.

    `becquerels`: PET in Bq/ml, not as SUVbw. `resample`: slices of a tilted gantry or at uneven distances may be
    resampled to a regular grid.
    """

    becquerels: bool = False
    resample: bool = False


AS_USUAL = Reading()


def filled(stacked: Stack, files: Mapping[str, Part10], reading: Reading) -> Volume:
    """Return CT in HU, PET in SUVbw or Bq/ml, and MR in its own arbitrary units.

    `files`: by SOP Instance UID. DeadLetter and Refused as by `pixels.hounsfield` and `suv.scale`.
    """
    slices, uids = stacked.slices, [header.sop_instance_uid for header in stacked.slices]
    shape = (len(slices), slices[0].rows, slices[0].columns)
    modality, unit, fill = slices[0].volume_modality, HU, float(PADDING_HU)
    if modality == "CT":
        voxels: NDArray[Any] = np.empty(shape, np.int16)
        for header, plane in zip(slices, voxels, strict=True):
            hounsfield(files[header.sop_instance_uid], plane, header.frame)
    else:
        factor, unit, fill = 1.0, ARBITRARY, PADDING
        if modality == "PT":
            factor, unit = scale([files[uid] for uid in uids], becquerels=reading.becquerels)
        voxels = np.empty(shape, np.float32)
        for header, plane in zip(slices, voxels, strict=True):
            rescaled(files[header.sop_instance_uid], plane, header.frame, factor)
    resampled = None
    if stacked.resampling:
        planes = stacked.geometry.shape[0]
        voxels = stacked.resampling.apply(voxels, stacked.geometry, fill)
        resampled = stacked.resampling.resampled(planes)
        slices = tuple(slices[i] for i in stacked.resampling.nearest(planes))
    return Volume(
        voxels,
        stacked.geometry,
        slices[0].series_uid,
        tuple(header.sop_instance_uid for header in slices),
        unit,
        tuple(header.frame.number + 1 for header in slices if header.frame),
        resampled,
    )

"""A stack's pixels as a volume, in the unit of its modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from auscult.domain.volume import ARBITRARY, Volume
from auscult.imaging.part10 import Part10
from auscult.imaging.pixels import hounsfield, rescaled
from auscult.imaging.slices import Stack
from auscult.imaging.suv import scale


@dataclass(frozen=True, slots=True)
class Reading:
    """How a series is to be read, where there are several ways. `becquerels`: PET in Bq/ml, not as SUVbw."""

    becquerels: bool = False


AS_USUAL = Reading()


def filled(stacked: Stack, files: Mapping[str, Part10], reading: Reading) -> Volume:
    """Return CT in HU, PET in SUVbw or Bq/ml, and MR in its own arbitrary units.

    `files`: by SOP Instance UID. DeadLetter and Refused as by `pixels.hounsfield` and `suv.scale`.
    """
    slices = stacked.slices
    uids = tuple(header.sop_instance_uid for header in slices)
    frames = tuple(header.frame.number + 1 for header in slices if header.frame)
    series_uid, modality = slices[0].series_uid, slices[0].volume_modality
    if modality == "CT":
        hu = np.empty(stacked.geometry.shape, np.int16)
        for header, plane in zip(slices, hu, strict=True):
            hounsfield(files[header.sop_instance_uid], plane, header.frame)
        return Volume(hu, stacked.geometry, series_uid, uids, frames=frames)
    factor, unit = (1.0, ARBITRARY)
    if modality == "PT":
        factor, unit = scale([files[uid] for uid in uids], becquerels=reading.becquerels)
    values = np.empty(stacked.geometry.shape, np.float32)
    for header, into in zip(slices, values, strict=True):
        rescaled(files[header.sop_instance_uid], into, header.frame, factor)
    return Volume(values, stacked.geometry, series_uid, uids, unit, frames)

"""A CT series, regions on it, and a result about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from auscult.domain import codes
from auscult.domain.finding import Evaluation, Outline, Result
from auscult.domain.study import StudyRef
from auscult.domain.volume import Geometry, Region, RegionSource
from auscult.imaging.contours import outline
from auscult.imaging.header import InstanceHeader
from auscult.imaging.slices import stack
from dicom_factory import ct_series, encode
from fhir_samples import MEASURES, SEGMENTATION, finding, result

SHAPE = (9, 16, 20)
GROUPS = finding("any").groups


@dataclass(frozen=True)
class Read:
    """A series that was read: what the model outlined on it, and the result."""

    slices: list[Dataset]
    geometry: Geometry
    regions: tuple[Region, ...]
    result: Result


def read_series() -> Read:
    """Return a result with two findings on an oblique series, one with a hole and an island in it."""
    slices = ct_series(SHAPE, (2.0, 0.8, 0.7), orientation=(0.8, 0.6, 0, -0.48, 0.64, 0.6))
    geometry = stack([InstanceHeader.read(encode(dataset)) for dataset in slices]).geometry
    first, second = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first[3:7, 2:13, 2:13] = True
    first[3:7, 4:11, 4:11] = False
    first[3:7, 6:9, 6:9] = True
    second[8, 15, 19] = True
    source = RegionSource("model", SEGMENTATION.name, SEGMENTATION.version)
    regions = tuple(Region.of(mask, geometry, source) for mask in (first, second))
    findings = [
        finding(
            f"nodule-{number}",
            outline=Outline(
                slices[index].SOPInstanceUID,
                slices[0].SeriesInstanceUID,
                index,
                outline(region, index),
                "model",
                SEGMENTATION.name,
                SEGMENTATION,
            ),
            groups=(*GROUPS[:-1], replace(GROUPS[-1], measurements=GROUPS[-1].measurements[:3])),
            laterality=codes.RIGHT,
            evaluations=(
                Evaluation(codes.NODULE_TYPE, codes.SOLID, MEASURES),
                Evaluation(codes.LESION_RISK, codes.LOW_RISK, MEASURES),
            ),
        )
        for number, (region, index) in enumerate(zip(regions, (4, 8), strict=True), start=1)
    ]
    study = StudyRef("default", str(slices[0].StudyInstanceUID), "ab" * 32)
    return Read(slices, geometry, regions, result(*findings, study=study))

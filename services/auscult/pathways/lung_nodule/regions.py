"""Which regions of the study are nodules: drawn by a person where there are such, else by the model."""

from __future__ import annotations

import re

import numpy as np
from scipy.ndimage import find_objects, label

from auscult.domain.deadline import Deadline
from auscult.domain.study import Study
from auscult.domain.volume import Region, RegionSource
from auscult.pathways.lung_nodule.lungs import Lungs
from auscult.pathways.pathway import Models
from auscult.platform.errors import TellClinician

SEGMENTATION = "lung_nodule_seg"
NAMES = re.compile(r"gtv|nodul|tumou?r|lesion|mass|neoplasm|cancer", re.IGNORECASE)
"""What people call the region of a nodule; structure sets also hold organs at risk."""
LEAST_VOLUME = 14.0
"""mm3, a sphere of 3 mm: smaller things are micronodules, which the guidelines leave out."""
MOST = 10
"""Nodules that are described one by one, the largest first."""
EVEN = 128
"""Of 255: the probability from which a voxel belongs to a nodule."""


def drawn(study: Study) -> tuple[Region, ...]:
    """Return the regions that came with the study and are called a nodule or tumour, the largest first."""
    named = [region for region in study.regions if NAMES.search(region.source.name)]
    return tuple(sorted(named, key=lambda region: -region.volume))


def segmented(study: Study, lungs: Lungs | None, models: Models, deadline: Deadline) -> tuple[Region, ...]:
    """Return what the segmentation model outlines inside the lungs' box, the largest first."""
    if lungs is None:
        raise TellClinician("no-lungs", "no lungs were found in the CT, so it was not searched for nodules")
    volume = study.volume
    answer = models.infer(
        SEGMENTATION,
        {
            "image": np.ascontiguousarray(volume.hu[lungs.box]),
            "spacing": volume.geometry.spacing.astype(np.float32),
        },
        deadline=deadline,
    )
    parts, _ = label(answer["probability"] >= EVEN)
    reference = models.reference(SEGMENTATION)
    source = RegionSource("model", reference.name, reference.version)
    corner = [part.start for part in lungs.box]
    regions = []
    for number, box in enumerate(find_objects(parts), start=1):
        mask = parts[box] == number
        if np.count_nonzero(mask) * volume.geometry.voxel_volume >= LEAST_VOLUME:
            z, y, x = (start + part.start for start, part in zip(corner, box, strict=True))
            regions.append(Region(mask, (z, y, x), volume.geometry, source))
    return tuple(sorted(regions, key=lambda region: -region.volume))

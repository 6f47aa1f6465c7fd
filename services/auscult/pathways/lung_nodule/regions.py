"""Which regions of the study are nodules: drawn by a person where there are such, else by the model."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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
    reference = models.reference(SEGMENTATION)
    source = RegionSource("model", reference.name, reference.version)
    corner = np.array([part.start for part in lungs.box])
    regions = []
    for voxels in connected(np.argwhere(answer["probability"] >= EVEN), answer["probability"].shape):
        if len(voxels) * volume.geometry.voxel_volume >= LEAST_VOLUME:
            low = voxels.min(axis=0)
            mask = np.zeros(voxels.max(axis=0) - low + 1, bool)
            mask[tuple((voxels - low).T)] = True
            z, y, x = (int(start) for start in corner + low)
            regions.append(Region(mask, (z, y, x), volume.geometry, source))
    return tuple(sorted(regions, key=lambda region: -region.volume))


def connected(voxels: NDArray[np.int64], shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Split `voxels`, `(n, 3)` indices in C order into an array of `shape`, into parts that touch by faces.

    Nodules are a few thousand among millions of voxels: only those that are set are looked at.
    """
    if not len(voxels):
        return []
    flat = np.ravel_multi_index(tuple(voxels.T), shape)
    starts, ends = [], []
    for axis, step in enumerate((shape[1] * shape[2], shape[2], 1)):
        place = np.searchsorted(flat, flat + step)
        touching = (voxels[:, axis] + 1 < shape[axis]) & (flat[np.minimum(place, len(flat) - 1)] == flat + step)
        starts.append(np.flatnonzero(touching))
        ends.append(place[touching])
    edges = (np.concatenate(starts), np.concatenate(ends))
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(len(flat), len(flat)))
    count, parts = connected_components(graph, directed=False)
    order = np.argsort(parts, kind="stable")
    return np.split(voxels[order], np.searchsorted(parts[order], np.arange(1, count)))

"""Structure sets and segmentations on a volume's grid, as `sandbox` children read them and tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from auscult.domain.volume import Geometry, Region, RegionSource, Volume
from auscult.imaging import part10
from auscult.imaging.header import InstanceHeader
from auscult.imaging.rtstruct import rtstruct_regions
from auscult.imaging.sandbox import sandbox
from auscult.imaging.seg import seg_regions

Triple = tuple[float, float, float]


class Grid(msgspec.Struct, array_like=True):
    """A volume without its voxels; the fields of `domain.volume.Geometry` and `Volume`."""

    origin: Triple
    axes: tuple[Triple, Triple, Triple]
    spacing: Triple
    shape: tuple[int, int, int]
    frame_of_reference_uid: str
    series_uid: str
    sop_instance_uids: tuple[str, ...]


class Drawn(msgspec.Struct, array_like=True):
    """A region. `bits`: its box of `shape`, `(z, y, x)`, eight voxels a byte."""

    offset: tuple[int, int, int]
    shape: tuple[int, int, int]
    bits: bytes
    source: RegionSource


def regions(path: Path, header: InstanceHeader, volume: Volume) -> Iterator[Region]:
    """Yield what the object at `path` draws on `volume`. Raises as `rtstruct_regions` and `seg_regions` do."""
    geometry = volume.geometry
    grid: list[Any] = [
        geometry.origin.tolist(),
        geometry.axes.tolist(),
        geometry.spacing.tolist(),
        geometry.shape,
        geometry.frame_of_reference_uid,
        volume.series_uid,
        volume.sop_instance_uids,
    ]
    for each in sandbox().call("regions", path, grid, header.referenced_series, answer=list[Drawn]):
        count = int(np.prod(each.shape))
        mask = np.unpackbits(np.frombuffer(each.bits, np.uint8), count=count).astype(bool).reshape(each.shape)
        yield Region(mask, each.offset, geometry, each.source)


def drawn(path: Path, grid: Grid, on: Sequence[str]) -> list[Drawn]:
    """Read the structure set or segmentation at `path`, drawn on the series `on`."""
    geometry = Geometry(
        np.array(grid.origin), np.array(grid.axes), np.array(grid.spacing), grid.shape, grid.frame_of_reference_uid
    )
    volume = Volume(np.empty((0, 0, 0), np.int16), geometry, grid.series_uid, grid.sop_instance_uids)
    file = part10.read(path)
    if InstanceHeader.of(file).is_structure_set:
        found = rtstruct_regions(file.dataset, on, volume)
    else:
        found = seg_regions(path, on, volume)
    return [
        Drawn(
            each.offset,
            each.mask.shape,
            np.packbits(each.mask).tobytes(),
            each.source,
        )
        for each in found
    ]

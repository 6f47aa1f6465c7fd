"""Image volumes and regions in patient space.

Arrays are `(z, y, x)`; lengths are mm; positions are in the DICOM patient coordinate system (LPS:
x grows to the patient's left, y to the back, z to the head), PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.domain.ibsi import HU

SUV_BW = "{SUVbw}g/ml"
"""UCUM's unit of a standardised uptake value by body weight, as DICOM has it (PS3.16, CID 85)."""
BECQUERELS = "Bq/ml"
"""Of activity concentration."""
ARBITRARY = "1"
"""Of intensities that compare within an image alone, such as those of MR."""


class NotHounsfieldError(ValueError):
    """Hounsfield units are asked of a volume that has none."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where a regular grid of voxels lies in the patient.

    `origin`: LPS position in mm of the centre of voxel (0, 0, 0).
    `axes`: 3 x 3, row i the unit vector in LPS along array axis i (z, y, x), as exactly as the images have it.
    `spacing`: mm between voxel centres along (z, y, x).
    `shape`: number of voxels along (z, y, x).
    """

    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]
    shape: tuple[int, int, int]
    frame_of_reference_uid: str = ""

    @property
    def voxel_volume(self) -> float:
        """Return the volume of one voxel in mm3."""
        return float(np.prod(self.spacing))

    def to_patient(self, index: Any) -> NDArray[np.float64]:
        """Map `(..., 3)` fractional (z, y, x) indices to LPS positions in mm."""
        steps = self.axes * self.spacing[:, None]
        mapped: NDArray[np.float64] = self.origin + np.asarray(index, float) @ steps
        return mapped

    def to_index(self, position: Any) -> NDArray[np.float64]:
        """Map `(..., 3)` LPS positions in mm to fractional (z, y, x) indices."""
        steps = self.axes * self.spacing[:, None]
        mapped: NDArray[np.float64] = (np.asarray(position, float) - self.origin) @ np.linalg.inv(steps)
        return mapped

    def matches(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Whether both grids have the same voxels, corners within `tolerance` mm of each other."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        return bool(np.abs(self.to_patient(corners) - other.to_patient(corners)).max() <= tolerance)


@dataclass(frozen=True, eq=False)
class Resampled:
    """That a volume's slices did not lie on a regular grid, and were put onto one."""

    how: str
    """For the reader."""
    offsets: NDArray[np.float64]
    """`(z, 2)`: of each of the volume's slices, where the first pixel of its image lies on it, (y, x) in pixels."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A series as one array, `(z, y, x)`, with its geometry and its slices' SOP Instance UIDs.

    `voxels`: int16 where they are HU, else float32. `unit`: UCUM; HU, SUV_BW, BECQUERELS or ARBITRARY.
    """

    voxels: NDArray[Any]
    geometry: Geometry
    series_uid: str
    sop_instance_uids: tuple[str, ...]
    """One per slice, in the order of axis z; of a resampled volume the nearest image's."""
    unit: str = HU
    frames: tuple[int, ...] = ()
    """One per slice, from 1: its number in an image with several frames; empty where each is an image of its own."""
    resampled: Resampled | None = None

    @property
    def hu(self) -> NDArray[np.int16]:
        """Return the voxels of a CT; NotHounsfieldError for any other volume, whose numbers mean something else."""
        if self.unit != HU:
            raise NotHounsfieldError(f"the volume is in {self.unit}, not in Hounsfield units; give a CT")
        return self.voxels


@dataclass(frozen=True, slots=True)
class RegionSource:
    """Who drew a region: a model, or a person through an RTSTRUCT or SEG."""

    kind: str
    """`model`, `rtstruct` or `seg`."""
    name: str
    """The model's name, or the segment's or structure's label."""
    version: str = ""
    sop_instance_uid: str = ""
    """The RTSTRUCT's or SEG's own SOP Instance UID."""
    tracking_uid: str = ""
    """The segment's Tracking UID, which the same thing has in other studies, too."""
    number: int | None = None
    """The ROI's or segment's number in it."""


@dataclass(frozen=True, eq=False)
class Region:
    """A set of voxels of a volume, kept as the smallest box that holds them.

    `mask`: `(z, y, x)` bool, the box. `offset`: index (z, y, x) of the box's first voxel in the volume.
    `geometry`: of the whole volume. An empty region cannot be made: ValueError.
    """

    mask: NDArray[np.bool_]
    offset: tuple[int, int, int]
    geometry: Geometry
    source: RegionSource = field(default=RegionSource("model", "unknown"))

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise ValueError("a region needs at least one voxel")

    @classmethod
    def of(cls, mask: NDArray[np.bool_], geometry: Geometry, source: RegionSource) -> Region:
        """Make a region from a mask of the whole volume, `(z, y, x)` of `geometry.shape`."""
        if mask.shape != geometry.shape:
            raise ValueError(f"the mask has shape {mask.shape}, the volume {geometry.shape}")
        box = []
        for axis in range(3):
            used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            if not used.size:
                raise ValueError("a region needs at least one voxel")
            box.append(slice(int(used[0]), int(used[-1]) + 1))
        z, y, x = box
        return cls(mask[z, y, x].copy(), (z.start, y.start, x.start), geometry, source)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The region's box as slices of the volume."""
        z, y, x = (slice(o, o + n) for o, n in zip(self.offset, self.mask.shape, strict=True))
        return z, y, x

    @property
    def volume(self) -> float:
        """The volume in mm3 by counting voxels (IBSI YEKZ)."""
        return int(np.count_nonzero(self.mask)) * self.geometry.voxel_volume

    @property
    def centroid(self) -> NDArray[np.float64]:
        """The LPS position in mm of the mean voxel centre."""
        return self.geometry.to_patient(np.argwhere(self.mask).mean(axis=0) + self.offset)

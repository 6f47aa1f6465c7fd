"""The CT scanner: a phantom in, a noisy reconstructed volume of whole HU out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.domain.identity import NAMESPACE, dicom_uid
from auscult.domain.volume import Geometry, Volume
from auscult.imaging.phantom.anatomy import Phantom
from auscult.imaging.phantom.shapes import Floats

KERNELS = {"soft": (0.75, 0.0), "lung": (0.5, 0.6)}
"""In-plane point spread by kernel: sigma in mm of a Gaussian, and the strength of the edge enhancement (a share of
the difference to a Gaussian twice as wide)."""
HU_RANGE = (-1024, 3071)
"""What 12 bits hold with the usual intercept of -1024."""
_THICKEST_STEP = 1.5
"""mm: a slice that is thicker is the mean of several."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a scan is reconstructed. ValueError for a kernel that is not one of `KERNELS`."""

    kernel: str = "lung"
    noise_hu: float = 25.0
    """Standard deviation of a voxel in a uniform region, after the kernel."""
    thickness_mm: float | None = None
    """Slice thickness; None where slices touch."""

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"the kernel is one of {', '.join(KERNELS)}, not {self.kernel!r}")


def scan(phantom: Phantom, geometry: Geometry | None = None, protocol: Protocol | None = None) -> Volume:
    """Image `phantom` on `geometry` (its own grid where None). The same arguments give the same bytes and UIDs."""
    protocol = protocol or Protocol()
    geometry = geometry or phantom.grid()
    grid = (geometry.origin.tolist(), geometry.spacing.tolist(), geometry.shape)
    parts = (str(phantom.truth), str(protocol), str(grid))
    frame = geometry.frame_of_reference_uid or uid(phantom.seed, "frame")
    hu = _thick(phantom, geometry, protocol.thickness_mm or float(geometry.spacing[0]))
    reconstruct(hu, geometry.spacing, protocol, np.random.default_rng((phantom.seed, 0x5C)))
    return Volume(
        np.clip(np.rint(hu, out=hu), *HU_RANGE).astype(np.int16),
        geometry=replace(geometry, frame_of_reference_uid=frame),
        series_uid=uid(phantom.seed, *parts),
        sop_instance_uids=tuple(uid(phantom.seed, *parts, str(i)) for i in range(geometry.shape[0])),
    )


def reconstruct(hu: Floats, spacing: NDArray[np.float64], protocol: Protocol, rng: np.random.Generator) -> None:
    """Add noise to `hu` and apply the kernel, in place.

    White noise goes through the same point spread as the image, so its texture is the kernel's; slices are
    independent of each other. `spacing`: mm along (z, y, x).
    """
    down, across = (_taps(protocol.kernel, float(step)) for step in spacing[1:])
    white = protocol.noise_hu / float(np.sqrt((down**2).sum() * (across**2).sum()))
    for index in range(len(hu)):
        noisy = hu[index] + np.float32(white) * rng.standard_normal(hu.shape[1:], dtype=np.float32)
        hu[index] = _filtered(_filtered(noisy, across).T, down).T


def _thick(phantom: Phantom, geometry: Geometry, thickness: float) -> Floats:
    """Render slices of `thickness` mm as the mean of thinner ones."""
    count = max(1, int(np.ceil(thickness / _THICKEST_STEP - 1e-6)))
    offsets = ((np.arange(count) + 0.5) / count - 0.5) * thickness
    total: Any = 0
    for offset in offsets:
        total = total + phantom.render(replace(geometry, origin=geometry.origin + np.array((0, 0, offset))))
    mean: Floats = total if count == 1 else total / np.float32(count)
    return mean


def _taps(kernel: str, step: float) -> Floats:
    """Return the one-dimensional point spread at pixels of `step` mm, an odd number of taps whose sum is 1."""
    sigma, enhance = KERNELS[kernel]
    reach = max(1, int(np.ceil(3 * sigma * (2 if enhance else 1) / step)))
    place = np.arange(-reach, reach + 1) * step
    narrow, wide = (np.exp(-0.5 * (place / s) ** 2) for s in (sigma, 2 * sigma))
    taps = (1 + enhance) * narrow / narrow.sum() - enhance * wide / wide.sum()
    spread: Floats = taps.astype(np.float32)
    return spread


def _filtered(plane: Floats, taps: Floats) -> Floats:
    """Convolve rows with symmetric `taps`; the border repeats."""
    reach = len(taps) // 2
    padded = np.pad(plane, ((0, 0), (reach, reach)), mode="edge")
    width = plane.shape[1]
    result: Floats = taps[reach] * padded[:, reach : reach + width]
    for i in range(reach):
        far = 2 * reach - i
        result += taps[i] * (padded[:, i : i + width] + padded[:, far : far + width])
    return result


def uid(seed: int, *parts: str) -> str:
    """Return the UID of something that belongs to the phantom of `seed`: the same parts give the same UID."""
    return dicom_uid(uuid.uuid5(NAMESPACE, "|".join(("phantom", str(seed), *parts))))

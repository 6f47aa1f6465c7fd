"""The settings of the IBSI's image-processing chain, in the order in which its steps are taken.

A chain is recorded with every result, so that a feature can be computed again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from auscult.platform.errors import RefuseToStart

Interpolation = Literal["nearest", "linear", "cubic"]
ORDER: dict[str, int] = {"nearest": 0, "linear": 1, "cubic": 3}
"""Of the spline."""


class Chain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image and a mask become what features are computed from. Lengths in mm, intensities as in the image."""

    spacing: tuple[float | None, float | None, float | None] = (None, None, None)
    """Of the voxels, (z, y, x), after interpolation; None keeps the image's own along that axis."""
    image_interpolation: Interpolation = "linear"
    mask_interpolation: Interpolation = "linear"
    mask_threshold: float = 0.5
    """From this share on an interpolated voxel is inside."""
    rounding: bool | None = None
    """Interpolated intensities become whole numbers; None: where the region's own are whole, as HU are."""
    resegmentation: tuple[float, float] | None = None
    """Voxels outside this range do not count, but for the shape."""
    outliers: float | None = None
    """Nor do those farther from the mean than so many standard deviations, among what the range leaves."""
    bin_width: float | None = None
    """Discretise by a fixed bin size, from the lower end of the resegmentation range, or the least intensity."""
    bin_number: int | None = None
    """Discretise by a fixed number of bins, between the region's least and greatest intensity."""
    volume_bin_width: float | None = None
    volume_bin_number: int | None = None
    """Of the intensity-volume histogram. Without either: width 1 where all intensities are whole, else 1,000 bins."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if (self.bin_width is None) == (self.bin_number is None):
            raise invalid("give either bin_width or bin_number")
        if self.volume_bin_width is not None and self.volume_bin_number is not None:
            raise invalid("give volume_bin_width or volume_bin_number, not both")
        for name in ("bin_width", "volume_bin_width", "outliers", "bin_number", "volume_bin_number"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise invalid(f"{name} is above 0, not {value}")
        for step in self.spacing:
            if step is not None and not 0 < step < float("inf"):
                raise invalid(f"spacing is above 0 mm, not {step}")
        if self.resegmentation is not None and not self.resegmentation[0] < self.resegmentation[1]:
            raise invalid("resegmentation is [lowest, highest]")
        if not 0 < self.mask_threshold <= 1:
            raise invalid("mask_threshold is above 0 and at most 1")


def invalid(what: str) -> RefuseToStart:
    """Return the error that names a wrong setting."""
    return RefuseToStart("radiomics-settings", f"the image-processing settings cannot be used: {what}")

"""The slice on which a finding is seen best, with its outline drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WINDOW = (-600.0, 1500.0)
"""Lung window: centre and width in HU."""
YELLOW = (255, 196, 0)
Polygon = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]


def spread(values: NDArray[Any]) -> tuple[float, float]:
    """Return the window, centre and width, that shows nearly all of a slice that is not in HU."""
    low, high = np.percentile(values, (1, 99.5))
    return float(low + high) / 2, max(float(high - low), 1e-6)


def draw(
    values: NDArray[np.generic],
    polygons: Sequence[Polygon],
    side: int,
    box: Box | None = None,
    window: tuple[float, float] = WINDOW,
) -> Image.Image:
    """Return a slice, `(y, x)`, in a window, which is that of the lung in HU.

    `polygons`: points (x, y) in pixels, (0, 0) the centre of the first. `side`: pixels of the picture's longer side.
    `box`: left, top, right and bottom of what is shown, in pixels from the first one's corner; all by default.
    """
    grey = np.clip((values.astype(np.float32) - window[0] + window[1] / 2) / window[1], 0, 1) * 255
    rows, columns = grey.shape
    left, top, right, bottom = box or (0.0, 0.0, float(columns), float(rows))
    scale = side / max(right - left, bottom - top)
    size = (round((right - left) * scale), round((bottom - top) * scale))
    picture = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    picture = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    pen = ImageDraw.Draw(picture)
    for polygon in polygons:
        # Outlines have 0 at the centre of the first pixel, pictures at its corner.
        around = [((x + 0.5 - left) * scale, (y + 0.5 - top) * scale) for x, y in [*polygon, polygon[0]]]
        pen.line(around, fill=YELLOW, width=2)
    return picture

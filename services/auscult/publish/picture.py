"""The slice on which a finding is seen best, with its outline drawn in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WINDOW = (-600.0, 1500.0)
"""Lung window: centre and width in HU."""
YELLOW = (255, 196, 0)
Polygon = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]


def draw(hu: NDArray[np.generic], polygons: Sequence[Polygon], side: int, box: Box | None = None) -> Image.Image:
    """Return a slice, `(y, x)` in HU, in the lung window.

    `polygons`: points (x, y) in pixels, (0, 0) the centre of the first. `side`: pixels of the picture's longer side.
    `box`: left, top, right and bottom of what is shown, in pixels from the first one's corner; all by default.
    """
    grey = np.clip((hu.astype(np.float32) - WINDOW[0] + WINDOW[1] / 2) / WINDOW[1], 0, 1) * 255
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

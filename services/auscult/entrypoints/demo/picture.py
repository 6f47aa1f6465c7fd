"""Draws the CT slice with the outline of a finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from auscult.domain.finding import Finding

WINDOW = (-600.0, 1500.0)
"""Lung window: centre and width in HU."""
CROP = 48.0
"""mm on each side of the outline in the enlarged inset."""


def _grey(hu: NDArray[np.float64]) -> NDArray[np.uint8]:
    low = WINDOW[0] - WINDOW[1] / 2
    return (np.clip((hu - low) / WINDOW[1], 0, 1) * 255).astype(np.uint8)


def draw(slice_file: Path, finding: Finding, target: Path) -> Path:
    """Write a PNG: the slice with its outline, and beside it the surroundings enlarged."""
    dataset = pydicom.dcmread(slice_file)
    hu = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    grey = Image.fromarray(_grey(hu)).convert("RGB")
    points = np.array([point for polygon in finding.outline.polygons for point in polygon])
    half = CROP / float(dataset.PixelSpacing[0])
    left, top = np.maximum(points.mean(axis=0) - half, 0)
    right, bottom = np.minimum(points.mean(axis=0) + half, grey.size)

    side = grey.size[1] * 2
    whole = _panel(grey, finding, (0.0, 0.0, float(grey.size[0]), float(grey.size[1])), side)
    inset = _panel(grey, finding, (float(left), float(top), float(right), float(bottom)), side)
    picture = Image.new("RGB", (whole.width + inset.width + 8, max(whole.height, inset.height)))
    picture.paste(whole, (0, 0))
    picture.paste(inset, (whole.width + 8, 0))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target)
    return target


def _panel(grey: Image.Image, finding: Finding, box: tuple[float, float, float, float], height: int) -> Image.Image:
    scale = height / (box[3] - box[1])
    width = round((box[2] - box[0]) * scale)
    panel = grey.resize((width, height), Image.Resampling.BICUBIC, box=box)
    pen = ImageDraw.Draw(panel)
    for polygon in finding.outline.polygons:
        # Pixel coordinates have 0 at the centre of the first pixel, the picture at its corner.
        line = [((x + 0.5 - box[0]) * scale, (y + 0.5 - box[1]) * scale) for x, y in polygon]
        pen.line([*line, line[0]], fill=(255, 196, 0), width=2)
    return panel

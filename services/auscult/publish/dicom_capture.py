"""A finding as a picture (Secondary Capture, PS3.3, A.8.1), for viewers that show neither SEG nor SR."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from auscult.domain import codes
from auscult.domain.finding import Finding
from auscult.publish.dicom_modules import SERIES_NUMBER, begin, complete, references
from auscult.publish.picture import WINDOW, YELLOW, draw, spread
from auscult.publish.sources import Source, headers, rescaled

SIDE = 1024
"""Pixels of the longer side."""
MARGIN = 16
SIZE = 22
"""Of the text, in pixels."""
SIDES: dict[codes.Code | None, str] = {codes.LEFT: "L", codes.RIGHT: "R"}
NOT_FOR_CLINICAL_USE = "NOT FOR CLINICAL USE"


def write_capture(
    finding: Finding,
    slice_: Source,
    *,
    lines: Sequence[str],
    sop_instance_uid: str,
    series_uid: str,
    made: datetime,
    instance_number: int = 1,
    description: str = "Summary",
    notice: str = NOT_FOR_CLINICAL_USE,
) -> Dataset:
    """Return the finding's best slice with its outline, and `lines` of text beside it, as an RGB image.

    `slice_`: the image or frame that `finding.outline` names, with its pixels. `notice`: the last line; empty where
    the site has validated all that is said. The picture names no patient.
    """
    (header,) = headers([slice_])
    picture = _draw(finding, slice_, header, [*lines, *([notice] if notice else [])])
    dataset = begin(SecondaryCaptureImageStorage, sop_instance_uid, series_uid, "OT", SERIES_NUMBER + 3)
    dataset.InstanceNumber = instance_number
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = ""
    dataset.Laterality = SIDES.get(finding.laterality, "")
    dataset.BurnedInAnnotation = "NO"
    dataset.SourceImageSequence = references([header])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = picture.height, picture.width
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    pixels = picture.tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    complete(
        dataset,
        header,
        made=made,
        sop_instance_uid=sop_instance_uid,
        description=description,
        content_date="Content",
    )
    return dataset


def _draw(finding: Finding, slice_: Source, header: Dataset, lines: Sequence[str]) -> Image.Image:
    values = rescaled(slice_)
    window = WINDOW if header.Modality == "CT" else spread(values)
    picture = draw(values, finding.outline.polygons, SIDE, window=window)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(SIZE)
    pen.multiline_text(
        (MARGIN, MARGIN), "\n".join(lines), fill=YELLOW, font=font, spacing=6, stroke_width=2, stroke_fill="black"
    )
    return picture

"""A result as a PDF for people: what was found, where it is seen, and what the reader must know of the models.

It names no patient: it is read inside the record, under the patient's DiagnosticReport. The same result gives the
same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image as Pictures
from reportlab import rl_config
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Image, KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from auscult.domain.finding import Finding, Measurement, Result
from auscult.domain.ibsi import HU
from auscult.domain.volume import Volume
from auscult.publish.fhir.elements import NOT_VALIDATED, decimal, named
from auscult.publish.fhir.risk import percent
from auscult.publish.picture import WINDOW, Box, Polygon, draw, spread

rl_config.useA85 = 0  # binary streams: a quarter smaller, and 20 ms less

FEW = 6
"""Groups with more measurements (radiomics) are counted, not listed: they are in the record, number by number."""
PICTURES = 3
"""Findings with pictures; all others are described."""
SIDE, WIDTH = 400, 80 * mm
"""Of a picture: pixels, and millimetres on paper."""
AROUND = 40.0
"""mm shown on each side of the outline's middle in the enlarged picture."""
QUALITY = 80
STYLES = getSampleStyleSheet()
BODY, SMALL = STYLES["BodyText"], ParagraphStyle("small", parent=STYLES["BodyText"], fontSize=8, leading=10)
GRID = TableStyle(
    [
        ("FONTSIZE", (0, 0), (-1, -1), 9),
        ("LINEBELOW", (0, 0), (-1, -1), 0.25, colors.lightgrey),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
    ]
)


def report_pdf(result: Result, volume: Volume | None) -> bytes:
    """Return the report. `volume`: the images that the findings were outlined on; without it there is no picture."""
    target = io.BytesIO()
    title = f"Automated assessment: {result.pathway.replace('_', ' ')}"
    document = SimpleDocTemplate(
        target, pagesize=A4, title=title, author="Auscult", invariant=1, topMargin=18 * mm, bottomMargin=15 * mm
    )
    document.build(list(_story(result, volume, title)))
    return target.getvalue()


def _story(result: Result, volume: Volume | None, title: str) -> Iterator[Flowable]:
    yield Paragraph(escape(title), STYLES["Title"])
    yield Paragraph(f"<b>{escape(result.card.summary)}</b>", BODY)
    yield Paragraph(_line("Images acquired", result.acquired or "not known"), BODY)
    for reason in result.reasons:
        yield Paragraph(_line("Incomplete", reason), BODY)
    for done in result.processing:
        yield Paragraph(escape(done), BODY)
    for number, finding in enumerate(result.findings):
        yield KeepTogether(list(_finding(finding, volume if number < PICTURES else None)))
    yield Spacer(1, 4 * mm)
    models = {named(model): model for model in result.card.models if model.stage != "shadow"}
    for name, model in models.items():
        warning = "" if model.clinical_use else f" {NOT_VALIDATED}"
        yield Paragraph(escape(f"{name}: {model.evidence}.{warning}"), SMALL)
    yield Paragraph(
        f"Put together by {escape(result.pathway)} {escape(result.version)}, an algorithm, and read by nobody before "
        "it was written. The numbers are in the record as Observations, with how each was obtained.",
        SMALL,
    )


def _finding(finding: Finding, volume: Volume | None) -> Iterator[Flowable]:
    yield Paragraph(escape(finding.label.replace("-", " ")).capitalize(), STYLES["Heading3"])
    yield Paragraph(escape(f"{finding.appearance}, {finding.location}"), BODY)
    rows = []
    for group in finding.groups:
        if len(group.measurements) > FEW:
            rows.append([group.code.display, f"{len(group.measurements)} numbers"])
        else:
            rows += [[measurement.code.display, _value(measurement)] for measurement in group.measurements]
    rows += [[risk.code.display, percent(risk.probability)] for risk in finding.risks]
    if rows:
        yield Table(rows, colWidths=(95 * mm, 65 * mm), style=GRID, hAlign="LEFT")
    for advice in finding.recommendations:
        yield Paragraph(_line(named(advice.guideline), advice.text), BODY)
    for note in finding.notes:
        yield Paragraph(escape(note), SMALL)
    yield from _pictures(finding, volume)


def _pictures(finding: Finding, volume: Volume | None) -> Iterator[Flowable]:
    outline = finding.outline
    if volume is None or outline.sop_instance_uid not in volume.sop_instance_uids or not outline.polygons:
        return
    plane, polygons = volume.voxels[outline.slice_index], _polygons(finding, volume)
    window = WINDOW if volume.unit == HU else spread(plane)
    shown = [draw(plane, polygons, SIDE, box, window) for box in (None, _near(polygons, volume))]
    yield Spacer(1, 2 * mm)
    yield Table([[_image(picture) for picture in shown]], hAlign="LEFT")


def _polygons(finding: Finding, volume: Volume) -> list[Polygon]:
    """Return the outline in the pixels of the volume's slice."""
    outline = finding.outline
    y, x = volume.resampled.offsets[outline.slice_index].tolist() if volume.resampled else (0.0, 0.0)
    return [[(px + x, py + y) for px, py in polygon] for polygon in outline.polygons]


def _near(polygons: Sequence[Polygon], volume: Volume) -> Box:
    """Return the surroundings of the outline, a square within the slice."""
    corners = np.array([corner for polygon in polygons for corner in polygon])
    x, y = corners.mean(axis=0) + 0.5
    _, rows, columns = volume.geometry.shape
    half = min(AROUND / float(volume.geometry.spacing[1:].max()), rows / 2, columns / 2)
    x, y = min(max(x, half), columns - half), min(max(y, half), rows - half)
    return x - half, y - half, x + half, y + half


def _image(picture: Pictures.Image) -> Image:
    jpeg = io.BytesIO()
    picture.convert("RGB").save(jpeg, "JPEG", quality=QUALITY)
    jpeg.seek(0)
    return Image(jpeg, width=WIDTH, height=WIDTH * picture.height / picture.width)


def _value(measurement: Measurement) -> str:
    if not np.isfinite(measurement.value):
        return "no value"
    unit = "" if measurement.unit == "1" else f" {measurement.unit}"
    return f"{decimal(measurement.value, 4):f}{unit}"


def _line(what: str, text: str) -> str:
    return f"{escape(what)}: {escape(text)}"

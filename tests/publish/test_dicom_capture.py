"""The picture shows the outline on its slice, says that it is not for clinical use, and names no one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from auscult.publish.dicom_capture import SIDE, YELLOW, write_capture


def test_the_outline_is_drawn_on_its_slice(read: Any) -> None:
    """Yellow lies along the finding's edges; the object refers to the slice and has the study's patient."""
    finding = read.result.findings[0]
    slice_ = read.slices[finding.outline.slice_index]
    uids = {"sop_instance_uid": "2.25.1", "series_uid": "2.25.2"}
    made = datetime(2026, 1, 31, 12, tzinfo=UTC)
    dataset = write_capture(finding, slice_, lines=[], notice="", made=made, **uids)
    scale = SIDE / 20
    pixels = dataset.pixel_array
    assert pixels.shape == (round(16 * scale), SIDE, 3)
    rows, columns = np.nonzero((pixels == YELLOW).all(axis=2))
    x, y = np.array([point for polygon in finding.outline.polygons for point in polygon]).T
    for drawn, outlined in ((rows, y), (columns, x)):
        assert abs(drawn.min() - (outlined.min() + 0.5) * scale) <= 2
        assert abs(drawn.max() - (outlined.max() + 0.5) * scale) <= 2
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == slice_.SOPInstanceUID
    assert (dataset.PatientID, dataset.BurnedInAnnotation) == ("P-1", "NO")
    noticed = write_capture(finding, slice_, lines=[], made=made, **uids)
    assert noticed.PixelData != dataset.PixelData

"""Is what the PACS gives back what it was given? Its own additions, and patient and study, may differ."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from auscult.publish.dicom_modules import COPIED

PIXEL_DATA = 0x7FE00010
_MAY_DIFFER = frozenset(COPIED)
"""A PACS corrects names and identifiers in all that it has of a study; that is its duty."""


def differences(sent: Dataset, back: Dataset) -> list[str]:
    """Return the keywords of the elements that were sent and came back otherwise, or not at all."""
    buffer = BytesIO()
    sent.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return list(dict.fromkeys(_different(dcmread(buffer), back)))


def _different(sent: Dataset, back: Dataset) -> Iterator[str]:
    for element in sent:
        if element.tag in _MAY_DIFFER:
            continue
        if element.tag not in back:
            yield element.keyword
        elif element.tag == PIXEL_DATA:
            if not _same_pixels(sent, back):
                yield element.keyword
        elif isinstance(element.value, Sequence):
            items = back[element.tag].value
            if not isinstance(items, Sequence) or len(items) != len(element.value):
                yield element.keyword
                continue
            for one, other in zip(element.value, items, strict=True):
                yield from _different(one, other)
        elif element.value != back[element.tag].value:
            yield element.keyword


def _same_pixels(sent: Dataset, back: Dataset) -> bool:
    if not back.file_meta.TransferSyntaxUID.is_compressed:
        return bool(sent.PixelData == back.PixelData)
    return np.array_equal(sent.pixel_array, back.pixel_array)

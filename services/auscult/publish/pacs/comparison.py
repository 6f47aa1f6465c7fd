"""Is what the PACS gives back what it was given? Its own additions, and patient and study, may differ."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
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
    for tag in sent.keys():  # noqa: SIM118 - the data set's own iterator decodes every element
        if tag in _MAY_DIFFER:
            continue
        if tag not in back:
            yield keyword_for_tag(tag)
        elif tag == PIXEL_DATA:
            if not _same_pixels(sent, back):
                yield keyword_for_tag(tag)
        elif sent.get_item(tag).value != back.get_item(tag).value:
            # Not yet decoded, or not encoded alike.
            yield from _different_values(sent[tag], back[tag])


def _different_values(sent: DataElement, back: DataElement) -> Iterator[str]:
    if not isinstance(sent.value, Sequence):
        if sent.value != back.value:
            yield sent.keyword
    elif not isinstance(back.value, Sequence) or len(sent.value) != len(back.value):
        yield sent.keyword
    else:
        for one, other in zip(sent.value, back.value, strict=True):
            yield from _different(one, other)


def _same_pixels(sent: Dataset, back: Dataset) -> bool:
    if not back.file_meta.TransferSyntaxUID.is_compressed:
        return bool(sent.PixelData == back.PixelData)
    return np.array_equal(sent.pixel_array, back.pixel_array)

"""The data sets of requests that are no objects to store: queries, and what is told of a procedure step."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from auscult.imaging import part10
from auscult.imaging.gate import file_meta
from auscult.platform.errors import Refused

LARGEST_QUERY = 128 * 1024
"""Bytes of a query; a list of 2,000 UIDs has as many."""
MOST_VALUES = 4096
"""Values in a query's lists, all together."""
MOST_ITEMS = 20_000
"""Sequence items in what is told of a step: one for each instance that it made."""

_ANY = "1.2.840.10008.1.1"
_ITEM = b"\xfe\xff\x00\xe0"


def decoded(encoded: BytesIO | None, transfer_syntax: str) -> Dataset:
    """Decode what is told of a step. Refused: `not-dicom`, `truncated`, `too-many-items`.

    Sequences of defined length are stepped over by the framing; of those pydicom reads only what is asked for.
    """
    data = encoded.getvalue() if encoded else b""
    if data.count(_ITEM) > MOST_ITEMS:
        raise _refused("too-many-items", f"more than {MOST_ITEMS} sequence items; tell the step in parts")
    return _parsed(data, transfer_syntax, quick=False)


def query(encoded: BytesIO | None, transfer_syntax: str) -> Dataset:
    """Decode a query, without its sequences, which nothing here matches.

    Refused: `not-dicom`, `truncated`, `query-too-large`.
    """
    data = encoded.getvalue() if encoded else b""
    if len(data) > LARGEST_QUERY or data.count(b"\\") > MOST_VALUES:
        raise _too_large()
    try:
        found = _parsed(data, transfer_syntax, quick=True)
    except part10.Laborious:
        raise _too_large() from None
    for tag in [*found.keys()]:
        if _is_sequence(found.get_item(tag)):
            del found[tag]
    return found


def _parsed(data: bytes, transfer_syntax: str, *, quick: bool) -> Dataset:
    file = file_meta(_ANY, _ANY, UID(transfer_syntax)) + data
    if len(part10.read(file, quick=quick).values) > part10.QUICK_ELEMENTS:
        raise _refused("not-dicom", "more attributes than any known one has")
    with part10.understood():
        return Dataset(dcmread(BytesIO(file)))


def _is_sequence(element: object) -> bool:
    vr, tag = getattr(element, "VR", None), getattr(element, "tag", 0)
    if isinstance(element, RawDataElement) and vr in {None, "UN"}:
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else vr
    return vr == "SQ"


def _too_large() -> Refused:
    return _refused("query-too-large", "ask for less at a time: fewer keys, shorter lists")


def _refused(reason: str, message: str) -> Refused:
    return Refused(reason, message, status=part10.CANNOT_UNDERSTAND)

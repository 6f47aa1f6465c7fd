"""The data sets of requests that are no objects to store: queries, and what is told of a procedure step."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from auscult.imaging import part10
from auscult.imaging.gate import file_meta

_ANY = "1.2.840.10008.1.1"


def decoded(encoded: BytesIO | None, transfer_syntax: str) -> Dataset:
    """Decode a data set. Refused (`not-dicom`, `truncated`) where its framing is not sound, or too deep for a parser.

    Sequences of defined length are stepped over by the framing; of those pydicom reads only what is asked for.
    """
    file = file_meta(_ANY, _ANY, UID(transfer_syntax)) + (encoded.getvalue() if encoded else b"")
    part10.read(file)
    with part10.understood():
        return Dataset(dcmread(BytesIO(file)))

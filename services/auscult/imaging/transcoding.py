"""Instances and frames in another encoding than they are stored in. Runs in `sandbox`."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian

from auscult.platform.errors import Refused

NOT_ACCEPTABLE = 406


def octets(path: Path, number: int) -> bytes:
    """Return a frame's stored values in little endian, bits packed as PS3.5, 8.1.1 says. `number`: from 0."""
    (frame,) = iter_pixels(path, indices=[number], raw=True)
    if dcmread(path, specific_tags=["BitsAllocated"], stop_before_pixels=True).BitsAllocated == 1:
        return np.packbits(frame.ravel(), bitorder="little").tobytes()
    return frame.astype(frame.dtype.newbyteorder("<")).tobytes()


def encapsulated(path: Path, number: int, frames: int) -> bytes:
    """Return a compressed frame as it is stored. `number`: from 0."""
    return get_frame(BytesIO(dcmread(path).PixelData), number, number_of_frames=frames)


def explicit(path: Path) -> bytes:
    """Return an instance in Explicit VR Little Endian. Refused: `not-acceptable` from big endian."""
    dataset = dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_little_endian:
        # pydicom does not swap the bytes of pixels.
        raise Refused(
            "not-acceptable", "big endian is given as it is: accept any transfer syntax", status=NOT_ACCEPTABLE
        )
    if syntax.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    written = BytesIO()
    dataset.save_as(written, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return written.getvalue()

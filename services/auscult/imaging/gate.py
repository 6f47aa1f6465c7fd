"""The gate through which every DICOM object comes in: what needs little work is read here, the rest in a child.

An image's header takes a bounded walk and a few ASCII attributes. Sequences, other character sets and files of very
many elements are parsed in `sandbox`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydicom import __version__
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ExplicitVRLittleEndian

from auscult.imaging import part10
from auscult.imaging.header import InstanceHeader
from auscult.imaging.sandbox import sandbox
from auscult.imaging.spool import INFLATED, Spool, inflate
from auscult.imaging.store import ImageStore

PREAMBLE = bytes(128)
"""What we write: a preamble that came with a file may be a program (PS3.10, 7.5)."""


def admit(source: bytes | Path) -> InstanceHeader:
    """Return an object's header, checked. Refused as by `InstanceHeader.read` and `Sandbox.call`."""
    try:
        return InstanceHeader.of(part10.read(source, quick=True))
    except part10.Laborious:
        return sandbox().call("header", source, answer=InstanceHeader)


@contextmanager
def unpacked(source: bytes | Path, store: ImageStore) -> Iterator[bytes | Path]:
    """Give an object as it is stored: what is deflated is inflated, which changes nothing of its data set.

    Refused: `not-dicom`, `truncated`, `deflate-bomb`, `out-of-space`.
    """
    framed = part10.framing(source)
    if not framed.transfer_syntax.is_deflated:
        yield source
        return
    with part10.understood():
        meta = file_meta(framed.text("MediaStorageSOPClassUID"), framed.text("MediaStorageSOPInstanceUID"))
    with closing(Spool(store, INFLATED, lambda: meta)) as spool:
        inflate(framed.data, framed.start, spool)
        inflated = spool.source
        yield meta + inflated if isinstance(inflated, bytes) else inflated


def file_meta(sop_class: str, sop_instance: str, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """Return what comes before a data set in a file: preamble, prefix and file meta information (PS3.10, 7.1).

    As pydicom writes it, in no time: each instance that comes in needs it. ValueError where it names nothing.
    """
    if not (sop_class and sop_instance):
        raise ValueError("the file meta information names its SOP class and instance")
    elements = b"".join(
        (
            struct.pack("<HH2sHL2s", 2, 0x0001, b"OB", 0, 2, b"\0\1"),
            _element(0x0002, b"UI", sop_class),
            _element(0x0003, b"UI", sop_instance),
            _element(0x0010, b"UI", syntax),
            _element(0x0012, b"UI", PYDICOM_IMPLEMENTATION_UID),
            _element(0x0013, b"SH", f"PYDICOM {__version__}"[:16]),
        )
    )
    return PREAMBLE + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(elements)) + elements


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

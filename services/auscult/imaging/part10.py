"""The framing of a DICOM file (PS3.10, 7; PS3.5, 7): whether it is one, and whole.

pydicom reads what is there and stays silent where a file ends early. So every element's declared length is
walked first, without recursion and within fixed limits; pydicom then parses only what is known to fit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from pydicom import config, dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from auscult.platform.errors import Refused

CANNOT_UNDERSTAND = 0xC000
"""C-STORE status `Error: Cannot understand` (PS3.4, B.2.3); 0xC000 to 0xCFFF."""
MAX_DEPTH = 64
"""Nested sequences; a structured report of this depth is not known."""
MAX_ELEMENTS = 2_000_000
"""Elements that are walked; a structure set of 200 regions has about 200 000."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSFER_SYNTAX = 0x00020010
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""VRs whose length has four bytes (PS3.5, table 7.1-1)."""

# pydicom's warnings quote values, which may name a patient, and would be printed.
config.settings.reading_validation_mode = config.IGNORE


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where the pixel data element lies in the file: `start` its header, `value` its value.

    `fragments`: the number of items of encapsulated data, the offset table included; 0 for native data.
    """

    start: int
    value: int
    length: int
    fragments: int


@dataclass(frozen=True, slots=True)
class Part10:
    """A DICOM file that is whole: its data set without pixel data, and where the pixels are."""

    dataset: FileDataset
    transfer_syntax: UID
    pixels: Pixels | None


@contextmanager
def understood() -> Iterator[None]:
    """Turn whatever a parser raises on hostile bytes into Refused; its own text may quote values."""
    try:
        yield
    except Refused:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises many types, none of them documented
        raise Refused(
            "not-dicom", "an attribute cannot be decoded; check the file with dciodvfy", status=CANNOT_UNDERSTAND
        ) from None


def read(data: bytes | memoryview) -> Part10:
    """Read a DICOM file, leaving its pixels where they are. Refused: `not-dicom`, `truncated`."""
    view = memoryview(data)
    with understood():
        start, syntax = _file_meta(view)
        pixels = _walk(view, start, syntax)
        head = bytes(view[: pixels.start]) if pixels else bytes(view)
        return Part10(dcmread(BytesIO(head), stop_before_pixels=True), syntax, pixels)


def _refused(reason: str, message: str) -> Refused:
    return Refused(reason, message, status=CANNOT_UNDERSTAND)


def _file_meta(data: memoryview) -> tuple[int, UID]:
    """Return where the data set starts, and its transfer syntax (PS3.10, 7.1: explicit VR little endian)."""
    if bytes(data[128:132]) != b"DICM":
        raise _refused("not-dicom", "no DICM prefix; only DICOM Part 10 files are read")
    at, syntax = 132, b""
    while at + 8 <= len(data) and bytes(data[at : at + 2]) == b"\x02\x00":
        tag, _, length, value = _element(data, at, implicit=False, order="<")
        at = _end(data, tag, value, length)
        if tag == _TRANSFER_SYNTAX:
            syntax = bytes(data[value:at])
    uid = UID(syntax.decode("ascii").rstrip("\0 "))
    if not uid:
        raise _refused("not-dicom", "TransferSyntaxUID (0002,0010) is missing from the file meta information")
    if uid.is_private or not uid.is_transfer_syntax or uid.is_deflated:
        raise _refused("not-dicom", "the transfer syntax is private, unknown or deflated; send another")
    return at, uid


def _element(data: memoryview, at: int, *, implicit: bool, order: str) -> tuple[int, bytes, int, int]:
    """Return an element's tag, VR (empty where implicit), length and the offset of its value."""
    if at + 8 > len(data):
        raise _refused("truncated", "the file ends within an element's header; send it again")
    group, element, length = struct.unpack_from(f"{order}HHL", data, at)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, b"", length, at + 8
    vr = bytes(data[at + 4 : at + 6])
    if not (vr.isalpha() and vr.isupper()):
        raise _refused("not-dicom", f"element ({group:04X},{element:04X}) has no valid VR")
    if vr not in _LONG_VRS:
        return tag, vr, struct.unpack_from(f"{order}H", data, at + 6)[0], at + 8
    if at + 12 > len(data):
        raise _refused("truncated", "the file ends within an element's header; send it again")
    return tag, vr, struct.unpack_from(f"{order}L", data, at + 8)[0], at + 12


def _walk(data: memoryview, start: int, syntax: UID) -> Pixels | None:
    """Walk every element of the data set to the file's end; return its own pixel data element.

    Values and sequences of defined length are stepped over; sequences of undefined length are entered.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    implicit = syntax == ImplicitVRLittleEndian
    pixels: Pixels | None = None
    between_items = False
    outer: list[tuple[bool, bool]] = []
    at, count = start, 0
    while at < len(data) or outer:
        count += 1
        if count > MAX_ELEMENTS or len(outer) > MAX_DEPTH:
            raise _refused("not-dicom", "more elements or deeper sequences than any known object has")
        here = at
        tag, vr, length, at = _element(data, here, implicit=implicit, order=order)
        if outer and tag == (_SEQUENCE_END if between_items else _ITEM_END):
            between_items, implicit = outer.pop()
            continue
        if (tag == _ITEM) != between_items:
            raise _refused("not-dicom", "an item lies outside its sequence, or an element between items")
        if length != _UNDEFINED:
            end, fragments = _end(data, tag, at, length), 0
        elif tag in _PIXEL_TAGS and not implicit:
            end, fragments = _fragments(data, at)
        else:
            outer.append((between_items, implicit))
            # An undefined length UN holds a sequence in implicit VR (PS3.5, 6.2.2, note 2).
            between_items, implicit = not between_items, implicit or vr == b"UN"
            continue
        if tag in _PIXEL_TAGS and not outer:
            pixels = Pixels(here, at, end - at, fragments)
        at = end
    return pixels


def _fragments(data: memoryview, at: int) -> tuple[int, int]:
    """Walk encapsulated pixel data (PS3.5, A.4): return where it ends, and how many items it has."""
    count = 0
    while True:
        tag, _, length, at = _element(data, at, implicit=True, order="<")
        if tag == _SEQUENCE_END:
            return at, count
        if tag != _ITEM or length == _UNDEFINED:
            raise _refused("not-dicom", "encapsulated PixelData holds something else than fragments")
        at = _end(data, tag, at, length)
        count += 1


def _end(data: memoryview, tag: int, value: int, length: int) -> int:
    """Return where a value ends, which must lie within the file."""
    if length > len(data) - value:
        raise _refused("truncated", f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) is cut off; send it again")
    return value + length

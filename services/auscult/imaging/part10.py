"""The framing of a DICOM file (PS3.10, 7; PS3.5, 7): whether it is one, and whole.

pydicom reads what is there and stays silent where a file ends early. So every element's declared length is
walked first, without recursion and within fixed limits. What a slice says of itself is then taken from its bytes,
in a fifth of the time that parsing all of it takes; pydicom parses the rest where it is asked for.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal

from pydicom import config, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from auscult.platform.errors import Refused

CANNOT_UNDERSTAND = 0xC000
"""C-STORE status `Error: Cannot understand` (PS3.4, B.2.3); 0xC000 to 0xCFFF."""
MAX_DEPTH = 64
"""Nested sequences; a structured report of this depth is not known."""
MAX_ELEMENTS = 2_000_000
"""Elements that are walked; a structure set of 200 regions has about 200 000."""
QUICK_ELEMENTS = 4096
"""Elements that are walked for a quick look; a CT slice with its private elements has some hundreds."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""VRs whose length has four bytes (PS3.5, table 7.1-1)."""

# pydicom's warnings quote values, which may name a patient, and would be printed.
config.settings.reading_validation_mode = config.IGNORE


class Laborious(Exception):
    """A quick look is not enough: the file is for a process that may be killed."""


Bytes = bytes | mmap
"""A file's content; a mapped file is read only where it is looked at. The store never changes a file in place."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where the pixel data element lies in the file: `start` its header, `value` its value.

    `fragments`: the number of items of encapsulated data, the offset table included; 0 for native data.
    """

    start: int
    value: int
    length: int
    fragments: int


@dataclass(frozen=True)
class Part10:
    """A DICOM file that is whole. Attributes are those of the data set itself, not of its sequences.

    A value that cannot be decoded raises ValueError, or what pydicom raises: use within `understood`.
    """

    data: Bytes
    transfer_syntax: UID
    pixels: Pixels | None
    values: dict[int, tuple[int, int]]
    """Where in `data` each element's value starts and ends, by tag."""
    path: Path | None = None
    """Where the file lies, if it is one."""
    quick: bool = False
    """Whether it may not be parsed any further here."""

    @cached_property
    def dataset(self) -> FileDataset:
        """The file as pydicom sees it, without pixel data. Laborious, after a quick look."""
        if self.quick:
            raise Laborious
        head = self.data[: self.pixels.start] if self.pixels else self.data
        return dcmread(BytesIO(head), stop_before_pixels=True)

    def raw(self, keyword: str) -> bytes:
        """Return an attribute's bytes; empty where it is absent."""
        start, end = self.values.get(tag_for_keyword(keyword) or 0, (0, 0))
        return self.data[start:end]

    def private(self, creator: bytes, group: int, element: int) -> bytes:
        """Return a private element's bytes, from the block that is its creator's (PS3.5, 7.8); empty where absent."""
        for block in range(0x10, 0x100):
            start, end = self.values.get(group << 16 | block, (0, 0))
            if self.data[start:end].strip(b"\0 ") == creator:
                start, end = self.values.get(group << 16 | block << 8 | element, (0, 0))
                return self.data[start:end]
        return b""

    def text(self, keyword: str) -> str:
        """Return an attribute as text, without padding; empty where it is absent or empty."""
        value = self.raw(keyword)
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii").strip("\0 ")
        text = str(self.dataset.get(keyword, "")).strip()
        if "\ufffd" in text:
            raise _refused("wrong-character-set", f"{keyword} is not in its SpecificCharacterSet; correct the sender")
        return text

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a text attribute."""
        text = self.text(keyword)
        return tuple(part.strip() for part in text.split("\\")) if text else ()

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the values of a DS or IS attribute."""
        return tuple(map(float, self.texts(keyword)))

    def integer(self, keyword: str) -> int | None:
        """Return the value of an IS attribute; None where it is absent or empty."""
        text = self.text(keyword)
        return int(text) if text else None

    def short(self, keyword: str, *, signed: bool = False) -> int | None:
        """Return the value of a US or SS attribute; None where it is absent or empty."""
        value = self.raw(keyword)
        if len(value) not in {0, 2}:
            raise ValueError(f"{keyword} is not one number of two bytes")
        order: Literal["little", "big"] = "little" if self.transfer_syntax.is_little_endian else "big"
        return int.from_bytes(value, order, signed=signed) if value else None


@contextmanager
def understood() -> Iterator[None]:
    """Turn whatever a parser raises on hostile bytes into Refused; its own text may quote values."""
    try:
        yield
    except (Refused, Laborious, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - pydicom raises many types, none of them documented
        raise Refused(
            "not-dicom", "an attribute cannot be decoded; check the file with dciodvfy", status=CANNOT_UNDERSTAND
        ) from None


def read(source: bytes | Path, *, quick: bool = False) -> Part10:
    """Find a DICOM file's elements, leaving its pixels where they are. Refused: `not-dicom`, `truncated`.

    `quick`: Laborious, as soon as that is no little work.
    """
    framed = framing(source)
    data, values, syntax = framed.data, framed.values, framed.transfer_syntax
    with understood():
        if syntax.is_private or syntax.is_deflated:
            raise _refused("not-dicom", "the transfer syntax is private or deflated; send another")
        pixels = _walk(data, framed.start, syntax, values, quick=quick)
        return Part10(data, syntax, pixels, values, None if isinstance(source, bytes) else source, quick)


@dataclass(frozen=True, slots=True)
class Framing:
    """A file's meta information. `start`: where its data set begins."""

    data: Bytes
    start: int
    values: dict[int, tuple[int, int]]

    @property
    def transfer_syntax(self) -> UID:
        """What the file says; empty where it says nothing."""
        return UID(self.text("TransferSyntaxUID"))

    def text(self, keyword: str) -> str:
        """Return an attribute of the file meta information; empty where it is absent."""
        start, end = self.values.get(tag_for_keyword(keyword) or 0, (0, 0))
        return self.data[start:end].decode("ascii").strip("\0 ")


def framing(source: bytes | Path) -> Framing:
    """Read the file meta information. Refused: `not-dicom`, `truncated`."""
    data, values = source if isinstance(source, bytes) else _mapped(source), dict[int, tuple[int, int]]()
    with understood():
        framed = Framing(data, _file_meta(data, values), values)
        if not framed.transfer_syntax.is_transfer_syntax:
            raise _refused("not-dicom", "the transfer syntax is missing or unknown; send another")
        return framed


def _mapped(path: Path) -> Bytes:
    with path.open("rb") as file:
        # An empty file cannot be mapped.
        return mmap(file.fileno(), 0, access=ACCESS_READ) if os.fstat(file.fileno()).st_size else b""


def _refused(reason: str, message: str) -> Refused:
    return Refused(reason, message, status=CANNOT_UNDERSTAND)


def _file_meta(data: Bytes, values: dict[int, tuple[int, int]]) -> int:
    """Walk the file meta information (PS3.10, 7.1: explicit VR little endian); return where the data set starts."""
    if data[128:132] != b"DICM":
        raise _refused("not-dicom", "no DICM prefix; only DICOM Part 10 files are read")
    at = 132
    while data[at : at + 2] == b"\x02\x00":
        tag, _, length, value = _element(data, at, implicit=False, order="<")
        at = _end(data, tag, value, length)
        values[tag] = value, at
    return at


def _element(data: Bytes, at: int, *, implicit: bool, order: str) -> tuple[int, bytes, int, int]:
    """Return an element's tag, VR (empty where implicit), length and the offset of its value."""
    if at + 8 > len(data):
        raise _refused("truncated", "the file ends within an element's header; send it again")
    group, element, length = struct.unpack_from(f"{order}HHL", data, at)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, b"", length, at + 8
    vr = data[at + 4 : at + 6]
    if not (vr.isalpha() and vr.isupper()):
        raise _refused("not-dicom", f"element ({group:04X},{element:04X}) has no valid VR")
    if vr not in _LONG_VRS:
        return tag, vr, struct.unpack_from(f"{order}H", data, at + 6)[0], at + 8
    if at + 12 > len(data):
        raise _refused("truncated", "the file ends within an element's header; send it again")
    return tag, vr, struct.unpack_from(f"{order}L", data, at + 8)[0], at + 12


def _walk(data: Bytes, start: int, syntax: UID, values: dict[int, tuple[int, int]], *, quick: bool) -> Pixels | None:
    """Walk every element to the file's end, noting the data set's own in `values`; return its pixel data element.

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
        if quick and count > QUICK_ELEMENTS:
            raise Laborious
        if count > MAX_ELEMENTS or len(outer) > 2 * MAX_DEPTH:
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
        if not outer:
            values[tag] = at, end
            if tag in _PIXEL_TAGS:
                pixels = Pixels(here, at, end - at, fragments)
        at = end
    return pixels


def _fragments(data: Bytes, at: int) -> tuple[int, int]:
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


def _end(data: Bytes, tag: int, value: int, length: int) -> int:
    """Return where a value ends, which must lie within the file."""
    if length > len(data) - value:
        raise _refused("truncated", f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) is cut off; send it again")
    return value + length

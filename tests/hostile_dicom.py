"""A generator of hostile DICOM objects: what is wrong with each is known, and so is its refusal."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComprehensiveSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    RTStructureSetStorage,
    generate_uid,
)

from auscult.imaging import part10
from auscult.imaging.gate import file_meta
from dicom_factory import ct_series, encode

PROGRAMS = {"ELF": b"\x7fELF\x02\x01\x01", "PE": b"MZ\x90\x00", "script": b"#!/bin/sh\nrm -rf /\n"}
"""What a preamble may begin with."""


@dataclass(frozen=True)
class Hostile:
    """One object. `reasons`: how it may be refused; none where it is to be accepted."""

    name: str
    data_set: bytes
    reasons: tuple[str, ...] = ()
    syntax: UID = ExplicitVRLittleEndian
    inflated: bytes = b""
    """Of a deflated data set."""

    @property
    def sop_class(self) -> str:
        """The SOP class that it is sent as: its own, or a CT slice's."""
        return self._uid(0x16) or str(CTImageStorage)

    @property
    def sop_instance(self) -> str:
        """The SOP instance that it is sent as: its own, or any."""
        return self._uid(0x18) or generate_uid()

    @property
    def file(self) -> bytes:
        """The object as a file."""
        return file_meta(self.sop_class, self.sop_instance, self.syntax) + self.data_set

    def _uid(self, number: int) -> str:
        data, head = self.inflated or self.data_set, struct.pack("<HH", 8, number) + b"UI"
        at = data.find(head)
        length = int.from_bytes(data[at + 6 : at + 8], "little")
        return data[at + 8 : at + 8 + length].decode("ascii", "replace").rstrip("\0") if at >= 0 else ""


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return an element in Explicit VR Little Endian, with another length than its own where one is given."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    long = vr in {b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"OD", b"OF"}
    return head + (struct.pack("<HL", 0, length) if long else struct.pack("<H", length)) + value


def nested(depth: int) -> bytes:
    """Return sequences of undefined length, one in another, closed as they should be."""
    opened = element(0x00081115, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return opened * depth + closed * depth


def body(dataset: Dataset) -> bytes:
    """Return a data set's own bytes."""
    data = encode(dataset)
    return data[part10.framing(data).start :]


def changed(**attributes: object) -> Dataset:
    """Return a CT slice with other attributes."""
    dataset = ct_series((1, 8, 8))[0]
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def patched(keyword: str, value: bytes) -> bytes:
    """Return a CT slice in which one attribute's bytes are `value`, whatever its VR allows."""
    dataset = changed()
    tag, vr = dataset[keyword].tag, dataset[keyword].VR.encode()
    data = body(dataset)
    at = data.index(struct.pack("<HH", tag.group, tag.element) + vr)
    end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    padding = b"\0" if vr == b"UI" else b" "
    return data[:at] + element(int(tag), vr, value + padding * (len(value) % 2)) + data[end:]


def compressed(syntax: UID, fragment: bytes, **attributes: object) -> bytes:
    """Return a CT slice that says to hold compressed pixels."""
    dataset = changed(**attributes)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([fragment])
    dataset["PixelData"].VR = "OB"
    return body(dataset)


def deflated(data: bytes) -> bytes:
    """Deflate without a header (PS3.5, A.5)."""
    deflating = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return deflating.compress(data) + deflating.flush()


def inserted(*elements: bytes) -> bytes:
    """Return a CT slice with elements before its rows."""
    data = body(changed())
    at = data.index(struct.pack("<HH", 0x0028, 0x0002))
    return data[:at] + b"".join(elements) + data[at:]


def private(count: int) -> bytes:
    """Return private elements, as some scanners write thousands of."""
    owner = element(0x00090010, b"LO", b"SOMEBODY")
    return owner + b"".join(element(0x00091000 + i % 256, b"UN", bytes([i % 256]) * 2) for i in range(count))


def other_class(sop_class: UID, modality: str, extra: bytes = b"") -> bytes:
    """Return an object without pixels."""
    dataset = changed()
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "ImagePositionPatient"):
        delattr(dataset, keyword)
    dataset.SOPClassUID, dataset.Modality = sop_class, modality
    data = body(dataset)
    return data + extra


def objects() -> Iterator[Hostile]:
    """Make each hostile object once."""
    whole = body(changed())
    bomb = deflated(whole + element(0x7FE10010, b"OB", bytes(300 * 2**20)))
    jpeg = b"\xff\x4f\xff\x51" + bytes(60)
    huge = {"Rows": 65535, "Columns": 65535}
    yield Hostile("whole", whole)
    yield Hostile("empty", b"", ("missing-attribute",))
    yield Hostile("text", b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n", ("not-dicom", "truncated"))
    yield Hostile("zeros", bytes(4096), ("not-dicom",))
    for part in (3, 4, 7):
        yield Hostile(f"cut at {part}/8", whole[: len(whole) * part // 8], ("truncated", "missing-attribute"))
    squeezed, small = DeflatedExplicitVRLittleEndian, body(changed())
    yield Hostile("a deflate bomb", bomb, ("deflate-bomb",), squeezed, whole)
    yield Hostile("deflated", deflated(small), (), squeezed, small)
    yield Hostile("deflated, cut", deflated(whole)[:-40], ("truncated",), squeezed, whole)
    yield Hostile("not deflated", whole, ("not-dicom", "truncated"), squeezed)
    yield Hostile("many pixels promised", body(changed(**huge)), ("truncated", "pixel-bomb"))
    yield Hostile("many frames promised", body(changed(NumberOfFrames=2147483647)), ("truncated",))
    yield Hostile("a negative number of frames", body(changed(NumberOfFrames=-1)), ("missing-attribute",))
    yield Hostile("an RLE bomb", compressed(RLELossless, bytes(64), **huge), ("pixel-bomb",), RLELossless)
    yield Hostile("a JPEG 2000 bomb", compressed(JPEG2000Lossless, jpeg, **huge), ("pixel-bomb",), JPEG2000Lossless)
    frames = compressed(RLELossless, bytes(64), NumberOfFrames=100000)
    yield Hostile("frames without fragments", frames, ("truncated", "pixel-bomb"), RLELossless)
    yield Hostile("a broken codestream", compressed(JPEG2000Lossless, jpeg), (), JPEG2000Lossless)
    yield Hostile("sequences, 40 deep", inserted(nested(40)))
    for depth in (65, 20000):
        yield Hostile(f"sequences, {depth} deep", inserted(nested(depth)), ("not-dicom",))
    yield Hostile("a sequence without end", inserted(element(0x00081115, b"SQ", b"", 0xFFFFFFFF)), ("not-dicom",))
    for length in (0xFFFFFFFE, 0x7FFFFFFF, 2**20):
        yield Hostile(f"a length of {length}", inserted(element(0x00091001, b"OB", b"", length)), ("truncated",))
    yield Hostile("text of undefined length", inserted(element(0x00091001, b"UT", b"", 0xFFFFFFFF)), ("not-dicom",))
    yield Hostile("no VR", inserted(b"\x09\x00\x01\x10\x00\x01\x02\x00ab"), ("not-dicom",))
    yield Hostile("an item outside", inserted(struct.pack("<HHL", 0xFFFE, 0xE000, 0)), ("not-dicom",))
    for uid in (
        b"../../../../etc/passwd",
        b"1.2/../../3",
        b"1.2.3\0/..",
        b"1.2.840.",
        b"1..2",
        b"01.2",
        b"CON",
        b"1" * 65,
    ):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            yield Hostile(f"{keyword} {uid[:12]!r}", patched(keyword, uid), ("invalid-uid",))
    yield Hostile("no StudyInstanceUID", patched("StudyInstanceUID", b""), ("missing-attribute",))
    yield Hostile("an unknown character set", patched("SpecificCharacterSet", b"ISO_IR 999"))
    yield Hostile("a name in another character set", patched("PatientName", "Müller^Jörg".encode("latin-1")))
    yield Hostile("a name of escapes", patched("PatientName", b"\x1b$B\x1b(J\x1b" * 3))
    yield Hostile("an undecodable PatientID", patched("PatientID", b"P-\xff\xfe\x81"), ("wrong-character-set",))
    yield Hostile("a PatientID with zeros", patched("PatientID", b"P\0\0\0"))
    yield Hostile("private elements", inserted(private(100)))
    yield Hostile("thousands of private elements", inserted(private(9000)))
    yield Hostile("private elements of nobody", inserted(element(0x00091001, b"UN", b"ab")))
    yield Hostile("burned-in text", body(changed(BurnedInAnnotation="YES")))
    for text in (b"nan\\1", b"1e999\\1", b"1", b"one\\two", b"\\", b"1" * 1000):
        yield Hostile(f"PixelSpacing {text[:8]!r}", patched("PixelSpacing", text), ("missing-attribute",))
    yield Hostile("Rows of three bytes", patched("Rows", b"abc"), ("not-dicom",))
    yield Hostile("a birth date that is none", patched("PatientBirthDate", b"99999999"))
    yield Hostile("a report, 60 deep", other_class(ComprehensiveSRStorage, "SR", nested(60)))
    many = element(0x30060039, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 20_000
    drawn = other_class(RTStructureSetStorage, "RTSTRUCT", many + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    yield Hostile("a structure set of 20,000 empty items", drawn)

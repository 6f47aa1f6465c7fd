"""What WADO-RS gives of stored instances, as its clients accept it (PS3.18, 10.4.1.1): whole, frames, bulk data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from auscult.imaging import part10
from auscult.imaging.sandbox import sandbox
from auscult.platform.errors import Refused

DICOM, OCTETS = "application/dicom", "application/octet-stream"
MULTIPART = "multipart/related"
ANY = "*/*"
PIECE = 2**20
NOT_ACCEPTABLE, NOT_FOUND, BAD_REQUEST = 406, 404, 400
"""HTTP statuses."""
IMAGE_TYPES = {
    **dict.fromkeys(JPEGTransferSyntaxes, "image/jpeg"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "image/jls"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "image/jp2"),
    RLELossless: "image/dicom-rle",
}
"""Media types of compressed frames (PS3.18, table 8.7.3-5)."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A media type that a client takes. `syntax`: empty where it names none, `*` for any."""

    kind: str
    syntax: str
    multipart: bool

    @property
    def as_stored(self) -> bool:
        """Whether any transfer syntax will do."""
        return self.syntax in {"", "*"}


def accepted(header: str) -> list[Accepted]:
    """Read an Accept header, in its order; an empty one accepts everything."""
    found = []
    for each in header.replace('"', "").split(","):
        message = Message()
        message["Content-Type"] = each.strip() or ANY
        outer = str(message["Content-Type"]).partition(";")[0].strip().lower()
        parameters = {str(key).lower(): str(given) for key, given in (message.get_params() or [])[1:]}
        multipart = outer in {MULTIPART, ANY}
        kind = parameters.get("type", ANY).lower() if multipart else outer
        found.append(Accepted(kind, parameters.get("transfer-syntax", ""), multipart))
    return found


def instances(files: Sequence[Path], header: str) -> tuple[bool, list[Iterator[bytes]]]:
    """Return whether whole instances go as multipart, and the pieces of each.

    As they are stored, unless another transfer syntax is asked for: Explicit VR Little Endian alone is made.
    Refused (`not-acceptable`).
    """
    for wanted in accepted(header):
        if wanted.kind not in {DICOM, ANY} or not (wanted.multipart or len(files) == 1):
            continue
        stored = [wanted.as_stored or part10.framing(file).transfer_syntax == wanted.syntax for file in files]
        if all(stored) or wanted.syntax == ExplicitVRLittleEndian:
            return wanted.multipart, [
                pieces(file) if as_it_is else _explicit(file) for file, as_it_is in zip(files, stored, strict=True)
            ]
    raise not_acceptable('accept multipart/related; type="application/dicom"; transfer-syntax=*')


def frames(file: Path, numbers: str, header: str) -> tuple[str, bool, list[Iterator[bytes]]]:
    """Return the content type of some frames, whether they go as multipart, and the pieces of each.

    `numbers`: from 1, with commas. Compressed ones go as they are where their media type is accepted, or octets of
    their transfer syntax; else decoded. Refused: `no-such-frame`, `bad-query`, `not-acceptable`.
    """
    image = _image(file)
    try:
        wanted = [int(each) - 1 for each in numbers.split(",")]
    except ValueError:
        raise Refused("bad-query", "frames are numbers, with commas between them", status=BAD_REQUEST) from None
    if not all(0 <= each < image.frames for each in wanted):
        raise Refused("no-such-frame", f"the instance has {image.frames} frames", status=NOT_FOUND)
    syntax = image.file.transfer_syntax
    kind = IMAGE_TYPES.get(syntax, OCTETS)
    for each in accepted(header):
        if not (each.multipart or len(wanted) == 1):
            continue
        named = each.kind == kind and (each.as_stored or each.syntax == syntax)
        if syntax.is_compressed and (
            (named and kind != OCTETS) or (each.kind in {OCTETS, ANY} and each.syntax in {"*", syntax})
        ):
            told = f"{kind}; transfer-syntax={syntax}"
            return told, each.multipart, [_encapsulated(image, number) for number in wanted]
        if each.kind in {OCTETS, ANY} and (each.as_stored or each.syntax == ExplicitVRLittleEndian):
            told = f"{OCTETS}; transfer-syntax={ExplicitVRLittleEndian}"
            return told, each.multipart, [_native(image, number) for number in wanted]
    raise not_acceptable(f'accept multipart/related; type="{kind}" or "{OCTETS}"')


def bulk_data(file: Path, tag: str, header: str) -> tuple[bool, bytes]:
    """Return whether a value goes as multipart, and its bytes. Refused: `no-such-value`, `not-acceptable`."""
    told = next((each for each in accepted(header) if each.kind in {OCTETS, ANY}), None)
    if told is None:
        raise not_acceptable(f'accept multipart/related; type="{OCTETS}"')
    found = _read(file)
    start, end = found.values.get(int(tag, 16), (0, 0)) if _is_tag(tag) else (0, 0)
    if start == end:
        raise Refused("no-such-value", "the instance has no such attribute, or it is empty", status=NOT_FOUND)
    if found.pixels is not None and found.pixels.value == start and found.pixels.fragments:
        raise not_acceptable("the pixels are compressed: ask for frames")
    return told.multipart, bytes(found.data[start:end])


def pieces(file: Path) -> Iterator[bytes]:
    """Yield a file's bytes."""
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            yield piece


def not_acceptable(message: str) -> Refused:
    """Return what a client is told that accepts nothing of what there is."""
    return Refused("not-acceptable", message, status=NOT_ACCEPTABLE)


@dataclass(frozen=True, slots=True)
class _Image:
    path: Path
    file: part10.Part10
    pixels: part10.Pixels
    frames: int
    bits: int
    """Of one frame."""


def _image(path: Path) -> _Image:
    file = _read(path)
    if file.pixels is None:
        raise Refused("no-such-frame", "the instance has no pixels", status=NOT_FOUND)
    with part10.understood():
        bits = 1
        for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"):
            bits *= file.short(keyword) or 0
        return _Image(path, file, file.pixels, file.integer("NumberOfFrames") or 1, bits)


def _read(path: Path) -> part10.Part10:
    try:
        return part10.read(path, quick=True)
    except part10.Laborious:
        raise not_acceptable("the instance has too many attributes for that: retrieve it whole") from None


def _native(image: _Image, number: int) -> Iterator[bytes]:
    syntax, size = image.file.transfer_syntax, image.bits // 8
    if (
        not syntax.is_compressed
        and syntax.is_little_endian
        and image.bits % 8 == 0
        and image.file.short("BitsAllocated") != 1
    ):
        start = image.pixels.value + number * size
        yield bytes(image.file.data[start : start + size])
        return
    yield sandbox().call("octets", image.path, number, answer=bytes)


def _encapsulated(image: _Image, number: int) -> Iterator[bytes]:
    yield sandbox().call("encapsulated", image.path, number, image.frames, answer=bytes)


def _explicit(file: Path) -> Iterator[bytes]:
    yield sandbox().call("explicit", file, answer=bytes)


def _is_tag(text: str) -> bool:
    return len(text) == 8 and all(letter in "0123456789abcdefABCDEF" for letter in text)

"""Stored values to Hounsfield units, or to the values of MR and PET (PS3.3, C.11.1; PS3.5, 8.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.imaging.frames import Frame
from auscult.imaging.part10 import Part10
from auscult.imaging.sandbox import sandbox
from auscult.platform.errors import DeadLetter

PADDING_HU = -1024
"""What pixels outside the scanner's field of view become: nothing, the lower end of the scale."""

PADDING = 0.0
"""What they become where values are no HU: nothing, the lower end of an MR's and a PET's scale."""

_INT16 = np.iinfo(np.int16)


def hounsfield(file: Part10, out: NDArray[np.int16], frame: Frame | None = None) -> None:
    """Write one CT slice, or one frame, as HU into `out`, `(rows, columns)`; values beyond int16 are clipped.

    DeadLetter: `undecodable-transfer-syntax`, `unsupported-pixels`, `no-hounsfield`; Refused as by `Sandbox.call`.
    Compressed pixels are read from `file.path`.
    """
    bits, signed = _stored_bits(file)
    slope, intercept = _rescale(file, frame)
    raw = _raw(file, out.size, frame.number if frame else 0, signed=signed).reshape(out.shape)
    values = _without_spare_bits(raw, bits)
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    fits = least + intercept >= _INT16.min and most + intercept <= _INT16.max
    if slope == 1 and intercept.is_integer() and fits:
        np.add(values.view(np.int16), np.int16(intercept), out=out)
    else:
        scaled = np.multiply(values, np.float32(slope), dtype=np.float32)
        scaled += np.float32(intercept)
        np.rint(scaled, out=scaled)
        np.copyto(out, np.clip(scaled, _INT16.min, _INT16.max), casting="unsafe")
    _fill_padding(file, raw, out, signed=signed, fill=PADDING_HU)


def rescaled(file: Part10, out: NDArray[np.float32], frame: Frame | None = None, factor: float = 1.0) -> None:
    """Write one slice or frame of MR or PET into `out`, `(rows, columns)`: rescaled by its own slope, times `factor`.

    Of an MR without a rescale the stored values count. DeadLetter and Refused as by `hounsfield`.
    """
    bits, signed = _stored_bits(file)
    slope, intercept = (frame.rescale if frame else None) or _own_rescale(file) or (1.0, 0.0)
    raw = _raw(file, out.size, frame.number if frame else 0, signed=signed).reshape(out.shape)
    np.multiply(_without_spare_bits(raw, bits), slope * factor, dtype=np.float64, out=out, casting="same_kind")
    out += np.float32(intercept * factor)
    _fill_padding(file, raw, out, signed=signed, fill=PADDING)


def _stored_bits(file: Part10) -> tuple[int, bool]:
    bits, signed = file.short("BitsStored") or 0, file.short("PixelRepresentation")
    if (
        not 1 <= bits <= 16
        or signed not in {0, 1}
        or [file.short(keyword) for keyword in ("BitsAllocated", "HighBit", "SamplesPerPixel")] != [16, bits - 1, 1]
        or file.text("PhotometricInterpretation") != "MONOCHROME2"
    ):
        raise DeadLetter(
            "unsupported-pixels",
            "a slice of CT, MR or PET must hold 16 bit MONOCHROME2 pixels (PS3.3, C.8); send the original",
        )
    return bits, signed == 1


def _rescale(file: Part10, frame: Frame | None) -> tuple[float, float]:
    if frame is not None and frame.rescale is not None and frame.rescale[0]:
        return frame.rescale
    own = _own_rescale(file)
    if own is None or file.text("RescaleType") not in {"HU", ""}:
        raise DeadLetter(
            "no-hounsfield", "the slices have no rescale to Hounsfield units; send the original CT series"
        )
    return own


def _own_rescale(file: Part10) -> tuple[float, float] | None:
    slope, intercept = file.numbers("RescaleSlope"), file.numbers("RescaleIntercept")
    return (slope[0], intercept[0]) if len(slope) == len(intercept) == 1 and slope[0] else None


def _raw(file: Part10, count: int, frame: int, *, signed: bool) -> NDArray[Any]:
    """Return a frame's `count` stored values, 16 bit in native order; a view of a file that is not compressed."""
    kind = np.dtype(np.int16 if signed else np.uint16)
    syntax, pixels = file.transfer_syntax, file.pixels
    if pixels and not syntax.is_compressed:
        written = kind.newbyteorder("<" if syntax.is_little_endian else ">")
        start = pixels.value + frame * count * kind.itemsize
        return np.frombuffer(file.data, written, count, start).astype(kind, copy=False)
    kind_told, data = sandbox().call("frames", file.path, frame, 1, answer=tuple[str, bytes])
    return np.frombuffer(data, np.dtype(kind_told)).astype(kind, copy=False)


def _without_spare_bits(raw: NDArray[Any], bits: int) -> NDArray[Any]:
    """Clear what lies above BitsStored (old scanners kept overlays there), extending the sign."""
    spare = 16 - bits
    if not spare:
        return raw
    if raw.dtype == np.uint16:
        return raw & np.uint16(2**bits - 1)
    return (raw << spare) >> spare


def _fill_padding(file: Part10, raw: NDArray[Any], out: NDArray[Any], *, signed: bool, fill: float) -> None:
    """Set pixels that hold PixelPaddingValue, or lie between it and its range limit (PS3.3, C.7.5.1.1.2)."""
    padding = file.short("PixelPaddingValue", signed=signed)
    if padding is None:
        return
    limit = file.short("PixelPaddingRangeLimit", signed=signed)
    low, high = sorted((padding, padding if limit is None else limit))
    np.putmask(out, raw == low if low == high else (raw >= low) & (raw <= high), fill)

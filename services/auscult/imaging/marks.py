"""What tells the stacks of one series apart: kernel, echo, phase, b-value and the like (PS3.3, C.8.3, C.8.13).

An enhanced image says them frame by frame in its functional groups, a single slice in the data set itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

from pydicom.dataset import Dataset

from auscult.imaging.part10 import Part10

_NO_GROUP = Dataset()


@dataclass(frozen=True, slots=True)
class Marks:
    """Each as the slice says it; empty where it says nothing. Slices of one stack have all of them in common."""

    kernel: str = ""
    """ConvolutionKernel."""
    echo: str = ""
    """EchoNumbers, or the enhanced frame's effective echo time."""
    component: str = ""
    """Of MR: what the pixels are, such as magnitude, phase, water or fat: ImageType from its third value on."""
    echo_time: str = ""
    b_value: str = ""
    """DiffusionBValue in s/mm2, or what Siemens, GE or Philips have in its place."""
    gradient: str = ""
    """DiffusionGradientOrientation."""
    acquisition: str = ""
    """AcquisitionNumber."""
    phase: str = ""
    """TemporalPositionIdentifier, or the enhanced frame's TemporalPositionIndex."""
    trigger: str = ""
    """TriggerTime in ms after the R wave."""
    inversion: str = ""
    """InversionTime in ms."""

    @classmethod
    def of(cls, file: Part10) -> Marks:
        """Read a single slice's."""
        found = cls(
            kernel=file.text("ConvolutionKernel"),
            echo=file.text("EchoNumbers"),
            acquisition=file.text("AcquisitionNumber"),
            phase=file.text("TemporalPositionIdentifier"),
        )
        if file.text("Modality") != "MR":
            return found
        return cls(
            echo=found.echo,
            acquisition=found.acquisition,
            phase=found.phase,
            component="\\".join(file.texts("ImageType")[2:]),
            echo_time=_number(file.text("EchoTime")),
            b_value=_doubles(file, "DiffusionBValue") or _own_b_value(file),
            gradient=_doubles(file, "DiffusionGradientOrientation"),
            trigger=_number(file.text("TriggerTime")),
            inversion=_number(file.text("InversionTime")),
        )

    @classmethod
    def of_frame(cls, own: Dataset, shared: Dataset) -> Marks:
        """Read an enhanced frame's, from the functional groups of its own and those that all share."""

        def said(group: str, keyword: str, *, within: str = "") -> str:
            items = own.get(group) or shared.get(group) or (_NO_GROUP,)
            item = next(iter(items[0].get(within) or ()), _NO_GROUP) if within else items[0]
            value = item.get(keyword)
            if value is None:
                return ""
            listed = [value] if isinstance(value, str | int | float) else list(value)
            return "\\".join(_number(str(each)) for each in listed)

        return cls(
            kernel=said("CTReconstructionSequence", "ConvolutionKernel"),
            component="\\".join(
                filter(
                    None,
                    (
                        *(said("MRImageFrameTypeSequence", "FrameType").split("\\")[2:]),
                        said("MRImageFrameTypeSequence", "ComplexImageComponent"),
                    ),
                )
            ),
            echo_time=said("MREchoSequence", "EffectiveEchoTime"),
            b_value=said("MRDiffusionSequence", "DiffusionBValue"),
            gradient=said(
                "MRDiffusionSequence",
                "DiffusionGradientOrientation",
                within="DiffusionGradientDirectionSequence",
            ),
            acquisition=said("FrameContentSequence", "FrameAcquisitionNumber"),
            phase=said("FrameContentSequence", "TemporalPositionIndex"),
            trigger=said("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
            inversion=said("MRModifierSequence", "InversionTimes"),
        )


NO_MARKS = Marks()
UNTANGLING = tuple(field.name for field in fields(Marks) if field.name not in {"kernel", "echo", "component"})
"""What may take slices apart that lie on each other, the likeliest first; kernel, echo and component always do."""


def _number(text: str) -> str:
    """Return a number in one form, whatever digits it was written with; any other text as it is."""
    try:
        return f"{float(text):.6g}"
    except ValueError:
        return text


def _doubles(file: Part10, keyword: str) -> str:
    """Return the values of an FD attribute; nothing where it holds something else."""
    raw = file.raw(keyword)
    order = "<" if file.transfer_syntax.is_little_endian else ">"
    if len(raw) % 8:
        return ""
    return "\\".join(f"{value:.6g}" for value in struct.unpack(f"{order}{len(raw) // 8}d", raw))


def _own_b_value(file: Part10) -> str:
    """Return the b-value that scanners of Siemens, GE and Philips keep in private elements; empty where none do."""
    if siemens := file.private(b"SIEMENS MR HEADER", 0x0019, 0x0C):
        return _number(siemens.decode("ascii", "replace").strip("\0 "))
    if ge := file.private(b"GEMS_PARM_01", 0x0043, 0x39):
        # Some releases add a billion to it.
        first = ge.split(b"\\")[0].strip(b"\0 ")
        return str(int(first) % 100_000) if first.isdigit() else ""
    philips = file.private(b"Philips Imaging DD 001", 0x2001, 0x03)
    order = "<" if file.transfer_syntax.is_little_endian else ">"
    return f"{struct.unpack(f'{order}f', philips)[0]:.6g}" if len(philips) == 4 else ""

"""What a source of volumes declares of its sliding window, as parameters of `config.pbtxt`.

The keys are those that `inference/sliding_window.py` reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from auscult.models.importing.source import CannotImport

PREFIX = "sliding_window."
LARGEST_BATCH = 4
"""Patches in one run: more do not make a CPU faster, and take memory."""


def number(value: float) -> str:
    """Return a number as it is written in the configuration."""
    return f"{float(value):.9g}"


def numbers(values: Sequence[float]) -> str:
    """Return one number a axis."""
    return ",".join(number(value) for value in values)


def orientation(codes: str, where: str) -> str:
    """Return the axis codes; CannotImport where they are missing or wrong."""
    if not codes:
        raise CannotImport(
            "orientation-unknown",
            f"{where} does not say how its images lie, and left and right must not be guessed: pass --orientation "
            "with the axis codes of the arrays it was trained on, e.g. SPL for DICOM series as SimpleITK reads them, "
            "RAS for NIfTI brought to RAS and read with nibabel",
        )
    if not re.fullmatch("[RLAPSI]{3}", codes) or len({"RLAPSI".index(code) // 2 for code in codes}) != 3:
        raise CannotImport(
            "orientation-wrong", f"--orientation {codes}: three axis codes are needed, e.g. SPL or RAS"
        )
    return codes


def parameters(declared: dict[str, str]) -> dict[str, str]:
    """Return them as parameters."""
    return {f"{PREFIX}{key}": value for key, value in declared.items()}

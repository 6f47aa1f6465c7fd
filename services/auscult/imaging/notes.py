"""Small durable texts beside the images: what is known of a study before, or besides, its instances."""

from __future__ import annotations

import re

from auscult.imaging.part10 import CANNOT_UNDERSTAND
from auscult.platform.errors import Refused

LARGEST = 4 * 2**20
"""Bytes of one note: a step of ten thousand instances has one million."""

_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,127}/)*[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def of_study(study_uid: str, name: str = "") -> str:
    """Return the name of a note that is erased with its study, or of the folder of all of them."""
    return f"studies/{study_uid}/{name}".rstrip("/")


def kept_with(study_uid: str, name: str = "") -> str:
    """Return the name of a note about what was done with a study's images, which is erased with it, too."""
    return f"kept/{study_uid}/{name}".rstrip("/")


def checked(name: str) -> str:
    """Return `name`; Refused (`invalid-uid`) where it cannot be part of a path."""
    if not _NAME.fullmatch(name):
        raise Refused("invalid-uid", "a name cannot be part of a path; see PS3.5, 9.1", status=CANNOT_UNDERSTAND)
    return name

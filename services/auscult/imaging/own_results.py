"""Tells what this product itself wrote: a PACS forwards it with the study, and it is no news about the patient."""

from __future__ import annotations

import uuid

from auscult.domain.identity import NAMESPACE, dicom_uid
from auscult.imaging.part10 import Part10

MANUFACTURER = "Auscult"
"""Manufacturer and model name of what is written here."""
CREATOR = dicom_uid(uuid.uuid5(NAMESPACE, "instance creator"))
"""Instance Creator UID (PS3.3, C.12.1.1) of every result that is sent to a PACS."""


def is_own_result(file: Part10) -> bool:
    """Whether a file is a result that we sent to a PACS.

    Who changes one, such as a clinician who corrects an outline, makes an instance of their own creation.
    """
    return file.raw("InstanceCreatorUID").strip(b"\0 ") == CREATOR.encode()

"""One identity for a result: a resend is the same object.

`UUIDv5(tenant | StudyInstanceUID | digest of the sorted SOP Instance UIDs | pathway | model | version | output)`.
FHIR ids are that UUID; DICOM UIDs are `2.25.<UUID as integer>` (DICOM PS3.5, B.2).
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable

NAMESPACE = uuid.UUID("7f0c4a52-6d1c-5f0e-9a3b-2b1d0e7c8a41")
"""The UUIDv5 namespace of every Auscult result. Changing it would give each result a second identity."""

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


def is_uid(text: str) -> bool:
    """Whether `text` is a DICOM UID (PS3.5, 9.1): digits and dots, at most 64 characters, no leading zero.

    Nothing else may become part of a path or a URL.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def sop_digest(sop_instance_uids: Iterable[str]) -> str:
    """SHA-256, in hex, of the sorted distinct SOP Instance UIDs: names one version of a study's contents."""
    return hashlib.sha256("\n".join(sorted(set(sop_instance_uids))).encode()).hexdigest()


def result_uuid(
    *, tenant: str, study_uid: str, digest: str, pathway: str, model: str, version: str, output: str
) -> uuid.UUID:
    """Return the identity of one output of one model on one version of a study.

    Parts are joined by `|`, which none of them may contain (ValueError), so that two different
    tuples never give the same text.
    """
    parts = (tenant, study_uid, digest, pathway, model, version, output)
    if any("|" in part for part in parts):
        raise ValueError("a part of a result's identity may not contain '|'")
    return uuid.uuid5(NAMESPACE, "|".join(parts))


def dicom_uid(identity: uuid.UUID) -> str:
    """Return the DICOM UID that stands for `identity`."""
    return f"2.25.{identity.int}"


def pseudonym(*parts: str) -> str:
    """Return 12 hex digits that stand for an identifier in logs, traces and metrics, where it may not appear."""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:12]

"""What replaces an identity: derived from a secret key, so that one export fits the next, and nobody else's."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import uuid
from datetime import date, timedelta
from pathlib import Path

from auscult.platform.errors import RefuseToStart

KEY_BYTES = 32
LONGEST_SHIFT = 3650
"""Days. Every date of a patient moves back by the same number, between one and this."""


def read_key(path: Path) -> bytes:
    """Return the secret key in `path`; a new one is made there where the file does not exist.

    Whoever has the key can tell which original a pseudonym stands for: it stays at the site.
    """
    try:
        if not path.exists():
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(os.urandom(KEY_BYTES))
        key = path.read_bytes()
    except OSError as problem:
        raise RefuseToStart("key-unusable", f"the key file cannot be used: {problem.strerror}") from None
    if len(key) != KEY_BYTES:
        raise RefuseToStart("key-unusable", f"the key file must hold {KEY_BYTES} bytes that this command wrote")
    return key


class Pseudonyms:
    """Replacements for the identifiers of one patient. `patient`: any stable name of them at this site."""

    def __init__(self, key: bytes, patient: str) -> None:
        self._key = key
        self._patient = patient

    @property
    def patient(self) -> str:
        """The patient's pseudonym, fit for PatientID and for file names."""
        return f"P{self._digest('patient', self._patient).hex()[:12].upper()}"

    @property
    def shift(self) -> timedelta:
        """How far this patient's dates move; whole days, so that times of day and intervals stay."""
        number = int.from_bytes(self._digest("shift", self._patient)[:8])
        return timedelta(days=-1 - number % LONGEST_SHIFT)

    def uid(self, original: str) -> str:
        """Return the UID that stands for `original` everywhere (PS3.5, B.2)."""
        return f"2.25.{self._uuid('uid', original).int}"

    def fhir_id(self, resource_type: str, original: str) -> str:
        """Return the id that stands for `resource_type`/`original`."""
        return str(self._uuid("fhir", f"{resource_type}/{original}"))

    def dicom_date(self, value: str) -> str:
        """Return a DA, or the date part of a DT, moved; empty where it is no date. Ranges are none."""
        found = re.fullmatch(r"(\d{4})(\d{2})(\d{2})(.*)", value.strip())
        if not found:
            return ""
        moved = self._moved(*found.group(1, 2, 3))
        return f"{moved:%Y%m%d}{found[4]}" if moved else ""

    def fhir_date(self, value: str) -> str | None:
        """Return a date, dateTime or instant, moved; None where it is no full date, as a year alone cannot move."""
        found = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})(T.*)?", value)
        moved = self._moved(*found.group(1, 2, 3)) if found else None
        return f"{moved.isoformat()}{found[4] or ''}" if found and moved else None

    def _moved(self, year: str, month: str, day: str) -> date | None:
        try:
            return date(int(year), int(month), int(day)) + self.shift
        except (ValueError, OverflowError):
            return None

    def _uuid(self, kind: str, original: str) -> uuid.UUID:
        return uuid.UUID(bytes=self._digest(kind, original)[:16], version=5)

    def _digest(self, kind: str, original: str) -> bytes:
        return hmac.digest(self._key, f"{kind}|{original}".encode(), hashlib.sha256)

"""How many instances a study has, as the PACS knows it (QIDO-RS: PS3.18, 10.6)."""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any

import httpx

from auscult.platform.settings import Settings

PATIENCE = 1.0
"""Seconds for the PACS's answer: a study that is whole does not wait longer for it."""
AWAY = 30.0
"""Seconds for which a PACS that did not answer is left alone."""
COUNT = "00201208"
"""NumberOfStudyRelatedInstances."""

_log = logging.getLogger(__name__)


class Expected:
    """Asks the PACS of `AUSCULT_PACS_URL`, where it speaks DICOMweb. Used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: httpx.Client | None = None
        self._next = 0.0

    def count(self, study_uid: str) -> int | None:
        """Return how many instances the study has; None where the PACS does not say."""
        if not self._settings.pacs_url.startswith("http") or time.monotonic() < self._next:
            return None
        query = {"StudyInstanceUID": study_uid, "includefield": COUNT}
        headers = {"Accept": "application/dicom+json"}
        try:
            if self._settings.pacs_authorization_file:
                headers["Authorization"] = self._settings.pacs_authorization_file.read_text().strip()
            url = f"{self._settings.pacs_url.rstrip('/')}/studies"
            answer = self._open().get(url, params=query, headers=headers)
            found: list[Any] = (
                answer.raise_for_status().json() if answer.status_code != httpx.codes.NO_CONTENT else []
            )
            return int(found[0][COUNT]["Value"][0]) if len(found) == 1 else None
        except (httpx.HTTPError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            self._next = time.monotonic() + AWAY
            _log.warning("the PACS does not say how many instances a study has (%s)", type(error).__name__)
            return None

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self) -> httpx.Client:
        if self._client is None:
            settings = self._settings
            trusted = ssl.create_default_context(cafile=settings.pacs_tls_ca)
            if settings.pacs_tls_cert:
                trusted.load_cert_chain(settings.pacs_tls_cert, settings.pacs_tls_key)
            self._client = httpx.Client(timeout=PATIENCE, verify=trusted, trust_env=False)
        return self._client

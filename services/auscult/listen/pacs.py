"""The PACS as a source: how many instances a study has, earlier studies, and a study's instances.

By DICOMweb, or by DIMSE where AUSCULT_PACS_URL is a `dicom:` address (`listen.pacs_dimse`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from contextlib import closing
from datetime import date, timedelta
from typing import Any

import httpx

from auscult.imaging.spool import Spool
from auscult.imaging.store import ImageStore
from auscult.listen import pacs_dimse
from auscult.listen.multipart import boundary, parts
from auscult.listen.reception import Reception, as_file
from auscult.platform.certificates import cause
from auscult.platform.errors import Refused, RefuseToStart, Retry
from auscult.platform.settings import Settings

PATIENCE = 1.0
"""Seconds for the count of a study's instances: a study that is whole does not wait longer for it."""
AWAY = 30.0
"""Seconds for which a PACS that did not answer is left alone."""
COUNT = "00201208"
"""NumberOfStudyRelatedInstances."""

_log = logging.getLogger(__name__)


class Expected:
    """Says how many instances a study has, as the PACS knows it (QIDO-RS or C-FIND). Used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: httpx.Client | None = None
        self._next = 0.0

    def count(self, study_uid: str) -> int | None:
        """Return how many instances the study has; None where the PACS does not say."""
        if not self._settings.pacs_url or time.monotonic() < self._next:
            return None
        try:
            if _speaks_dimse(self._settings):
                return pacs_dimse.count(self._settings, study_uid, PATIENCE)
            if self._client is None:
                self._client = httpx.Client(**_options(self._settings, PATIENCE))
            found = _search(self._client, self._settings, {"StudyInstanceUID": study_uid, "includefield": COUNT})
            return int(found[0][COUNT]["Value"][0]) if len(found) == 1 else None
        except (httpx.HTTPError, Retry, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            self._next = time.monotonic() + AWAY
            _log.warning("the PACS does not say how many instances a study has (%s)", cause(error))
            return None

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None


def priors(settings: Settings, patient_id: str, modality: str, before: date) -> list[str]:
    """Return a patient's earlier studies with images of `modality`, the newest first. Retry (`pacs-unavailable`)."""
    query = {
        "PatientID": patient_id,
        "ModalitiesInStudy": modality,
        "StudyDate": f"-{before - timedelta(days=1):%Y%m%d}",
    }
    if _speaks_dimse(settings):
        answers = pacs_dimse.find(settings, "STUDY", {**query, "StudyInstanceUID": ""}, settings.pacs_timeout)
        # ModalitiesInStudy is an optional key: a PACS that does not have it matches all.
        theirs = [each for each in answers if modality in each["ModalitiesInStudy"] or not each["ModalitiesInStudy"]]
        return [each["StudyInstanceUID"] for each in sorted(theirs, key=lambda it: it["StudyDate"], reverse=True)]
    query["includefield"] = "00080020"
    try:
        with httpx.Client(**_options(settings, settings.pacs_timeout)) as client:
            found = _search(client, settings, query)
        dated = [(each["00080020"]["Value"][0], each["0020000D"]["Value"][0]) for each in found]
    except (httpx.HTTPError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _unavailable(error) from None
    return [uid for _, uid in sorted(dated, reverse=True)]


async def fetch(settings: Settings, store: ImageStore, reception: Reception, study_uid: str) -> tuple[int, int]:
    """Take all instances of a study that the PACS has, as if they were sent; then end `reception`.

    By WADO-RS, C-GET or C-MOVE. Returns how many were taken and how many refused. Retry (`pacs-unavailable`): what
    came until then is kept.
    """
    if _speaks_dimse(settings):
        return await asyncio.to_thread(pacs_dimse.fetch, settings, reception, study_uid)
    taken = refused = 0
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*', **_authorization(settings)}
    spool = Spool(store, settings.max_object_bytes)
    whole = False
    try:
        async with (
            httpx.AsyncClient(**_options(settings, settings.pacs_timeout)) as client,
            client.stream("GET", f"{_url(settings)}/{study_uid}", headers=accept) as answer,
        ):
            mark = boundary(answer.raise_for_status().headers.get("content-type", ""))
            async for piece in parts(answer.aiter_bytes(), mark):
                if piece is not None:
                    spool.write(piece)
                    continue
                problem = reception.take(as_file(spool), study_uid=study_uid).problem
                taken, refused = taken + (problem is None), refused + (problem is not None)
                spool = Spool(store, settings.max_object_bytes)
        whole = True
    except (httpx.HTTPError, OSError, Refused) as error:
        raise _unavailable(error) from None
    finally:
        with closing(spool):
            reception.end(aborted=not whole)
    return taken, refused


def _speaks_dimse(settings: Settings) -> bool:
    return settings.pacs_url.startswith("dicom")


def _search(client: httpx.Client, settings: Settings, query: dict[str, str]) -> list[Any]:
    headers = {"Accept": "application/dicom+json", **_authorization(settings)}
    answer = client.get(_url(settings), params=query, headers=headers).raise_for_status()
    found: list[Any] = answer.json() if answer.content else []
    return found


def _url(settings: Settings) -> str:
    if not settings.pacs_url.startswith("http"):
        raise RefuseToStart("no-pacs", "set AUSCULT_PACS_URL to the PACS's DICOMweb or dicom: address")
    return f"{settings.pacs_url.rstrip('/')}/studies"


def _authorization(settings: Settings) -> dict[str, str]:
    file = settings.pacs_authorization_file
    return {"Authorization": file.read_text().strip()} if file else {}


def _options(settings: Settings, timeout: float) -> dict[str, Any]:
    trusted = ssl.create_default_context(cafile=settings.pacs_tls_ca)
    trusted.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.pacs_tls_cert:
        trusted.load_cert_chain(settings.pacs_tls_cert, settings.pacs_tls_key)
    return {"timeout": timeout, "verify": trusted, "trust_env": False}


def _unavailable(error: Exception) -> Retry:
    # The text of the error has the address, which has identifiers.
    return Retry("pacs-unavailable", f"the PACS does not answer as DICOMweb does ({cause(error)})")

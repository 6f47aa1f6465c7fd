"""A PACS that speaks DICOMweb (PS3.18): STOW-RS to store, QIDO-RS to ask, WADO-RS to read back.

No error's text has a URL, a query or a body in it: they name the study, and may name the patient.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from email.parser import BytesParser
from email.policy import HTTP
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from opentelemetry.trace import SpanKind
from pydicom import dcmread
from pydicom.dataset import Dataset

from auscult.domain.deadline import Deadline
from auscult.platform import telemetry
from auscult.platform.certificates import cause
from auscult.platform.errors import DeadLetter, RefuseToStart, Retry
from auscult.platform.settings import Settings
from auscult.publish.fhir.answers import seconds
from auscult.publish.pacs.archive import failed, missing, tls, unavailable

JSON_FORMAT = "application/dicom+json"
PART10 = "application/dicom"
FAILED_SOP_SEQUENCE, FAILURE_REASON = "00081198", "00081197"
TRANSIENT = frozenset({408, 425, 429})
NOT_OFFERED = frozenset({400, 404, 405, 406, 415, 501})
"""Answers to a query of a server that has no such query, or nothing to answer it with."""


class DicomWeb:
    """One DICOMweb server. Threads may share it."""

    def __init__(self, settings: Settings, *, transport: httpx.BaseTransport | None = None) -> None:
        place = urlsplit(settings.pacs_url)
        if not place.hostname or place.query or place.fragment or place.username:
            raise RefuseToStart(
                "pacs-url-invalid", "AUSCULT_PACS_URL needs the form https://host[:port]/path, without user and query"
            )
        self._base = settings.pacs_url.rstrip("/")
        self._timeout = settings.pacs_timeout
        self._authorization = settings.pacs_authorization_file
        trust = tls(settings) if place.scheme == "https" and transport is None else True
        self._http = httpx.Client(transport=transport, verify=trust, follow_redirects=False)

    def held(self, study_uid: str, instances: Collection[str], deadline: Deadline) -> set[str]:
        """Ask for each instance by QIDO-RS."""
        found = set()
        for uid in instances:
            url = f"{self._base}/studies/{study_uid}/instances?SOPInstanceUID={uid}"
            answer = self._request("QIDO-RS", "GET", url, deadline, {"Accept": JSON_FORMAT}, allowed=NOT_OFFERED)
            if answer.status_code == 200 and answer.content.strip() not in {b"", b"[]"}:
                found.add(uid)
        return found

    def store(self, datasets: Sequence[Dataset], deadline: Deadline) -> None:
        """Send all in one STOW-RS request."""
        boundary = uuid.uuid4().hex
        parts: list[bytes] = []
        for dataset in datasets:
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            parts += [f"\r\n--{boundary}\r\nContent-Type: {PART10}\r\n\r\n".encode(), buffer.getvalue()]
        parts.append(f"\r\n--{boundary}--\r\n".encode())
        headers = {
            "Accept": JSON_FORMAT,
            "Content-Type": f'multipart/related; type="{PART10}"; boundary={boundary}',
            # The length is known: not every server reads chunks.
            "Content-Length": str(sum(map(len, parts))),
        }
        url = f"{self._base}/studies/{datasets[0].StudyInstanceUID}"
        answer = self._request("STOW-RS", "POST", url, deadline, headers, parts=parts, allowed=frozenset({409}))
        reasons = _failure_reasons(answer.content)
        for reason in reasons:
            if problem := failed(reason):
                raise problem
        if answer.status_code == 409 and not reasons:
            raise DeadLetter(
                "pacs-refused", "the PACS refused the objects (409) and gave no reason; its log says why"
            )

    def retrieve(self, dataset: Dataset, deadline: Deadline) -> Dataset | None:
        """Read an instance by WADO-RS."""
        url = (
            f"{self._base}/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
            f"/instances/{dataset.SOPInstanceUID}"
        )
        accept = {"Accept": f'multipart/related; type="{PART10}"; transfer-syntax=*'}
        answer = self._request("WADO-RS", "GET", url, deadline, accept, allowed=frozenset({404, 405, 501}))
        if answer.status_code == 404:
            raise missing("WADO-RS")
        if not answer.is_success:
            return None
        head = f"Content-Type: {answer.headers.get('Content-Type', '')}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + answer.content)
        part = next(iter(message.iter_parts()), message)
        try:
            return dcmread(BytesIO(_payload(part)))
        except Exception:  # noqa: BLE001 - whatever it is, it is not the object
            raise Retry(
                "pacs-malformed", "the PACS answered WADO-RS with something that is no DICOM object"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _request(
        self,
        service: str,
        method: str,
        url: str,
        deadline: Deadline,
        headers: dict[str, str],
        *,
        parts: Sequence[bytes] | None = None,
        allowed: frozenset[int] = frozenset(),
    ) -> httpx.Response:
        with telemetry.span(service, kind=SpanKind.CLIENT, **{"http.request.method": method}) as span:
            budget = min(self._timeout, deadline.remaining)
            if budget <= 0:
                raise unavailable(service, "no time was left")
            content = iter(parts) if parts is not None else None
            with _named(service):
                answer = self._http.request(
                    method, url, content=content, headers={**headers, **self._authorized()}, timeout=budget
                )
            status = answer.status_code
            span.set_attribute("http.response.status_code", status)
            if answer.is_success or status in allowed:
                return answer
            said = f"the PACS answered {service} with status {status}"
            if status in TRANSIENT or status >= 500:
                raise Retry("pacs-failed", said, after=seconds(answer.headers.get("Retry-After")))
            raise DeadLetter(
                "pacs-refused", f"{said}; check AUSCULT_PACS_URL and the credentials, and its log, then replay"
            )

    def _authorized(self) -> dict[str, str]:
        """Read the credentials each time: they are replaced while we run."""
        if self._authorization is None:
            return {}
        try:
            return {"Authorization": Path(self._authorization).read_text(encoding="ascii").strip()}
        except (OSError, UnicodeDecodeError) as error:
            raise Retry(
                "pacs-credentials", f"AUSCULT_PACS_AUTHORIZATION_FILE cannot be read ({type(error).__name__})"
            ) from None


@contextmanager
def _named(service: str) -> Iterator[None]:
    try:
        yield
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise unavailable(service, cause(error)) from None


def _payload(part: Any) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _failure_reasons(body: bytes) -> list[int]:
    """Return why instances were not stored (PS3.18, I.2); none where the answer says nothing of it."""
    try:
        answer = json.loads(body)
        items = answer.get(FAILED_SOP_SEQUENCE, {}).get("Value", [])
        return [int(item[FAILURE_REASON]["Value"][0]) for item in items]
    except (ValueError, AttributeError, LookupError, TypeError):
        return []

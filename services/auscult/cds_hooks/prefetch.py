"""What an EHR prefetched, and the rest from its FHIR server (CDS Hooks 2.0.1, Prefetch Template).

A key of the prefetch may be absent, null (nothing found), an OperationOutcome (3.0 ballot: it could not be read), a
resource, or a Bundle that goes on at another page. What is missing is read with the token that came with the call,
from the registered server alone, within the call's deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import httpx
import msgspec

from auscult.cds_hooks.hooks import Resource, resources
from auscult.domain.deadline import Deadline

MOST_BYTES = 4 * 2**20
"""Of one answer of the FHIR server."""
MOST_PAGES = 10
_TOKEN = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_REFERENCE = re.compile(r"[A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64}")
_USERS = {
    "userPractitionerId": "Practitioner",
    "userPractitionerRoleId": "PractitionerRole",
    "userPatientId": "Patient",
    "userRelatedPersonId": "RelatedPerson",
}
_GONE = frozenset({404, 410})


class Authorization(msgspec.Struct):
    """`fhirAuthorization`, as far as it is used. It lives as long as the call."""

    access_token: str
    patient: str | None = None
    """Whose data the token is for, where it is for one patient."""


class UnavailableError(Exception):
    """The data of a key cannot be had: `not-prefetched`, `not-readable`, `server-failed` or `server-silent`."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Data of one call, by prefetch key."""

    templates: Mapping[str, str]
    given: Mapping[str, msgspec.Raw]
    context: Mapping[str, Any]
    base: str | None = None
    """The caller's registered FHIR server, where the call named one."""
    authorization: Authorization | None = None
    http: httpx.AsyncClient | None = None

    async def resource(self, key: str, deadline: Deadline) -> Resource | None:
        """Return the first resource, None where there is none; UnavailableError where that cannot be told."""
        return next(iter(await self.resources(key, deadline)), None)

    async def resources(self, key: str, deadline: Deadline) -> list[Resource]:
        """Return all resources of a read or search with its pages; UnavailableError where they cannot be had."""
        page = await self._content(key, deadline)
        found: list[Resource] = []
        for _ in range(MOST_PAGES):
            found += resources(page)
            following = _next(page)
            if following is None:
                return found
            page = await self._read(key, self._within(key, following), deadline)
        raise UnavailableError(key, "not-readable")

    async def _content(self, key: str, deadline: Deadline) -> Any:
        """Return what was prefetched, or read it: a resource, a Bundle, a list of resources, or None."""
        if (raw := self.given.get(key)) is not None:
            try:
                content = msgspec.json.decode(raw)
            except (msgspec.DecodeError, RecursionError):
                raise UnavailableError(key, "not-readable") from None
            if content is None or (isinstance(content, dict | list) and not _is_outcome(content)):
                return content
            if _is_outcome(content):
                # The EHR tried and could not: to ask again costs time and gives the same (3.0 ballot, Prefetch).
                raise UnavailableError(key, "not-readable")
        query = resolve(self.templates[key], self.context)
        if self.base is None or query is None:
            raise UnavailableError(key, "not-prefetched")
        return await self._read(key, f"{self.base}/{query}", deadline, one="?" not in query)

    def _within(self, key: str, link: str) -> str:
        """Return a link to a next page; UnavailableError where it leaves the registered server's base."""
        base = str(self.base)
        url = urljoin(f"{base}/", link)
        here, there = urlsplit(base), urlsplit(url)
        path = unquote(there.path)
        inside = (path.rstrip("/") + "/").startswith(here.path.rstrip("/") + "/") and ".." not in path
        if self.base is None or (here.scheme, here.netloc) != (there.scheme, there.netloc) or not inside:
            raise UnavailableError(key, "not-readable")
        return url

    async def _read(self, key: str, url: str, deadline: Deadline, *, one: bool = False) -> Any:
        """Read a search or its page, or `one` resource, which may not be there."""
        if self.http is None:
            raise UnavailableError(key, "not-prefetched")
        headers = {"accept": "application/fhir+json"}
        if self.authorization:
            headers["authorization"] = f"Bearer {self.authorization.access_token}"
        body = bytearray()
        try:
            # The whole of it: httpx counts each step anew.
            async with (
                asyncio.timeout(deadline.remaining),
                self.http.stream("GET", url, headers=headers, timeout=None) as answer,
            ):
                if answer.status_code in _GONE and one:
                    return None
                if answer.status_code != httpx.codes.OK:
                    raise UnavailableError(key, "server-failed")
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise UnavailableError(key, "server-failed")
            content = msgspec.json.decode(body)
        except TimeoutError:
            raise UnavailableError(key, "server-silent") from None
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError, RecursionError, ValueError):
            raise UnavailableError(key, "server-failed") from None
        if not isinstance(content, dict) or _is_outcome(content) or "resourceType" not in content:
            raise UnavailableError(key, "server-failed")
        return content


def resolve(template: str, context: Mapping[str, Any]) -> str | None:
    """Fill a prefetch template; None where a token has no value, so that the query means nothing."""
    values = {token: _value(token, context) for token in _TOKEN.findall(template)}
    if None in values.values():
        return None
    return _TOKEN.sub(lambda token: str(values[token[1]]), template)


def _value(token: str, context: Mapping[str, Any]) -> str | None:
    """Return a token's value as it may stand in a URL; None where there is none, or it would lead elsewhere."""
    if token == "today()":  # noqa: S105
        return f"{datetime.now(UTC):%Y-%m-%d}"
    if token in _USERS:
        kind, _, found = str(context.get("userId", "")).partition("/")
        value: Any = found if kind == _USERS[token] else None
    else:
        value = context.get(token.removeprefix("context.")) if token.startswith("context.") else None
    if not isinstance(value, str | int) or isinstance(value, bool):
        return None
    if token == "context.patientId":  # noqa: S105
        # EHRs send `Patient/42` for 42, and templates already say `Patient/`.
        value = str(value).removeprefix("Patient/")
    text = str(value)
    if text.rpartition("/")[2] in {"", ".", ".."}:
        return None
    return text if _REFERENCE.fullmatch(text) else quote(text, safe="")


def _is_outcome(content: object) -> bool:
    return isinstance(content, dict) and content.get("resourceType") == "OperationOutcome"


def _next(page: Any) -> str | None:
    links = page.get("link") if isinstance(page, dict) and page.get("resourceType") == "Bundle" else None
    return next(
        (
            str(link["url"])
            for link in (links if isinstance(links, list) else [])
            if isinstance(link, dict) and link.get("relation") == "next" and link.get("url")
        ),
        None,
    )

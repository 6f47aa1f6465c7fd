"""What an EHR prefetched, and the rest from its FHIR server (CDS Hooks 2.0.1, Prefetch Template).

A key of the prefetch may be absent, null (nothing found), an OperationOutcome (it could not be read), a resource, or
a Bundle that goes on at another page. What is missing is read with the token that came with the call, from the
registered server alone, within the call's deadline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from auscult.domain.deadline import Deadline

Resource = dict[str, Any]
T = TypeVar("T")

MOST_BYTES = 4 * 2**20
"""Of one answer of the FHIR server."""
MOST_PAGES = 10
_TOKEN = re.compile(r"\{\{\s*([A-Za-z.]+)\s*\}\}")
_USERS = {
    "userPractitionerId": "Practitioner",
    "userPractitionerRoleId": "PractitionerRole",
    "userPatientId": "Patient",
    "userRelatedPersonId": "RelatedPerson",
}


class Authorization(msgspec.Struct):
    """`fhirAuthorization`, as far as it is used. It lives as long as the call."""

    access_token: str
    patient: str | None = None
    """Whose data the token is for, where it is for one patient."""


class UnavailableError(Exception):
    """The data of a key cannot be had. `reason`: `not-prefetched`, `not-readable` or `server-failed`."""

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
        """Return the resource, None where the EHR looked and found none; UnavailableError where it cannot be had."""
        found = await self._content(key, deadline)
        return None if found is None or found.get("resourceType") == "Bundle" else found

    async def resources(self, key: str, deadline: Deadline) -> list[Resource]:
        """Return all resources of a search, following its pages; UnavailableError where they cannot be had."""
        page = await self._content(key, deadline)
        found: list[Resource] = []
        for _ in range(MOST_PAGES):
            if page is None:
                return found
            if page.get("resourceType") != "Bundle":
                return [*found, page]
            entries = page.get("entry") or []
            found += [
                entry["resource"]
                for entry in entries
                if isinstance(entry, dict)
                and isinstance(entry.get("resource"), dict)
                and entry["resource"].get("resourceType") != "OperationOutcome"
            ]
            following = _next(page)
            if following is None:
                return found
            page = await self._read(key, self._within(key, following), deadline)
        raise UnavailableError(key, "not-readable")

    async def _content(self, key: str, deadline: Deadline) -> Resource | None:
        raw = self.given.get(key)
        if raw is not None:
            try:
                content = msgspec.json.decode(raw)
            except (msgspec.DecodeError, RecursionError):
                raise UnavailableError(key, "not-readable") from None
            if content is None:
                return None
            if isinstance(content, dict) and content.get("resourceType") != "OperationOutcome":
                return content
        if self.base is None or self.http is None:
            raise UnavailableError(key, "not-prefetched" if raw is None else "not-readable")
        query = resolve(self.templates[key], self.context)
        if query is None:
            raise UnavailableError(key, "not-prefetched")
        return await self._read(key, f"{self.base}/{query}", deadline)

    def _within(self, key: str, link: str) -> str:
        """Return a link to a next page; UnavailableError where it leaves the registered server."""
        base = str(self.base)
        url = link if "://" in link else f"{base}/{link.lstrip('/')}"
        here, there = urlsplit(base), urlsplit(url)
        if self.base is None or (here.scheme, here.netloc) != (there.scheme, there.netloc):
            raise UnavailableError(key, "not-readable")
        return url

    async def _read(self, key: str, url: str, deadline: Deadline) -> Resource | None:
        if self.http is None:
            raise UnavailableError(key, "not-prefetched")
        headers = {"accept": "application/fhir+json"}
        if self.authorization:
            headers["authorization"] = f"Bearer {self.authorization.access_token}"
        body = bytearray()
        try:
            async with self.http.stream(
                "GET", url, headers=headers, timeout=max(0.001, deadline.remaining)
            ) as answer:
                if answer.status_code in {404, 410}:
                    return None
                if answer.status_code != httpx.codes.OK:
                    raise UnavailableError(key, "server-failed")
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise UnavailableError(key, "server-failed")
            content = msgspec.json.decode(body)
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError, RecursionError, ValueError):
            raise UnavailableError(key, "server-failed") from None
        if not isinstance(content, dict) or content.get("resourceType") in {None, "OperationOutcome"}:
            raise UnavailableError(key, "server-failed")
        return content


def resolve(template: str, context: Mapping[str, Any]) -> str | None:
    """Fill a prefetch template; None where a token has no value, so that the query means nothing."""
    filled = template
    for token in _TOKEN.findall(template):
        value = _value(token, context)
        if value is None:
            return None
        filled = re.sub(r"\{\{\s*" + re.escape(token) + r"\s*\}\}", quote(value, safe=""), filled)
    return filled


def _value(token: str, context: Mapping[str, Any]) -> str | None:
    if token in _USERS:
        kind, _, found = str(context.get("userId", "")).partition("/")
        return found if kind == _USERS[token] and found else None
    value: Any = context.get(token.removeprefix("context."))
    if not isinstance(value, str | int) or isinstance(value, bool):
        return None
    # EHRs send `Patient/42` for 42, and the template already says `Patient/`.
    return str(value).removeprefix("Patient/") if token == "context.patientId" else str(value)  # noqa: S105


def _next(page: Resource) -> str | None:
    links = page.get("link") or []
    return next(
        (
            str(link["url"])
            for link in links
            if isinstance(link, dict) and link.get("relation") == "next" and "url" in link
        ),
        None,
    )

"""A small FHIR R4 REST client (R4 `http.html`): read, search, batch, transaction.

Every failure is one of two kinds: Retry, where the same request may succeed later, or DeadLetter. Their texts
hold the method, the resource type, the HTTP status and the OperationOutcome's issue codes, never the issue's
diagnostics, a URL's query or a body, which may name a patient. A body that is not JSON is a Retry: it is
mostly a proxy's page, and the tries are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx
import msgspec

from auscult.domain.deadline import Deadline
from auscult.platform.errors import DeadLetter, Retry
from auscult.publish.fhir.answers import Resource, entry_status, failure, is_match, issue_codes, objects
from auscult.publish.fhir.connection import Connection, Tokens

MOST_PAGES = 100
"""Of one search: more than any patient's record of one kind."""

_JSON = msgspec.json.Encoder(decimal_format="number")
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9\-.]{1,64}")
"""FHIR's ids may be dots alone, and a URL's path would lead elsewhere by them."""
_PLACE = re.compile(r"[A-Z][A-Za-z]{1,63}(/[A-Za-z0-9\-.$_]{1,80}){0,3}(\?[!-~]*)?")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_SEPARATOR = re.compile(r"[\\,$|]")
_NOT_THERE = frozenset({404, 410})


def token(system: str, value: str) -> str:
    """Return a token search value; FHIR's own separators in `value` are escaped (R4 `search.html#escaping`)."""
    escaped = _SEPARATOR.sub(r"\\\g<0>", value)
    return f"{system}|{escaped}"


def reference_id(reference: str, resource_type: str) -> str:
    """Return the id in `Type/id`; ValueError where it is anything else."""
    found_type, _, found = reference.partition("/")
    if found_type != resource_type or not _ID.fullmatch(found):
        raise ValueError(f"a reference of the form {resource_type}/<id> is needed")
    return found


class FhirClient:
    """One FHIR server. Threads may share it. `timeout`: the most seconds that any one request may take."""

    def __init__(
        self,
        base_url: str,
        timeout: float,
        *,
        tokens: Tokens | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(base_url, timeout, tokens=tokens, transport=transport)
        self.base = self._connection.base

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def read(self, resource_type: str, resource_id: str, deadline: Deadline | None = None) -> Resource | None:
        """Return a resource, or None where the server has none of that id. A deleted one is a DeadLetter (410)."""
        if not _TYPE.fullmatch(resource_type) or not _ID.fullmatch(resource_id):
            raise ValueError("a resource type and a FHIR id are needed")
        url = f"{self.base}/{resource_type}/{resource_id}"
        status, body = self._connection.request("GET", resource_type, url, deadline, allowed=frozenset({404}))
        return None if status == 404 else body

    def search(
        self, resource_type: str, parameters: Mapping[str, str], deadline: Deadline | None = None
    ) -> list[Resource]:
        """Return all matches of a search, following its pages; DeadLetter where they have no end."""
        _, page = self._connection.request(
            "GET", resource_type, f"{self.base}/{query(resource_type, parameters)}", deadline
        )
        return list(self._pages(resource_type, page, deadline))

    def entries(self, place: str, deadline: Deadline | None = None) -> Iterator[list[Resource]]:
        """Yield the entries of a Bundle at `place`, such as `Type/_history?_since=…`, page by page.

        DeadLetter (`fhir-search-endless`) where its pages have no end.
        """
        if not _PLACE.fullmatch(place) or "/.." in place.partition("?")[0]:
            raise ValueError("a place below the FHIR server's base is needed")
        label, url = place.partition("?")[0].partition("/")[0], f"{self.base}/{place}"
        for _ in range(MOST_PAGES):
            _, page = self._connection.request("GET", label, url, deadline)
            if page.get("resourceType") != "Bundle":
                raise Retry("fhir-malformed", f"the FHIR server answered GET {label} with no Bundle")
            yield objects(page.get("entry", []))
            links = objects(page.get("link", []))
            following = next((str(link.get("url")) for link in links if link.get("relation") == "next"), None)
            if not following:
                return
            url = self._connection.own(following)
        raise DeadLetter(
            "fhir-search-endless",
            f"a search for {label} has more than {MOST_PAGES} pages; narrow what the record returns, replay",
        )

    def save(self, resource: Mapping[str, Any], deadline: Deadline | None = None) -> Resource:
        """Update a resource that has an id, create another; return what the server answered."""
        kind, identity = str(resource.get("resourceType")), resource.get("id")
        if not _TYPE.fullmatch(kind) or (identity is not None and not _ID.fullmatch(str(identity))):
            raise ValueError("a resource type and a FHIR id are needed")
        method, url = ("PUT", f"{self.base}/{kind}/{identity}") if identity else ("POST", f"{self.base}/{kind}")
        return self._connection.request(method, kind, url, deadline, content=encoded(resource), bodiless=True)[1]

    def batch(
        self, searches: Sequence[tuple[str, Mapping[str, str]]], deadline: Deadline | None = None
    ) -> list[list[Resource] | None]:
        """Return the matches of several searches, asked in one round trip.

        None stands where the server does not support that search (404, or issue code `not-supported`).
        """
        entries = self._batch([query(*search) for search in searches], deadline)
        return [
            self._batched(resource_type, entry, deadline)
            for (resource_type, _), entry in zip(searches, entries, strict=True)
        ]

    def read_all(self, places: Sequence[str], deadline: Deadline | None = None) -> list[Resource]:
        """Return what is at these `Type/id` in one round trip; what is not there, or not any more, is left out."""
        if not places:
            return []
        found = []
        for place, entry in zip(places, self._batch(places, deadline), strict=True):
            status, resource = entry_status(entry), entry.get("resource")
            if status == 200 and isinstance(resource, dict) and "resourceType" in resource:
                found.append(resource)
            elif status not in _NOT_THERE:
                raise failure("GET", place.partition("/")[0], status, (), None)
        return found

    def capabilities(self, deadline: Deadline | None = None) -> Resource:
        """Return the server's CapabilityStatement."""
        return self._connection.request("GET", "metadata", f"{self.base}/metadata", deadline)[1]

    def transaction(self, bundle: Mapping[str, Any], deadline: Deadline | None = None) -> None:
        """Write all of `bundle` or nothing. After a Retry it is not known which: send the same again."""
        content = encoded(bundle)
        _, answer = self._connection.request("POST", "transaction", self.base, deadline, content=content)
        entries = objects(answer.get("entry", []))
        if answer.get("type") != "transaction-response":
            raise Retry(
                "fhir-malformed", "the FHIR server did not answer the transaction with a transaction-response"
            )
        if len(entries) != len(bundle["entry"]) or any(entry_status(entry) // 100 != 2 for entry in entries):
            raise Retry("fhir-partial", "the FHIR server did not confirm every entry of the transaction")

    def _batch(self, urls: Sequence[str], deadline: Deadline | None) -> list[Resource]:
        asked = [{"request": {"method": "GET", "url": url}} for url in urls]
        content = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": asked}).encode()
        _, answer = self._connection.request("POST", "batch", self.base, deadline, content=content)
        entries = objects(answer.get("entry", []))
        if len(entries) != len(urls):
            raise Retry("fhir-malformed", "the FHIR server's batch answer does not have one entry for each request")
        return entries

    def _batched(self, resource_type: str, entry: Resource, deadline: Deadline | None) -> list[Resource] | None:
        status, resource = entry_status(entry), entry.get("resource")
        if status == 200 and isinstance(resource, dict):
            return list(self._pages(resource_type, resource, deadline))
        response = entry.get("response")
        codes = issue_codes(response.get("outcome") if isinstance(response, dict) else None) or issue_codes(resource)
        if status == 404 or "not-supported" in codes:
            return None
        raise failure("GET", resource_type, status, codes, None)

    def _pages(self, resource_type: str, page: Resource, deadline: Deadline | None) -> Iterator[Resource]:
        for _ in range(MOST_PAGES):
            if page.get("type") != "searchset":
                raise Retry(
                    "fhir-malformed", f"the FHIR server answered a search for {resource_type} with no searchset"
                )
            for entry in objects(page.get("entry", [])):
                resource = entry.get("resource")
                if isinstance(resource, dict) and resource.get("resourceType") == resource_type and is_match(entry):
                    yield resource
            links = objects(page.get("link", []))
            following = next((str(link.get("url")) for link in links if link.get("relation") == "next"), None)
            if not following:
                return
            _, page = self._connection.request("GET", resource_type, self._connection.own(following), deadline)
        raise DeadLetter(
            "fhir-search-endless",
            f"a search for {resource_type} has more than {MOST_PAGES} pages; narrow what the record returns, replay",
        )


def query(resource_type: str, parameters: Mapping[str, str]) -> str:
    """Return `Type?a=b`; `|` is sent as %7C, which HAPI insists on."""
    return f"{resource_type}?{urlencode(parameters, quote_via=quote, safe='')}"


def encoded(resource: Mapping[str, Any]) -> bytes:
    """Return a resource as the bytes that are sent."""
    return _JSON.encode(resource)

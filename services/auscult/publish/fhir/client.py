"""A small FHIR R4 REST client (R4 `http.html`): read, search, batch search, transaction.

Every failure is one of two kinds: Retry, where the same request may succeed later, or DeadLetter. Their texts
hold the method, the resource type, the HTTP status and the OperationOutcome's issue codes, never the issue's
diagnostics, a URL's query or a body, which may name a patient. A body that is not JSON is a Retry: it is
mostly a proxy's page, and the tries are bounded.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urljoin, urlsplit

import httpx
import msgspec
from opentelemetry.trace import SpanKind

from auscult.domain.deadline import Deadline
from auscult.platform import telemetry
from auscult.platform.errors import DeadLetter, RefuseToStart, Retry
from auscult.publish.fhir.answers import Resource, entry_status, failure, is_match, issue_codes, objects, parsed

JSON_FORMAT = "application/fhir+json"
MOST_BYTES = 64 * 2**20
"""Of one answer."""
MOST_PAGES = 100
"""Of one search: more than any patient's record of one kind."""

_JSON = msgspec.json.Encoder(decimal_format="number")
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9\-.]{1,64}")
"""FHIR's ids may be dots alone, and a URL's path would lead elsewhere by them."""
_PLACE = re.compile(r"[A-Z][A-Za-z]{1,63}(/[A-Za-z0-9\-.$_]{1,80}){0,3}(\?[!-~]*)?")
_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
_SEPARATOR = re.compile(r"[\\,$|]")


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

    def __init__(self, base_url: str, timeout: float, *, transport: httpx.BaseTransport | None = None) -> None:
        place = urlsplit(base_url)
        if place.scheme not in {"http", "https"} or not place.hostname or place.query or place.fragment:
            raise RefuseToStart(
                "fhir-base-invalid", "AUSCULT_FHIR_BASE needs the form https://host[:port]/path, without a query"
            )
        self._base = base_url.rstrip("/")
        self._timeout = timeout
        self._http = httpx.Client(
            transport=transport, follow_redirects=False, headers={"Accept": JSON_FORMAT, "Prefer": "handling=strict"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def read(self, resource_type: str, resource_id: str, deadline: Deadline | None = None) -> Resource | None:
        """Return a resource, or None where the server has none of that id. A deleted one is a DeadLetter (410)."""
        if not _TYPE.fullmatch(resource_type) or not _ID.fullmatch(resource_id):
            raise ValueError("a resource type and a FHIR id are needed")
        url = f"{self._base}/{resource_type}/{resource_id}"
        status, body = self._request("GET", resource_type, url, deadline, allowed=frozenset({404}))
        return None if status == 404 else body

    def search(
        self, resource_type: str, parameters: Mapping[str, str], deadline: Deadline | None = None
    ) -> list[Resource]:
        """Return all matches of a search, following its pages; DeadLetter where they have no end."""
        _, page = self._request("GET", resource_type, f"{self._base}/{_query(resource_type, parameters)}", deadline)
        return list(self._pages(resource_type, page, deadline))

    def entries(self, place: str, deadline: Deadline | None = None) -> Iterator[list[Resource]]:
        """Yield the entries of a Bundle at `place`, such as `Type/_history?_since=…`, page by page.

        DeadLetter (`fhir-search-endless`) where its pages have no end.
        """
        if not _PLACE.fullmatch(place) or "/.." in place.partition("?")[0]:
            raise ValueError("a place below the FHIR server's base is needed")
        label, url = place.partition("?")[0].partition("/")[0], f"{self._base}/{place}"
        for _ in range(MOST_PAGES):
            _, page = self._request("GET", label, url, deadline)
            if page.get("resourceType") != "Bundle":
                raise Retry("fhir-malformed", f"the FHIR server answered GET {label} with no Bundle")
            yield objects(page.get("entry", []))
            links = objects(page.get("link", []))
            following = next((str(link.get("url")) for link in links if link.get("relation") == "next"), None)
            if not following:
                return
            url = self._own(following)
        raise DeadLetter(
            "fhir-search-endless",
            f"a search for {label} has more than {MOST_PAGES} pages; narrow what the record returns, replay",
        )

    def save(self, resource: Mapping[str, Any], deadline: Deadline | None = None) -> Resource:
        """Update a resource that has an id, create another; return what the server answered."""
        kind, identity = str(resource.get("resourceType")), resource.get("id")
        if not _TYPE.fullmatch(kind) or (identity is not None and not _ID.fullmatch(str(identity))):
            raise ValueError("a resource type and a FHIR id are needed")
        method, url = ("PUT", f"{self._base}/{kind}/{identity}") if identity else ("POST", f"{self._base}/{kind}")
        return self._request(method, kind, url, deadline, content=_JSON.encode(resource), bodiless=True)[1]

    def batch(
        self, searches: Sequence[tuple[str, Mapping[str, str]]], deadline: Deadline | None = None
    ) -> list[list[Resource] | None]:
        """Return the matches of several searches, asked in one round trip.

        None stands where the server does not support that search (404, or issue code `not-supported`).
        """
        asked = [{"request": {"method": "GET", "url": _query(*search)}} for search in searches]
        content = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": asked}).encode()
        _, answer = self._request("POST", "batch", self._base, deadline, content=content)
        entries = objects(answer.get("entry", []))
        if len(entries) != len(searches):
            raise Retry("fhir-malformed", "the FHIR server's batch answer does not have one entry for each search")
        return [
            self._batched(resource_type, entry, deadline)
            for (resource_type, _), entry in zip(searches, entries, strict=True)
        ]

    def transaction(self, bundle: Mapping[str, Any], deadline: Deadline | None = None) -> None:
        """Write all of `bundle` or nothing. After a Retry it is not known which: send the same again."""
        content = _JSON.encode(bundle)
        _, answer = self._request("POST", "transaction", self._base, deadline, content=content)
        entries = objects(answer.get("entry", []))
        if answer.get("type") != "transaction-response":
            raise Retry(
                "fhir-malformed", "the FHIR server did not answer the transaction with a transaction-response"
            )
        if len(entries) != len(bundle["entry"]) or any(entry_status(entry) // 100 != 2 for entry in entries):
            raise Retry("fhir-partial", "the FHIR server did not confirm every entry of the transaction")

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
            _, page = self._request("GET", resource_type, self._own(following), deadline)
        raise DeadLetter(
            "fhir-search-endless",
            f"a search for {resource_type} has more than {MOST_PAGES} pages; narrow what the record returns, replay",
        )

    def _own(self, url: str) -> str:
        """Return a link as an absolute URL; DeadLetter where it leaves the server, as its query names the patient."""
        absolute = _joined(f"{self._base}/", url)
        if _origin(absolute) != _origin(self._base):
            raise DeadLetter(
                "fhir-foreign-link",
                "the FHIR server's next page is on another host, which is not asked; "
                "correct the server's own base address or AUSCULT_FHIR_BASE, then replay",
            )
        return absolute

    def _request(
        self,
        method: str,
        label: str,
        url: str,
        deadline: Deadline | None,
        *,
        content: bytes | None = None,
        allowed: frozenset[int] = frozenset(),
        bodiless: bool = False,
    ) -> tuple[int, Resource]:
        with telemetry.span(
            f"FHIR {method} {label}", kind=SpanKind.CLIENT, **{"http.request.method": method}
        ) as span:
            budget = self._timeout if deadline is None else min(self._timeout, deadline.remaining)
            with _named(method, label):
                status, headers, text = self._exchange(method, url, content, budget)
            span.set_attribute("http.response.status_code", status)
            body = parsed(text)
            if status // 100 == 2:
                if body is None and bodiless and not text:
                    return status, {}
                if body is None:
                    raise Retry("fhir-malformed", f"the FHIR server answered {method} {label} with no JSON object")
                return status, body
            if status in allowed:
                return status, {}
            raise failure(method, label, status, issue_codes(body), headers.get("Retry-After"))

    def _exchange(
        self, method: str, url: str, content: bytes | None, budget: float
    ) -> tuple[int, httpx.Headers, bytes]:
        """Send and receive within `budget` seconds in all; httpx bounds only each step, so the steps are counted."""
        if budget <= 0:
            raise TimeoutError
        end = time.monotonic() + budget
        headers = {"traceparent": telemetry.traceparent()} if telemetry.traceparent() else {}
        if content is not None:
            headers["Content-Type"] = JSON_FORMAT
        with self._http.stream(method, url, content=content, headers=headers, timeout=budget) as response:
            text = bytearray()
            for chunk in response.iter_bytes():
                text += chunk
                if len(text) > MOST_BYTES:
                    raise DeadLetter("fhir-too-large", f"the FHIR server's answer is larger than {MOST_BYTES} bytes")
                if time.monotonic() > end:
                    raise TimeoutError
            return response.status_code, response.headers, bytes(text)


@contextmanager
def _named(method: str, label: str) -> Iterator[None]:
    """Turn failures of the connection into Retry: whether the server acted is then unknown."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError):
        raise Retry("fhir-timeout", f"the FHIR server did not answer {method} {label} in time") from None
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise Retry(
            "fhir-unavailable",
            f"no answer to {method} {label} from the FHIR server ({type(error).__name__}); see that it runs",
        ) from None


def _query(resource_type: str, parameters: Mapping[str, str]) -> str:
    """Return `Type?a=b`; `|` is sent as %7C, which HAPI insists on."""
    return f"{resource_type}?{urlencode(parameters, quote_via=quote, safe='')}"


def _joined(base: str, url: str) -> str:
    """Return `url` as an absolute URL, or nothing where it is no URL."""
    try:
        return urljoin(base, url)
    except ValueError:
        return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port; of a text that is no URL, nothing that could equal another's."""
    try:
        place = urlsplit(url)
        return place.scheme, place.hostname, place.port or {"http": 80, "https": 443}.get(place.scheme)
    except ValueError:
        return "", None, None

"""One FHIR server's HTTP: time bounds, tokens, the breaker, and the name of each way to fail.

What is not known after a failure decides its name. Not sent, or refused by the server: `fhir-suspended`,
`fhir-unavailable`, `fhir-busy` (429, 503), `fhir-refused`, `fhir-forbidden`, `fhir-unauthorized`. Not known whether
the server acted: `fhir-timeout`, `fhir-cut-off` (reset, half a response), `fhir-malformed` (a proxy's page, truncated
JSON), `fhir-failed` (5xx), `fhir-conflict` (409), `fhir-precondition` (412).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx
from opentelemetry.trace import SpanKind

from auscult.domain.deadline import Deadline
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, RefuseToStart, Retry
from auscult.publish.fhir.answers import Resource, failure, issue_codes, parsed
from auscult.publish.fhir.breaker import Breaker

JSON_FORMAT = "application/fhir+json"
MOST_BYTES = 64 * 2**20
"""Of one answer."""
CONCURRENT = frozenset({"fhir-conflict", "fhir-precondition"})
"""Reasons of a Retry that a healthy server gives."""


class Tokens(Protocol):
    """Where access tokens come from."""

    def token(self, budget: float) -> str:
        """Return a token that holds, within `budget` seconds."""

    def renewed(self, refused: str, budget: float) -> str:
        """Return another token than `refused`, within `budget` seconds."""


@dataclass(frozen=True)
class Asked:
    """One request. `label` stands for the URL, which may name a patient, in texts."""

    method: str
    label: str
    url: str
    content: bytes | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.label}"


@dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: httpx.Headers
    text: bytes


class Connection:
    """Requests to one server. Threads may share it. `timeout`: the most seconds that any one request may take."""

    def __init__(
        self,
        base_url: str,
        timeout: float,
        *,
        tokens: Tokens | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        place = urlsplit(base_url)
        if place.scheme not in {"http", "https"} or not place.hostname or place.query or place.fragment:
            raise RefuseToStart(
                "fhir-base-invalid", "AUSCULT_FHIR_BASE needs the form https://host[:port]/path, without a query"
            )
        self.base = base_url.rstrip("/")
        self._timeout = timeout
        self._tokens = tokens
        self._breaker = Breaker("the FHIR server")
        self._http = httpx.Client(
            transport=transport,
            follow_redirects=False,
            # Servers may answer a search from what they found a minute ago (HAPI does): a result could be missed.
            headers={"Accept": JSON_FORMAT, "Prefer": "handling=strict", "Cache-Control": "no-cache"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def own(self, url: str) -> str:
        """Return a link as an absolute URL; DeadLetter where it leaves the server, as its query names the patient."""
        absolute = _joined(f"{self.base}/", url)
        if origin(absolute) != origin(self.base):
            raise DeadLetter(
                "fhir-foreign-link",
                "the FHIR server's next page is on another host, which is not asked; "
                "correct the server's own base address or AUSCULT_FHIR_BASE, then replay",
            )
        return absolute

    def request(
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
        """Return status and body of an answer that is 2xx or `allowed` (then without its body).

        `bodiless`: whether a good answer may have no body.
        """
        with telemetry.span(
            f"FHIR {method} {label}", kind=SpanKind.CLIENT, **{"http.request.method": method}
        ) as span:
            asked = Asked(method, label, url, content)
            budget = self._timeout if deadline is None else min(self._timeout, deadline.remaining)
            if budget <= 0:
                raise Retry("fhir-timeout", f"no time is left for {asked}; the FHIR server was not asked")
            self._breaker.enter()
            try:
                answer = self._authorized(asked, time.monotonic() + budget)
                span.set_attribute("http.response.status_code", answer.status)
                if bodiless and answer.status // 100 == 2 and not answer.text:
                    judged: tuple[int, Resource] = answer.status, {}
                else:
                    judged = _judged(asked, answer, allowed)
            except AuscultError as problem:
                self._note(problem)
                raise
            except BaseException:
                self._breaker.failed()
                raise
            self._breaker.succeeded()
            return judged

    def _note(self, problem: AuscultError) -> None:
        if isinstance(problem, Retry) and problem.reason not in CONCURRENT:
            # An authorization server that asks for time asks it for itself.
            self._breaker.failed(None if problem.reason.startswith("smart-") else problem.after)
        else:
            self._breaker.succeeded()

    def _authorized(self, asked: Asked, end: float) -> Answer:
        """Send with a token, where there are any; a token that is refused (401) is renewed once."""
        if self._tokens is None:
            return self._sent(asked, end, "")
        token = self._tokens.token(end - time.monotonic())
        answer = self._sent(asked, end, token)
        if answer.status == 401:
            token = self._tokens.renewed(token, end - time.monotonic())
            answer = self._sent(asked, end, token)
        return answer

    def _sent(self, asked: Asked, end: float, token: str) -> Answer:
        headers = {"traceparent": telemetry.traceparent()} if telemetry.traceparent() else {}
        if asked.content is not None:
            headers["Content-Type"] = JSON_FORMAT
        if token:
            headers["Authorization"] = f"Bearer {token}"
        with _named(asked):
            return exchange(self._http, asked, headers, end)


def exchange(http: httpx.Client, asked: Asked, headers: Mapping[str, str], end: float) -> Answer:
    """Send and receive until `end` of the monotonic clock; httpx bounds only each step, so the steps are counted."""
    budget = end - time.monotonic()
    if budget <= 0:
        raise TimeoutError
    sending = http.stream(asked.method, asked.url, content=asked.content, headers=dict(headers), timeout=budget)
    with sending as response:
        if "," in response.headers.get("Content-Encoding", ""):
            # Twice compressed, a few kilobytes are gigabytes before anybody can count them.
            raise DeadLetter(
                "fhir-encoding", "the FHIR server's answer is compressed more than once; correct it there"
            )
        text = bytearray()
        for chunk in response.iter_bytes():
            text += chunk
            if len(text) > MOST_BYTES:
                raise DeadLetter("fhir-too-large", f"the FHIR server's answer is larger than {MOST_BYTES} bytes")
            if time.monotonic() > end:
                raise TimeoutError
        return Answer(response.status_code, response.headers, bytes(text))


def _judged(asked: Asked, answer: Answer, allowed: frozenset[int]) -> tuple[int, Resource]:
    body = parsed(answer.text)
    if answer.status // 100 == 2:
        if body is None:
            raise Retry("fhir-malformed", f"the FHIR server answered {asked} with no JSON object")
        return answer.status, body
    if answer.status in allowed:
        return answer.status, {}
    raise failure(asked.method, asked.label, answer.status, issue_codes(body), answer.headers.get("Retry-After"))


@contextmanager
def _named(asked: Asked) -> Iterator[None]:
    """Turn failures of the connection into Retry. Their own texts may hold the URL, so they are not kept."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError):
        raise Retry("fhir-timeout", f"the FHIR server did not answer {asked} in time") from None
    except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise Retry(
            "fhir-unavailable",
            f"no connection to the FHIR server for {asked} ({type(error).__name__}); see that it runs",
        ) from None
    except httpx.RequestError as error:
        raise Retry(
            "fhir-cut-off",
            f"the connection to the FHIR server ended before {asked} was answered "
            f"({type(error).__name__}); whether it acted is not known",
        ) from None


def _joined(base: str, url: str) -> str:
    """Return `url` as an absolute URL, or nothing where it is no URL."""
    try:
        return urljoin(base, url)
    except ValueError:
        return ""


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port; of a text that is no URL, nothing that could equal another's."""
    try:
        place = urlsplit(url)
        return place.scheme, place.hostname, place.port or {"http": 80, "https": 443}.get(place.scheme)
    except ValueError:
        return "", None, None

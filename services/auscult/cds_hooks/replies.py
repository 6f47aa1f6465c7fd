"""What is answered over HTTP, as bytes: a look-up takes less time than a framework's response objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
from starlette.types import Send

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
"""Of every answer."""
ISSUE_TYPES = {
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    412: "required",
    413: "too-long",
    415: "not-supported",
    429: "throttled",
    500: "exception",
}
"""FHIR IssueType by HTTP status; the others are `invalid`."""
Header = tuple[bytes, bytes]
_COMMON: tuple[Header, ...] = tuple((name.encode(), value.encode()) for name, value in HEADERS.items())
_JSON: Header = (b"content-type", b"application/json")
_OK = b"\r\n".join(
    (b"HTTP/1.1 200 OK", *(b"%s: %s" % header for header in (*_COMMON, _JSON)), b"content-length: %d", b"", b"")
)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body, where it has one, is JSON."""

    body: bytes = b""
    status: int = 200
    headers: tuple[Header, ...] = ()

    def http(self) -> bytes:
        """Return it as HTTP/1.1 on a connection that stays open (RFC 9112, section 2.1)."""
        if self.status == HTTPStatus.OK and self.body and not self.headers:
            return _OK % len(self.body) + self.body
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()]
        lines += [b"%s: %s" % header for header in self._headers()]
        return b"\r\n".join((*lines, b"", self.body))

    def _headers(self) -> Iterator[Header]:
        yield from _COMMON
        yield b"content-length", b"%d" % len(self.body)
        yield from self.headers
        if self.body:
            yield _JSON

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; to a HEAD request without its body."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self._headers())})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


def outcome(status: int, text: str, *headers: Header) -> Reply:
    """Return an error as FHIR OperationOutcome."""
    issue = {"severity": "error", "code": ISSUE_TYPES.get(status, "invalid"), "diagnostics": text}
    return Reply(msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]}), status, headers)

"""What is answered over HTTP, as bytes: a look-up takes less time than a framework's response objects."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body, where it has one, is JSON."""

    body: bytes = b""
    status: int = 200
    headers: tuple[Header, ...] = ()

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; to a HEAD request without its body."""
        headers = [*_COMMON, (b"content-length", b"%d" % len(self.body)), *self.headers]
        if self.body:
            headers.append(_JSON)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


def outcome(status: int, text: str, *headers: Header) -> Reply:
    """Return an error as FHIR OperationOutcome."""
    issue = {"severity": "error", "code": ISSUE_TYPES.get(status, "invalid"), "diagnostics": text}
    return Reply(msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue]}), status, headers)

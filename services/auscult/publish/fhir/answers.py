"""How a FHIR server's answers are read: Bundles, OperationOutcomes, statuses and what follows from them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from auscult.platform.errors import AuscultError, DeadLetter, Retry

Resource = dict[str, Any]
"""A FHIR resource as JSON. What others wrote is read as it is: a record is not refused over a detail."""

TRANSIENT = {
    408: "fhir-failed",
    409: "fhir-conflict",
    412: "fhir-precondition",
    425: "fhir-failed",
    429: "fhir-busy",
    503: "fhir-busy",
}
"""The reasons of statuses that another try may not meet: timeouts, a concurrent writer, too many requests."""

REFUSALS = {401: "fhir-unauthorized", 403: "fhir-forbidden"}
"""Reasons of refusals that are about who asks; all others are about what is asked."""

MOST_WAIT = 3600.0
"""Seconds that a server may ask us to wait; a longer wish is a fault of its clock."""

_ISSUE_CODE = re.compile(r"[a-z-]{1,40}")


def objects(value: Any) -> list[Resource]:
    """Return a list of JSON objects as it is; Retry (`fhir-malformed`) where it is none."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Retry("fhir-malformed", "the FHIR server's Bundle is not built as FHIR R4 says")
    return value


def within(resource: Any, name: str) -> Resource:
    """Return the object that an element of a resource is; an empty one where it is not there, or anything else."""
    value = resource.get(name) if isinstance(resource, dict) else None
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """Return a list as it is; an empty one for anything else."""
    return value if isinstance(value, list) else []


def is_match(entry: Resource) -> bool:
    """Whether the search asked for it; other modes are what the server added (`include`, `outcome`)."""
    search = entry.get("search")
    return not isinstance(search, dict) or search.get("mode", "match") == "match"


def parsed(text: bytes) -> Resource | None:
    """Return the JSON object in `text` (RFC 8259: no NaN, no number beyond a double), or None where there is none."""
    try:
        body = msgspec.json.decode(text.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def entry_status(entry: Resource) -> int:
    """Return the HTTP status of a batch or transaction entry; 0 where it has none."""
    try:
        return int(str(entry["response"]["status"])[:3])
    except (KeyError, TypeError, ValueError):
        return 0


def issue_codes(outcome: Any) -> tuple[str, ...]:
    """Return an OperationOutcome's issue codes, and nothing else of it."""
    issues = outcome.get("issue", ()) if isinstance(outcome, dict) else ()
    codes = (issue.get("code") for issue in issues if isinstance(issue, dict))
    return tuple(dict.fromkeys(code for code in codes if isinstance(code, str) and _ISSUE_CODE.fullmatch(code)))


def failure(method: str, label: str, status: int, codes: Sequence[str], retry_after: str | None) -> AuscultError:
    """Return the error for a status that is not 2xx: Retry where another try may do better, else DeadLetter."""
    said = f"the FHIR server answered {method} {label} with status {status}"
    if codes:
        said += f" ({', '.join(codes)})"
    if status in TRANSIENT or status >= 500 or status < 200:
        return Retry(TRANSIENT.get(status, "fhir-failed"), said, after=seconds(retry_after))
    if status // 100 == 3:
        return DeadLetter(
            "fhir-redirect", f"{said}; set AUSCULT_FHIR_BASE to the server's final address, then replay"
        )
    if status in REFUSALS:
        return DeadLetter(
            REFUSALS[status], f"{said}; register this client and its scopes with the server, then replay"
        )
    if status == 405 or "not-supported" in codes:
        return DeadLetter("fhir-not-supported", f"{said}: it does not do that; allow it there, then replay")
    return DeadLetter("fhir-refused", f"{said}; the server's log says why: correct it there, then replay")


def seconds(retry_after: str | None) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3): seconds, or an HTTP date. None where it cannot be read."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after), MOST_WAIT)
    try:
        moment = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (aware - datetime.now(UTC)).total_seconds()), MOST_WAIT)

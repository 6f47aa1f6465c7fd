"""CloudEvents 1.0 envelope and its Kafka protocol binding in binary mode.

Attributes travel as message headers `ce_<name>`, `datacontenttype` as `content-type`
(CloudEvents Kafka Protocol Binding 1.0.2, section 3.2); `traceparent` follows the distributed tracing
extension; `deadline` is ours, an RFC 3339 timestamp.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Type, TypeVar  # noqa: UP035 - `type` is an attribute here

import msgspec

from auscult.domain.deadline import Deadline
from auscult.platform.errors import DeadLetter

SPEC_VERSION = "1.0"
Headers = list[tuple[str, bytes]]
T = TypeVar("T")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. `data` is JSON bytes; use `CloudEvent.of` and `payload` to write and read it."""

    type: str
    """Reverse-DNS-like name, e.g. `org.auscult.study.complete.v1`."""
    source: str
    """URI-reference of the producer, e.g. `/default/listen/dicom-scp`."""
    data: bytes
    subject: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    time: str = field(default_factory=_now)
    traceparent: str = ""
    deadline: Deadline | None = None
    extensions: tuple[tuple[str, str], ...] = ()
    """Further extension attributes; names are lower-case letters and digits."""

    @classmethod
    def of(
        cls,
        type: str,  # noqa: A002 - the attribute's name in the specification
        source: str,
        payload: object,
        *,
        traceparent: str = "",
        deadline: Deadline | None = None,
    ) -> CloudEvent:
        """Make an event whose data is `payload` (a dataclass or plain values) as JSON."""
        return cls(type, source, msgspec.json.encode(payload), traceparent=traceparent, deadline=deadline)

    def payload(self, kind: Type[T]) -> T:  # noqa: UP006
        """Read the data as `kind`; DeadLetter (`malformed-event`) where it is not that."""
        try:
            return msgspec.json.decode(self.data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # The decoder's own text quotes the value, which may be an identifier.
            raise DeadLetter(
                "malformed-event", f"the data of this {self.type} event is not a valid {kind.__name__}"
            ) from None

    def to_headers(self) -> Headers:
        """Return the message headers of the binary Kafka binding."""
        attributes = {
            "specversion": SPEC_VERSION,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time,
            "subject": self.subject,
            "traceparent": self.traceparent,
            "deadline": str(self.deadline) if self.deadline else "",
            **dict(self.extensions),
        }
        headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items() if value]
        return [*headers, ("content-type", b"application/json")]

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]], data: bytes) -> CloudEvent:
        """Read a message; DeadLetter (`malformed-event`) names the attribute that is missing or wrong."""
        try:
            given = {
                name.removeprefix("ce_"): value.decode()
                for name, value in headers
                if name.startswith("ce_") and value is not None
            }
        except UnicodeDecodeError:
            raise DeadLetter("malformed-event", "a CloudEvents header is not UTF-8") from None
        for name in ("specversion", "id", "source", "type"):
            if not given.get(name):
                raise DeadLetter("malformed-event", f"the header ce_{name} is missing; see CloudEvents 1.0, 3.1")
        if given["specversion"] != SPEC_VERSION:
            raise DeadLetter("malformed-event", f"only CloudEvents {SPEC_VERSION} is read; check ce_specversion")
        try:
            deadline = Deadline.parse(given["deadline"]) if "deadline" in given else None
            str(deadline)  # in UTC it may lie outside the calendar, and could not be sent on
        except (ValueError, OverflowError):
            raise DeadLetter(
                "malformed-event", "the header ce_deadline is not an RFC 3339 timestamp with an offset"
            ) from None
        known = {"specversion", "id", "source", "type", "time", "subject", "traceparent", "deadline"}
        return cls(
            type=given["type"],
            source=given["source"],
            data=data,
            subject=given.get("subject", ""),
            id=given["id"],
            time=given.get("time", ""),
            traceparent=given.get("traceparent", ""),
            deadline=deadline,
            extensions=tuple(sorted((name, value) for name, value in given.items() if name not in known)),
        )

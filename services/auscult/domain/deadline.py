"""One deadline, carried end to end as an absolute time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Deadline:
    """The absolute moment after which an answer no longer helps.

    A pathway declares its budget; the event carries `Deadline.after(budget)`; each hop passes on
    what `remaining` says. The text form is RFC 3339 in UTC, as CloudEvents timestamps are.
    """

    at: float
    """Seconds since the Unix epoch (UTC)."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that lies `seconds` from now."""
        return cls(time.time() + seconds)

    @classmethod
    def parse(cls, text: str) -> Deadline:
        """Read an RFC 3339 timestamp with an offset; ValueError where it has none."""
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("a deadline needs a UTC offset, e.g. 2026-01-31T12:00:00Z")
        return cls(moment.timestamp())

    def __str__(self) -> str:
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def remaining(self) -> float:
        """Seconds that are left; never negative."""
        return max(0.0, self.at - time.time())

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return time.time() >= self.at

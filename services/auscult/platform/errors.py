"""The error tree, by what happens next.

AuscultError
├── Retry            try again later, with back-off; dead-letter when the tries run out
├── DeadLetter       this message can never be handled; park it with its reason, go on with the next
│   └── Quarantine   doubt about whose data this is; park it apart, with no result
├── Superseded       a newer message says more; let this one go, visibly
├── TellClinician    no full answer is possible; a degraded card says so
├── Refused          the sender is told (DICOM status, HTTP status) and keeps its data
└── RefuseToStart    the configuration cannot work; the process ends before it serves

No message of these errors contains PHI: they are written to logs, traces and dead-letter headers.
"""

from __future__ import annotations


class AuscultError(Exception):
    """An error with a stable `reason` (kebab-case, for machines) and a sentence that says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason}: {super().__str__()}"


class Retry(AuscultError):
    """Something outside failed and may work later. `after`: seconds the other side asked us to wait."""

    def __init__(self, reason: str, message: str, *, after: float | None = None) -> None:
        super().__init__(reason, message)
        self.after = after


class DeadLetter(AuscultError):
    """The message can never be handled as it is."""


class Quarantine(DeadLetter):
    """It is not certain to which patient this belongs."""


class Superseded(AuscultError):
    """A newer message about the same thing is on its way."""


class TellClinician(AuscultError):
    """The clinician must learn that an answer is missing, and why."""


class Refused(AuscultError):
    """The sender's object is not accepted. `status`: the DICOM or HTTP status that says so."""

    def __init__(self, reason: str, message: str, *, status: int) -> None:
        super().__init__(reason, message)
        self.status = status


class RefuseToStart(AuscultError):
    """The process must not serve with this configuration."""

"""The topics, and what travels on each. Keys keep order: all of one study, in the order it was published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """A named log. `compacted`: only each key's newest event need be kept. `kept`: seconds, where not for ever."""

    name: str
    compacted: bool = False
    kept: float | None = None


INSTANCES = Topic("auscult.instances")
"""One event per stored DICOM instance, and one when an association that brought some ends."""
STUDIES = Topic("auscult.studies")
"""Studies that are complete: the pathways' trigger."""
FINDINGS = Topic("auscult.findings", compacted=True)
"""Results, keyed by tenant, study and pathway; each card store is built from it."""
OUTCOMES = Topic("auscult.outcomes")
"""What became of each object or study, for operators: published, incomplete, refused, quarantined …"""
DEAD_LETTERS = Topic("auscult.dead-letters")
"""Events that cannot be handled, with reason, source and tries; `auscult replay` sends them again."""
QUARANTINE = Topic("auscult.quarantine")
"""Events about whose patient there is doubt. Same shape as dead letters."""
REPLAYS = Topic("auscult.replays", compacted=True)
"""Which parked events were sent again, so that none is sent twice unasked."""
TOKENS = Topic("auscult.tokens", kept=2 * 86400)
"""Hashes of tokens that EHRs used, so that no replica takes one twice. Kept for longer than any token is good."""
PROGRESS = Topic("auscult.progress", kept=7 * 86400)
"""That a pathway began with a study and how that ended, keyed as its finding: for cards that say what is coming."""
SWITCHES = Topic("auscult.switches", compacted=True)
"""Models that operators switched off and on. Each event has a key of its own, so all stay: they are the audit."""
FEEDBACK = Topic("auscult.feedback", compacted=True)
"""What clinicians did with cards, keyed by the outcome itself, so that one that is sent twice is there once."""
RECORD = Topic("auscult.record")
"""What changed in the record: references to FHIR resources and to HL7 v2 messages that were kept."""
FETCHES = Topic("auscult.fetches", compacted=True)
"""What is to be asked of the FHIR server: by the clock, after a gap or a notification that says nothing, or by an
operator. Asked twice is asked once."""
MARKS = Topic("auscult.marks", compacted=True)
"""Up to where each subscription and each polled search was read."""
WAITING = Topic("auscult.waiting", compacted=True)
"""Runs that wait for what their pathway needs of the record, keyed as findings are."""

ALL = (
    INSTANCES,
    STUDIES,
    FINDINGS,
    OUTCOMES,
    DEAD_LETTERS,
    QUARANTINE,
    REPLAYS,
    TOKENS,
    PROGRESS,
    SWITCHES,
    FEEDBACK,
    RECORD,
    FETCHES,
    MARKS,
    WAITING,
)

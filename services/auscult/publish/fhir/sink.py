"""Writes each result into the record once, and withdraws what it replaces."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Literal

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.domain.volume import Volume
from auscult.platform.errors import AuscultError, DeadLetter, Retry
from auscult.publish.fhir.answers import Resource, listed, within
from auscult.publish.fhir.audit import Action, Denial, audit_event, denial_event
from auscult.publish.fhir.checking import check
from auscult.publish.fhir.client import FhirClient, encoded, token
from auscult.publish.fhir.elements import (
    IDENTITY,
    RESULT_STATUS,
    STATEMENTS,
    Json,
    line,
    place,
)
from auscult.publish.fhir.known import Known, look
from auscult.publish.fhir.provenance import coded, of_withdrawal
from auscult.publish.fhir.report import attachment
from auscult.publish.fhir.report_pdf import report_pdf
from auscult.publish.fhir.resources import (
    Surroundings,
    pathway_model,
    provenance_id,
    put,
    shown_of,
    transaction,
)
from auscult.publish.fhir.server_ids import by_identity, insists_on_ids
from auscult.publish.fhir.superseding import targets, withdrawals

Extra = Literal["imaging-study", "audit", "drafts", "tasks", "pdf"]
Ids = Literal["auto", "client", "server"]
NOT_ACTED = frozenset({"fhir-busy", "fhir-suspended", "fhir-unavailable"})
"""Reasons of a Retry after which it is certain that nothing was written."""
STRIPES = 64


class FhirSink:
    """Results out to one FHIR server. Threads may share it: one of them at a time writes a study's results.

    A result's Provenance is written in one transaction with all that it speaks of, so where it is, the result
    is. A result that says no more than what is there is not written: a resend changes nothing, and a run that
    was cut short never takes the place of a complete one. Where it is not known whether the server wrote, it is
    asked; after a Retry the next try finds the Provenance, or writes the same ids. A Provenance that somebody
    deleted (410) is a DeadLetter: what was removed from the record on purpose does not come back by itself.

    `ids`: who chooses the resources' ids, the server where `auto` finds that it insists on that.
    """

    def __init__(self, client: FhirClient, extras: Collection[Extra] = (), ids: Ids = "auto") -> None:
        self.client = client
        self._extras = frozenset(extras)
        self._server_ids: bool | None = None if ids == "auto" else ids == "server"
        self._writing = [threading.Lock() for _ in range(STRIPES)]

    def write(self, result: Result, deadline: Deadline, volume: Volume | None = None) -> bool:
        """Write `result`; False, with nothing of it written, where the record holds as much already.

        `volume`: the images that its findings were outlined on, for the report's pictures.
        """
        with self._writing[hash(line(result)) % STRIPES]:
            return self._write(result, deadline, volume)

    def record_denial(self, denial: Denial, purposes: Iterable[str]) -> None:
        """Write the AuditEvent of a study that is not computed, once; nothing where the site wants none.

        After a Retry it is not known whether it is there: the next try writes the same.
        """
        if "audit" in self._extras:
            event = denial_event(denial, purposes)
            check([event], "consent")
            self._send({"resourceType": "Bundle", "type": "transaction", "entry": [put(event)]}, None)

    def _write(self, result: Result, deadline: Deadline, volume: Volume | None) -> bool:
        known = look(self.client, result, self._held(result, deadline), deadline)
        around = Surroundings(
            imaging_study=known.imaging_study or "",
            write_imaging_study="imaging-study" in self._extras and known.imaging_study is not None,
            replaced=tuple(sorted(place(report) for report in known.others)),
            drafts="drafts" in self._extras,
            tasks="tasks" in self._extras,
        )
        bundle = transaction(result, around)
        new = known.held is None or known.withdrawn or self._says_more(result, bundle, known.held)
        if not new and not known.current:
            return False
        entries = self._withdrawals(result, bundle, known, deadline)
        if new:
            self._present(result, bundle, volume)
            entries = [*bundle["entry"], *entries]
        if not entries:
            return False
        whole = self._audited(result, {**bundle, "entry": entries}, new=new)
        try:
            self._send(whole, known, deadline)
        except Retry as problem:
            if (
                problem.reason in NOT_ACTED
                or known.withdrawn
                or not new
                or not self._arrived(result, bundle, deadline)
            ):
                raise
        return new

    def _held(self, result: Result, deadline: Deadline) -> Resource | None:
        """Return the result's Provenance."""
        identity = provenance_id(result)
        if not self._given_by_server(deadline):
            return self.client.read("Provenance", identity, deadline)
        found = self.client.search("Provenance", {"_tag": token(IDENTITY, identity)}, deadline)
        exact = [
            provenance
            for provenance in found
            if {"system": IDENTITY, "code": identity} in listed(within(provenance, "meta").get("tag"))
        ]
        return min(exact, key=lambda provenance: str(within(provenance, "meta").get("lastUpdated", "")), default=None)

    def _given_by_server(self, deadline: Deadline | None) -> bool:
        """Whether the server insists on giving ids itself; it is asked once."""
        if self._server_ids is None:
            try:
                self._server_ids = insists_on_ids(self.client.capabilities(deadline))
            except DeadLetter:
                self._server_ids = False  # one that does not say: it refuses by name, which `_send` hears
        return self._server_ids

    def _withdrawals(self, result: Result, bundle: Json, known: Known, deadline: Deadline) -> list[Json]:
        """Return the entries that withdraw what this result replaces, with the Provenance that says why."""
        sources = [known.held] if known.held else []
        for report in known.current:
            sources += self.client.search("Provenance", {"target": place(report)}, deadline)
        written = {place(entry["resource"]) for entry in bundle["entry"]}
        held = self.client.read_all([target for target in targets(sources) if target not in written], deadline)
        entries = withdrawals(held, {entry["resource"]["id"] for entry in bundle["entry"]})
        if not entries:
            return []
        pathway = pathway_model(result)
        why = of_withdrawal(
            result,
            pathway,
            withdrawn=[entry["request"]["url"] for entry in entries],
            report=place(_report(bundle)),
            recorded=_now(),
        )
        check([why], result.pathway)
        return [*entries, put(why)]

    def _present(self, result: Result, bundle: Json, volume: Volume | None) -> None:
        if "pdf" in self._extras:
            report = _report(bundle)
            report["presentedForm"] = [attachment(report_pdf(shown_of(result), volume), report)]

    def _audited(self, result: Result, bundle: Json, *, new: bool) -> Json:
        if "audit" not in self._extras:
            return bundle
        pathway = pathway_model(result)
        withdrawn = [entry["request"]["url"] for entry in bundle["entry"] if "fullUrl" not in entry]
        done: list[tuple[Action, str]] = [("create", place(_report(bundle)))] if new else []
        done += [("update", withdrawn[-1])] if withdrawn else []
        content, at = encoded(bundle), _now()
        events = [
            audit_event(result, pathway, action=action, data=data, server=self.client.base, written=content, at=at)
            for action, data in done
        ]
        check(events, result.pathway)
        return {**bundle, "entry": [*bundle["entry"], *map(put, events)]}

    def _send(self, bundle: Json, known: Known | None, deadline: Deadline | None = None) -> None:
        """Send a transaction. `known`: what the record holds of the result; None for what is no result's."""
        if self._given_by_server(deadline):
            over = known is not None and (known.held is not None or bool(known.others))
            self.client.transaction(by_identity(bundle, over=over), deadline)
            return
        try:
            self.client.transaction(bundle, deadline)
        except DeadLetter as problem:
            if problem.reason != "fhir-not-supported" or (known is not None and known.held is not None):
                raise
            self._server_ids = True
            self.client.transaction(by_identity(bundle, over=False), deadline)

    def _arrived(self, result: Result, bundle: Json, deadline: Deadline) -> bool:
        """Whether a write of which no good answer came is in the record after all."""
        try:
            held = self._held(result, deadline)
        except AuscultError:
            return False
        return held is not None and not self._says_more(result, bundle, held)

    def _says_more(self, result: Result, bundle: Json, held: Resource) -> bool:
        """Whether the transaction is complete where the record is not, or speaks of what the record has not."""
        written = next(
            entry["resource"] for entry in bundle["entry"] if entry["resource"]["id"] == provenance_id(result)
        )
        if (status := coded(written, RESULT_STATUS)) != (before := coded(held, RESULT_STATUS)):
            return status == "final" and before != "final"
        now, then = targets([written]), targets([held])
        if self._server_ids:
            # Ids that the server gave say nothing about which of our statements they stand for.
            return len(now) >= len(then) and coded(written, STATEMENTS) != coded(held, STATEMENTS)
        return not set(now) <= set(then)


def _report(bundle: Json) -> Json:
    report: Json = next(
        entry["resource"]
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] == "DiagnosticReport" and "fullUrl" in entry
    )
    return report


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

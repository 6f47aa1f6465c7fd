"""Writes each result into the record once."""

from __future__ import annotations

from dataclasses import dataclass

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.publish.fhir.answers import Resource
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.elements import RESULT_STATUS, Json
from auscult.publish.fhir.resources import provenance_id, transaction


@dataclass(frozen=True)
class FhirSink:
    """Results out to one FHIR server.

    A result's Provenance is written in one transaction with all that it speaks of, so where it is, the result
    is. A result that says no more than what is there is not written: a resend changes nothing, and a run that
    was cut short never takes the place of a complete one. After a Retry it is not known whether the server
    wrote; the next try finds the Provenance, or writes the same ids. A Provenance that somebody deleted
    (410) is a DeadLetter: what was removed from the record on purpose does not come back by itself.
    """

    client: FhirClient

    def write(self, result: Result, deadline: Deadline) -> bool:
        """Write `result`; False, with nothing written, where the record holds as much already."""
        bundle = transaction(result)
        held = self.client.read("Provenance", provenance_id(result), deadline)
        if held is not None and not _says_more(bundle, held):
            return False
        self.client.transaction(bundle, deadline)
        return True


def _says_more(bundle: Json, held: Resource) -> bool:
    """Whether the transaction is complete where the record is not, or speaks of what the record has not."""
    written = bundle["entry"][-1]["resource"]
    if (status := _status(written)) != (before := _status(held)):
        return status == "final" and before != "final"
    return bool(_targets(written) - _targets(held))


def _status(provenance: Resource) -> str:
    coded = provenance.get("activity", {}).get("coding", [])
    return next((str(coding.get("code")) for coding in coded if coding.get("system") == RESULT_STATUS), "")


def _targets(provenance: Resource) -> set[str]:
    """Return `Type/id` of each target; servers may answer with absolute or versioned references."""
    references = (str(target.get("reference", "")).split("/_history/")[0] for target in provenance.get("target", []))
    return {"/".join(reference.split("/")[-2:]) for reference in references}

"""A patient's earlier study, for pathways that compare: looked for beside the run, which does not depend on it.

The record says which studies the patient has; of those the image store holds the newest is taken. Else the PACS is
asked, where there is one. What goes wrong is a reason for the reader, never an error of the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from auscult.domain.study import Patient, Study
from auscult.listen.priors import Priors, day_of
from auscult.platform.errors import AuscultError, Refused, TellClinician
from auscult.publish.fhir.answers import Resource, objects
from auscult.publish.fhir.client import FhirClient, reference_id

MOST_TRIED = 3
"""Earlier studies that are opened: the newest may be of another part of the body, or have no regular grid."""

_log = logging.getLogger(__name__)

Known = Callable[[str], list[Resource]]
"""Asks the record for the ImagingStudies of a `Patient/<id>`."""


@dataclass(frozen=True)
class Earlier:
    """Looks for earlier studies. `usable`: raises TellClinician where one cannot be compared with."""

    priors: Priors
    known: Known
    _busy: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, study: Study, patient: Patient, usable: Callable[[Study], None]) -> Future[Study]:
        """Begin to look; the future has the newest earlier study that is usable, or TellClinician with the reason.

        It runs in a thread of its own, which a run that does not wait for it leaves to itself: what comes late is in
        the store the next time. A look that has not ended keeps the next one from beginning.
        """
        future: Future[Study] = Future()
        if not self._busy.acquire(blocking=False):
            future.set_exception(TellClinician("earlier-busy", "the PACS is still busy with another earlier study"))
            return future

        def look() -> None:
            try:
                future.set_result(self._look(study, patient, usable))
            except TellClinician as reason:
                future.set_exception(reason)
            except Exception as bug:  # noqa: BLE001 - its text may quote a patient, and the run goes on without
                _log.error("the search for an earlier study failed (%s)", type(bug).__name__)
                future.set_exception(TellClinician("earlier-failed", "the search for one failed; see the log"))
            finally:
                self._busy.release()

        threading.Thread(target=look, name="earlier", daemon=True).start()
        return future

    def _look(self, study: Study, patient: Patient, usable: Callable[[Study], None]) -> Study:
        if day_of(study) is None:
            raise TellClinician("earlier-no-date", "the images do not say when they were taken")
        if self.priors.fetched(study.ref.study_uid):
            # By C-MOVE it has a run of its own. It ends here: else all that the PACS has of the patient would follow.
            raise TellClinician("earlier-itself", "these images came to be compared with newer ones")
        problems: list[str] = []
        tried: set[str] = set()
        for uid in self._candidates(study, patient, problems):
            if uid in tried or uid == study.ref.study_uid:
                continue
            if len(tried) == MOST_TRIED:
                break
            tried.add(uid)
            try:
                found = self.priors.load(uid, study)
                usable(found)
            except AuscultError as problem:
                problems.append(str(problem.args[0]) if isinstance(problem, TellClinician) else problem.reason)
            else:
                return found
        if tried:
            raise TellClinician("earlier-unusable", f"none that is known can be used ({'; '.join(problems)})")
        raise TellClinician("earlier-none", "; ".join(problems) or "none of the patient is known")

    def _candidates(self, study: Study, patient: Patient, problems: list[str]) -> Iterator[str]:
        """Yield studies before this one, the store's before the PACS's, each the newest first."""
        try:
            yield from self._held(study, patient)
        except AuscultError as problem:
            problems.append(f"the record does not say which there are ({problem.reason})")
        if not self.priors.settings.pacs_url:
            return
        try:
            yield from self.priors.of(study)
        except AuscultError as problem:
            problems.append(f"the PACS does not say which it has ({problem.reason})")

    def _held(self, study: Study, patient: Patient) -> list[str]:
        day = str(day_of(study))
        dated = []
        for resource in self.known(patient.reference):
            started, uid = str(resource.get("started", ""))[:10], _study_uid(resource)
            with suppress(Refused):  # a record may hold what is no UID
                if uid and "" < started < day and _may_be(resource, study.modality) and self.priors.here(uid):
                    dated.append((started, uid))
        return [uid for _, uid in sorted(dated, reverse=True)]


def studies_of(client: FhirClient) -> Known:
    """Return what asks the FHIR server."""
    return lambda patient: client.search(
        "ImagingStudy", {"patient": reference_id(patient, "Patient"), "_count": "200"}
    )


def _study_uid(resource: Resource) -> str:
    for identifier in objects(resource.get("identifier", [])):
        value = str(identifier.get("value", ""))
        if identifier.get("system") == "urn:dicom:uid" and value.startswith("urn:oid:"):
            return value.removeprefix("urn:oid:")
    return ""


def _may_be(resource: Resource, modality: str) -> bool:
    """Whether a study has images of a modality, or does not say of which."""
    codings = objects(resource.get("modality", []))
    return not codings or any(coding.get("code") == modality for coding in codings)

"""What changed since an earlier study, for the pathways that compare: never at the cost of the result itself."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import dataclass, replace

from auscult.domain.deadline import Deadline
from auscult.domain.study import Patient, Study
from auscult.imaging.store import ImageStore
from auscult.pathways.earlier import Earlier
from auscult.pathways.pathway import Compares, Found, Models, Pathway
from auscult.pathways.tracking import Tracking
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, TellClinician

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparisons:
    """Looks for an earlier study while a pathway works, and lets it compare when both are there.

    `patience`: seconds that a result waits for the earlier study when it has everything else.
    """

    earlier: Earlier
    patience: float

    def begin(self, pathway: Pathway, study: Study, patient: Patient) -> Comparison:
        """Begin to look, where the pathway compares."""
        looking = (
            self.earlier.begin(study, patient, pathway.comparable) if isinstance(pathway, Compares) else Future()
        )
        return Comparison(pathway, study, looking, self.patience, self.earlier.priors.store)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Of one run."""

    pathway: Pathway
    study: Study
    looking: Future[Study]
    patience: float
    store: ImageStore

    def of(self, found: Found, models: Models, deadline: Deadline) -> Found:
        """Return what was found with what changed, or with why that is not known; and with tracking UIDs.

        At most half of what is left of the deadline is spent: the other half is for writing the result.
        """
        earlier: Study | None = None
        if isinstance(self.pathway, Compares) and found.findings:
            until = Deadline.after(deadline.remaining / 2)
            with telemetry.span("compare", study=self.study.ref.pseudonym) as current:
                try:
                    earlier = self.looking.result(min(self.patience, until.remaining))
                    found = self.pathway.compare(found, self.study, earlier, models, until)
                except TimeoutError:
                    found = _without(found, "none came in time")
                except TellClinician as reason:
                    found = _without(found, str(reason.args[0]))
                except AuscultError as problem:
                    found = _without(found, f"a part of the system did not answer ({problem.reason})")
                except Exception as bug:  # noqa: BLE001 - its text may quote a patient, and the result must go out
                    _log.error("a comparison failed (%s)", type(bug).__name__)
                    found = _without(found, "the comparison failed; see the log")
                current.set_attribute("compared", any(each is not None for each in found.counterparts))
        try:
            return Tracking(self.store, self.pathway.name).assign(found, self.study, earlier)
        except AuscultError as problem:
            _log.warning("study %s: findings have no tracking UIDs (%s)", self.study.ref.pseudonym, problem.reason)
            return found


def _without(found: Found, reason: str) -> Found:
    return replace(found, compared=f"No earlier CT was compared: {reason}.")

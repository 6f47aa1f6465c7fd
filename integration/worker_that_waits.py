"""The pathways service with one more pathway, whose runs wait for age, smoking history and a fresh creatinine."""

from __future__ import annotations

from dataclasses import dataclass

from auscult.domain.codes import LOINC, Code
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Card
from auscult.domain.study import Patient, Study
from auscult.entrypoints import pathways
from auscult.pathways.pathway import Found, Models, Need, Needs, Pathway, registered

NEEDS = Needs(
    models=(),
    record=(
        Need("age", "Patient", element="birthDate"),
        Need("smoking history", "Observation", (Code(LOINC, "72166-2", "Tobacco smoking status"),)),
        Need("creatinine", "Observation", (Code(LOINC, "2160-0", "Creatinine"),), not_older_than=30),
    ),
    wait=600,
)


@dataclass
class RenalSafety:
    """Says what the record says: a stand-in for a pathway that needs both images and laboratory values."""

    name: str = "renal_safety"
    version: str = "1"
    modality: str = "CT"
    needs: Needs = NEEDS
    budget: float = 60.0
    said: str = ""
    """What the record says; this worker handles one study after the other."""

    def find(self, study: Study, patient: Patient, models: Models, deadline: Deadline) -> Found:
        """Find nothing in the images; what the record says is the answer."""
        del study, models, deadline
        said = {fact.name: fact for fact in patient.facts}
        creatinine, smoking = said["creatinine"], said["smoking history"]
        self.said = f"creatinine {creatinine.value} {creatinine.unit}; smoking history {smoking.value}"
        return Found(())

    def card(self, found: Found) -> Card:
        """Show what was said."""
        del found
        return Card("renal safety", "info", self.said, "renal safety")


def with_one_more() -> tuple[Pathway, ...]:
    """Return the installed pathways and this one."""
    return (*registered(), RenalSafety())


pathways.registered = with_one_more
pathways.main()

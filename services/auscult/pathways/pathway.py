"""What a pathway is: a trigger, needs, a budget, and a function from study and patient to findings and card."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from auscult.domain.codes import Code
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Card, Finding, ModelReference
from auscult.domain.study import Patient, Study
from auscult.domain.volume import Region
from auscult.platform.errors import RefuseToStart


class Models(Protocol):
    """The models a pathway may ask, over the Open Inference Protocol."""

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline) -> dict[str, NDArray[Any]]:
        """Run `model`. Retry where the server cannot be reached, TellClinician where the deadline passed."""

    def reference(self, model: str) -> ModelReference:
        """Return which version answers and on what evidence it rests."""


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that the record must say, and what counts as its saying so.

    A resource of type `kind` about the patient that has one of `codes`, is neither wrong nor preliminary, and says
    something; or, of the Patient, an `element`.
    """

    name: str
    """As clinicians and operators call it, e.g. `creatinine`."""
    kind: str
    codes: tuple[Code, ...] = ()
    element: str = ""
    not_older_than: float | None = None
    """Days before the study."""
    required: bool = True
    """Without it there is no run; else there is a degraded one when the wait is over."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a run starts. `models`: names in the model repository."""

    models: tuple[str, ...]
    record: tuple[Need, ...] = ()
    """Waited for, each in whichever order it comes."""
    wait: float = 0.0
    """Seconds from the study's arrival that `record` is waited for."""
    becquerels: bool = False
    """Of PET: Bq/ml instead of SUVbw, for which not every scanner says what is needed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a run found, and in words for the clinician what it could not say although it should have."""

    findings: tuple[Finding, ...]
    missing: tuple[str, ...] = ()
    asked: tuple[ModelReference, ...] = ()
    """The models that looked for findings: they stand behind an answer of none, too."""
    regions: tuple[Region, ...] = ()
    """The voxels of each of `findings`, in their order, for those who write them as DICOM; empty: none are."""
    counterparts: tuple[Region | None, ...] = ()
    """Of each of `findings`, the same thing in the earlier study; None where it is not there, or in doubt."""
    compared: str = ""
    """With what it was compared and how, or why it was not: for the reader."""


class Pathway(Protocol):
    """One clinical question. Implementations are stateless; their instance is named by an entry point."""

    name: str
    version: str
    modality: str
    """DICOM modality of the series that triggers it."""
    needs: Needs
    budget: float
    """Seconds that a run may take until its result is published."""

    def find(self, study: Study, patient: Patient, models: Models, deadline: Deadline) -> Found:
        """Return what is found. TellClinician where nothing can be said in time, or at all."""

    def card(self, found: Found) -> Card:
        """Return the card that the clinician reads."""


@runtime_checkable
class Compares(Protocol):
    """What a pathway has that also says what changed since an earlier study."""

    def comparable(self, earlier: Study) -> None:
        """TellClinician where a study is not one to compare with, such as one of another part of the body."""

    def compare(self, found: Found, study: Study, earlier: Study, models: Models, deadline: Deadline) -> Found:
        """Return what was found in `study` with what changed, and its `counterparts`. TellClinician: why nothing."""


def registered() -> tuple[Pathway, ...]:
    """Load the pathways of the entry point group `auscult.pathways`, our own and other distributions'."""
    found: dict[str, Pathway] = {}
    for entry in entry_points(group="auscult.pathways"):
        pathway: Pathway = entry.load()
        if pathway.name in found:
            raise RefuseToStart(
                "pathway-twice", f"two distributions register the pathway {pathway.name!r}; remove one"
            )
        found[pathway.name] = pathway
    return tuple(found.values())

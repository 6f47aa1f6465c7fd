"""The models, less those that an operator switched off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from auscult.bus.switches import Switches
from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference
from auscult.pathways.pathway import Models
from auscult.platform.errors import TellClinician


@dataclass(frozen=True, slots=True)
class GovernedModels:
    """Asks `models`, except for what is switched off: then the clinician is told that the answer is missing."""

    models: Models
    switches: Switches

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline) -> dict[str, NDArray[Any]]:
        """Run `model`; TellClinician (`model-switched-off`) where it may not be asked."""
        if self.switches.off((model,)):
            raise TellClinician("model-switched-off", f"the model {model} is switched off at this site")
        return self.models.infer(model, inputs, deadline=deadline)

    def reference(self, model: str) -> ModelReference:
        """Return which version answers and on what evidence it rests."""
        return self.models.reference(model)

"""The reference models, run by ONNX Runtime in this process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference
from auscult.domain.model_card import ModelCard
from auscult.platform.errors import TellClinician

MODELS = Path(__file__).resolve().parents[1] / ".auscult" / "models"
"""The repository that `make` builds; `build_repository` makes it where it is not."""


@cache
def _session(path: Path) -> onnxruntime.InferenceSession:
    """Open a graph, once: that takes longer than to run it."""
    return onnxruntime.InferenceSession(path)


@cache
def _reference(card: str) -> ModelReference:
    """Read a card, once."""
    return ModelCard.parse(card).reference()


class LocalModels:
    """The `Models` of a pathway without a server between. `down`: models that do not answer in time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, dict[str, NDArray[Any]]]] = []
        self.down: set[str] = set()

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline) -> dict[str, NDArray[Any]]:
        """Run `model`."""
        self.asked.append((model, inputs))
        if model in self.down or deadline.expired:
            raise TellClinician("deadline-exceeded", f"the model {model} did not answer in time")
        session = _session(next((self.root / model).glob("*/model.onnx")))
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def reference(self, model: str) -> ModelReference:
        """Return what the model's card says."""
        return _reference((self.root / model / "card.yaml").read_text())

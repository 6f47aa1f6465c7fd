"""Risk of malignancy by the Brock (PanCan) model, McWilliams et al., NEJM 2013;369:910.

The model runs on the inference service. This module states its inputs: what is known, and for what is
not known, both possibilities, so that the reader sees how far the answer may move.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from auscult.domain import codes
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Contribution, Risk
from auscult.pathways.lung_nodule.fleischner import Appearance
from auscult.pathways.pathway import Models

WITH_SPICULATION = "brock_full"
WITHOUT_SPICULATION = "brock_full_no_spiculation"
"""The published variant for when nobody has reported whether the nodule is spiculated."""

OLDEST = 120.0
"""Years: the model does not answer beyond, and no birth date that says so is right."""
TYPES = {Appearance.SOLID: 0, Appearance.PART_SOLID: 1, Appearance.NONSOLID: 2}
LABELS = {
    "intercept": "baseline",
    "age": "age",
    "female": "female sex",
    "family_history_lung_cancer": "family history of lung cancer",
    "emphysema": "emphysema",
    "diameter": "mean diameter",
    "type": "nodule type",
    "upper_lobe": "upper lobe",
    "nodule_count": "number of nodules",
    "spiculation": "spiculation",
}
YES_NO = ("female", "family_history_lung_cancer", "emphysema", "upper_lobe", "spiculation")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model asks; None where it is not known. `age` in years, `diameter` (mean) in mm."""

    age: float
    diameter: float
    appearance: Appearance
    nodule_count: int
    female: bool | None
    family_history_lung_cancer: bool | None
    emphysema: bool | None
    upper_lobe: bool | None
    spiculation: bool | None

    def describe(self, name: str) -> str:
        """Say the value of input `name` as a reader would."""
        if name in YES_NO:
            known = getattr(self, name)
            return "not known, assumed absent" if known is None else "yes" if known else "no"
        if name == "type":
            return self.appearance.value
        if name == "age":
            return f"{self.age:.0f} years"
        if name == "diameter":
            return f"{self.diameter:.1f} mm"
        return str(self.nodule_count) if name == "nodule_count" else ""


def assess(inputs: Inputs, models: Models, deadline: Deadline) -> Risk:
    """Ask the model once, with one row for each possibility of what is not known; the first row assumes absence."""
    model = WITHOUT_SPICULATION if inputs.spiculation is None else WITH_SPICULATION
    asked = [name for name in YES_NO if name != "spiculation" or model == WITH_SPICULATION]
    unknown = [name for name in asked if getattr(inputs, name) is None]
    rows = list(itertools.product((0.0, 1.0), repeat=len(unknown)))

    def column(values: list[float]) -> np.ndarray:
        return np.array(values, dtype=np.float64).reshape(-1, 1)

    tensors = {
        "age": column([inputs.age] * len(rows)),
        "diameter": column([inputs.diameter] * len(rows)),
        "nodule_count": column([float(inputs.nodule_count)] * len(rows)),
        "type": np.full((len(rows), 1), TYPES[inputs.appearance], dtype=np.int64),
    }
    for name in asked:
        known = getattr(inputs, name)
        tensors[name] = column(
            [row[unknown.index(name)] for row in rows] if known is None else [float(known)] * len(rows)
        )
    answer = models.infer(model, tensors, deadline=deadline)
    probability = answer["probability"].ravel()
    shares = answer["contributions"][0]
    return Risk(
        name="malignancy",
        code=codes.PROBABILITY_OF_CANCER,
        outcome=codes.LUNG_CANCER,
        model=models.reference(model),
        probability=float(probability[0]),
        contributions=tuple(
            Contribution(LABELS[name], inputs.describe(name), float(share))
            for name, share in zip(contribution_names(model), shares, strict=True)
        ),
        interval=(float(probability.min()), float(probability.max())) if unknown else None,
        assumed=tuple(LABELS[name] for name in unknown),
    )


def contribution_names(model: str) -> tuple[str, ...]:
    """Return the inputs in the order of the model's output `contributions`."""
    return tuple(name for name in LABELS if name != "spiculation" or model == WITH_SPICULATION)

"""The Brock (PanCan) full model: chance that a lung nodule is malignant.

McWilliams et al., N Engl J Med 2013;369:910, doi 10.1056/NEJMoa1214726: logistic, with age and nodule
count centred, and the mean diameter d (mm) as (d / 10)^-0.5 centred at 4 mm.

Inputs, N rows each: FP64 [N, 1] `age` (years), `female`, `family_history_lung_cancer`, `emphysema`,
`diameter` (mean, mm), `upper_lobe`, `nodule_count`, and `spiculation` where the model has it; INT64 [N, 1]
`type` (0 solid, 1 part-solid, 2 nonsolid). Yes is 1, no is 0.

Outputs: FP64 [N, 1] `probability` and `log_odds`; FP64 [N, K] `contributions`, the additive shares of the
log-odds in the order of `Brock.contributions`, the intercept first: their sum is `log_odds`.

A row that the model cannot be asked about has NaN in every output: a value that is not finite, an age
outside (0, 120], a diameter that is not positive, a count below 1, a yes/no that is neither, another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v17 as op
from onnx import ModelProto
from spox import Tensor, Var, argument, build

from auscult.models.metadata import describe
from auscult.models.real import Real, all_of, where

CENTRE_AGE = 62.0
CENTRE_COUNT = 4.0
CENTRE_DIAMETER = 1.58113883
"""(4 mm / 10)^-0.5, with the digits that the published calculators carry."""
OLDEST = 120.0
SOLID, PART_SOLID, NONSOLID = 0, 1, 2

INPUTS = (
    "age",
    "female",
    "family_history_lung_cancer",
    "emphysema",
    "diameter",
    "type",
    "upper_lobe",
    "nodule_count",
    "spiculation",
)


@dataclass(frozen=True, slots=True)
class Brock:
    """One published version: log-odds per unit of each centred input, and by nodule type."""

    name: str
    source: str
    intercept: float
    per_unit: Mapping[str, float]
    by_type: tuple[float, float, float]
    """For solid, part-solid, nonsolid."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(name for name in INPUTS if name == "type" or name in self.per_unit)

    @property
    def contributions(self) -> tuple[str, ...]:
        """The names of the columns of the output `contributions`."""
        return ("intercept", *self.inputs)


FULL = Brock(
    name="brock_full",
    source=(
        "McWilliams et al., N Engl J Med 2013;369:910, doi 10.1056/NEJMoa1214726, model 2b; coefficients to seven"
        " decimals as two independent public calculators carry them"
    ),
    intercept=-6.78917,
    per_unit={
        "age": 0.0286687,
        "female": 0.6010727,
        "family_history_lung_cancer": 0.296109,
        "emphysema": 0.2953112,
        "diameter": -5.385484,
        "upper_lobe": 0.6581383,
        "nodule_count": -0.0824156,
        "spiculation": 0.7729335,
    },
    by_type=(0.0, 0.3769578, -0.1276173),
)

FULL_NO_SPICULATION = Brock(
    name="brock_full_no_spiculation",
    source=(
        "McWilliams et al., N Engl J Med 2013;369:910, doi 10.1056/NEJMoa1214726, model 2a; coefficients as"
        " medicalalgorithms.com gives them, the one source found"
    ),
    intercept=-6.8071,
    per_unit={
        "age": 0.0321,
        "female": 0.5635,
        "family_history_lung_cancer": 0.3013,
        "emphysema": 0.3462,
        "diameter": -5.6693,
        "upper_lobe": 0.7116,
        "nodule_count": -0.0803,
    },
    by_type=(0.0, 0.3395, -0.3055),
)

CONTRIBUTIONS = FULL.contributions
"""The columns of `contributions` of `brock_full`; `brock_full_no_spiculation` has all but the last."""


def full() -> ModelProto:
    """Return the graph of `brock_full`."""
    return author(FULL)


def full_no_spiculation() -> ModelProto:
    """Return the graph of `brock_full_no_spiculation`."""
    return author(FULL_NO_SPICULATION)


def author(model: Brock) -> ModelProto:
    """Return the graph of `model`, in double precision."""
    inputs = {
        name: argument(Tensor(np.int64 if name == "type" else np.float64, ("batch", 1))) for name in model.inputs
    }
    shares = [_intercept(model, inputs["type"]), *(_share(model, name, inputs[name]) for name in model.inputs)]
    valid = all_of(*(_acceptable(name, value) for name, value in inputs.items()))
    contributions = where(valid, Real(op.concat([share.var for share in shares], axis=1)), np.nan)
    log_odds = op.reduce_sum(contributions.var, op.const(np.array([1])))
    # 1 / (1 + exp(-x)) written out: ONNX Runtime's Sigmoid loses digits of small probabilities.
    probability = Real.constant(1) / (Real(op.exp(op.neg(log_odds))) + 1)
    outputs = {"probability": probability.var, "log_odds": log_odds, "contributions": contributions.var}
    return describe(
        build(inputs, outputs),
        text=f"Chance that a lung nodule is malignant. {model.source}.",
        contributions=",".join(model.contributions),
        source=model.source,
    )


def _intercept(model: Brock, like: Var) -> Real:
    """Return the intercept once for each row of `like` (INT64 [N, 1])."""
    return Real.constant([model.intercept]).at(op.sub(like, like))


def _share(model: Brock, name: str, value: Var) -> Real:
    """Return the share of input `name` in the log-odds, [N, 1]."""
    if name == "type":
        # Another type is not acceptable; the lookup must not fail for it.
        return Real.constant(model.by_type).at(op.clip(value, op.const(SOLID), op.const(NONSOLID)))
    number = Real(value)
    if name == "age":
        number = number - CENTRE_AGE
    elif name == "diameter":
        number = (number / 10) ** -0.5 - CENTRE_DIAMETER
    elif name == "nodule_count":
        number = number - CENTRE_COUNT
    return number * model.per_unit[name]


def _acceptable(name: str, value: Var) -> Var:
    """Whether the model can be asked about `value` of input `name`, BOOL [N, 1]."""
    number = Real.of(value)
    if name == "type":
        return op.and_(number >= SOLID, number <= NONSOLID)
    if name == "age":
        return op.and_(number > 0, number <= OLDEST)
    if name == "diameter":
        return op.and_(number > 0, number.finite())
    if name == "nodule_count":
        return op.and_(number >= 1, number.finite())
    return op.or_(number.equals(0), number.equals(1))

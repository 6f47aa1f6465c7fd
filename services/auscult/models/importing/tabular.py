"""What the sources of risk models share: one input `features` (rows, features), one output, rows to compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auscult.models.importing import graph
from auscult.models.importing.source import TABULAR, CannotImport, Converted, Facts, Request

if TYPE_CHECKING:
    from onnx import ModelProto

FEATURES, PROBABILITIES, VALUE = "features", "probabilities", "value"
LARGEST_BATCH = 1024
ROWS = 64

Predict = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Where each feature lies, as far as the model tells."""

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def unknown(cls, features: int) -> Ranges:
        """Return the standard normal distribution for each."""
        return cls(np.zeros(features), np.ones(features))

    @classmethod
    def of_thresholds(cls, features: int, index: Sequence[int], threshold: Sequence[float]) -> Ranges:
        """Return what the splits of trees tell: both sides of each threshold are reached."""
        found = cls.unknown(features)
        places, values = np.asarray(index, np.int64), np.asarray(threshold, np.float64)
        for feature in np.unique(places):
            own = values[places == feature]
            found.centre[feature] = own.mean()
            found.spread[feature] = max(own.std(), abs(own.mean()) / 10, 1e-3)
        return found

    def rows(self, seed: int, *, missing: bool) -> NDArray[np.float32]:
        """Return rows over twice the spread, some of whole numbers, one of zeros; with `missing`, NaN in some."""
        random = np.random.default_rng(seed)
        rows = self.centre + 2 * self.spread * random.standard_normal((ROWS, len(self.centre)))
        rows[-24:-16] = np.round(rows[-24:-16])
        rows[-1] = 0
        if missing:
            holes = random.random((15, len(self.centre))) < 0.3
            holes[0] = True
            rows[-16:-1][holes] = np.nan
        return rows.astype(np.float32)


def converted(
    model: ModelProto,
    predict: Predict,
    request: Request,
    *,
    ranges: Ranges,
    framework: str,
    names: Sequence[str],
    labels: Sequence[str],
    title: str,
    missing: bool,
    not_carried: Sequence[str] = (),
) -> Converted:
    """Return the model with its one output `probabilities`, or `value` where there are no `labels`.

    `predict`: the source, given (rows, features) in FP32; (rows, outputs). `missing`: whether NaN is answered.
    """
    output = PROBABILITIES if labels else VALUE
    graph.check(model)
    graph.keep_output(model, len(model.graph.output) - 1, output)
    _open_batch(model)
    dtype = graph.dtype(model.graph.output[0])
    whole = ranges.rows(request.seed, missing=missing)
    if request.example:
        whole = np.atleast_2d(_example(request, whole.shape[1]))
    try:
        expected = np.asarray(predict(whole)).reshape(len(whole), -1).astype(dtype)
    except ValueError as error:
        raise CannotImport(
            "example-needed",
            f"the source does not take the rows that are made up here ({error}); give some, nothing of a patient's, "
            f"with --example FILE.npz, an array {FEATURES!r}",
        ) from error
    notes = list(not_carried)
    if not missing:
        graph.answer_nan_for_missing(model)
        holes = whole[:2].copy()
        holes[0, 0], holes[1, -1] = np.nan, np.inf
        whole = np.concatenate([whole, holes])
        expected = np.concatenate([expected, np.full((2, expected.shape[1]), np.nan, dtype)])
        notes.append(
            "A row with a missing or infinite value is answered with NaN: ONNX cannot treat it as the source does."
        )
    if not names:
        notes.append("The source does not name its features; they are given in the order in which it was trained.")
    told = _labels(request, labels, expected.shape[1])
    return Converted(
        model=model,
        given={FEATURES: whole.astype(graph.dtype(model.graph.input[0]))},
        expected={output: expected},
        framework=framework,
        tolerance=TABULAR,
        facts=Facts(title=title),
        parameters=_parameters(request, names),
        labels={output: told} if told else {},
        max_batch_size=LARGEST_BATCH,
        not_carried=tuple(notes),
    )


def _open_batch(model: ModelProto) -> None:
    """Leave the number of rows open: some converters write the one of their example."""
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) != 2:
            raise CannotImport("output-shape", f"{value.name!r} has {len(sizes)} axes; rows and columns are expected")
        sizes[0].Clear()
        sizes[0].dim_param = "rows"


def _example(request: Request, features: int) -> NDArray[np.float32]:
    if list(request.example) != [FEATURES] or request.example[FEATURES].shape[-1] != features:
        raise CannotImport("example-wrong", f"the example needs one array {FEATURES!r} of shape [rows, {features}]")
    return request.example[FEATURES].astype(np.float32)


def _labels(request: Request, labels: Sequence[str], outputs: int) -> tuple[str, ...]:
    told = request.labels or tuple(labels)
    if told and len(told) != outputs:
        raise CannotImport("labels-wrong", f"{len(told)} labels are given, the model has {outputs} outputs")
    return told


def _parameters(request: Request, names: Sequence[str]) -> dict[str, str]:
    if unknown := sorted(request.units.keys() - set(names)):
        raise CannotImport(
            "feature-unknown",
            f"a unit is given for {unknown[0]!r}; the features are {', '.join(names) or 'not named'}",
        )
    parameters = {}
    if names:
        parameters["feature_names"] = json.dumps(list(names), ensure_ascii=False)
    if request.units:
        parameters["feature_units"] = json.dumps(dict(request.units), ensure_ascii=False)
    return parameters

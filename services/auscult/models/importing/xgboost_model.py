"""An XGBoost model: its own `.json` or `.ubj`, or an estimator of its scikit-learn interface."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.models.importing import tabular
from auscult.models.importing.source import CannotImport, Converted, Request, framework
from auscult.models.importing.tabular import FEATURES, Ranges

EXTRA = "import-tabular"


def convert(request: Request) -> Converted:
    """Return the model in the file."""
    xgboost = framework("xgboost", EXTRA)
    try:
        booster = xgboost.Booster(model_file=request.source)
    except xgboost.core.XGBoostError as error:
        raise CannotImport(
            "not-xgboost",
            f"{request.source.name} is not an XGBoost model: {str(error).strip().partition(chr(10))[0]}",
        ) from None
    return _convert(booster, request, ())


def of_object(model: Any, request: Request) -> Converted:
    """Return an estimator, or a Booster, that was unpickled."""
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    return _convert(booster, request, [str(label) for label in getattr(model, "classes_", ())])


def _convert(booster: Any, request: Request, classes: Sequence[str]) -> Converted:
    xgboost, onnxmltools = framework("xgboost", EXTRA), framework("onnxmltools", EXTRA)
    notes = []
    if (best := booster.attr("best_iteration")) is not None:
        booster = booster[: int(best) + 1]
        notes.append(
            f"Training stopped early; as XGBoost's estimators do, only the best {int(best) + 1} rounds are used."
        )
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    _check(learner)
    features, objective = booster.num_features(), learner["objective"]["name"]
    # The converter takes names of the form f0, f1 alone; they are kept as a parameter.
    names, booster.feature_names = list(booster.feature_names or ()), None
    booster.feature_types = None
    types = framework("onnxmltools.convert.common.data_types", EXTRA)
    try:
        model = onnxmltools.convert_xgboost(
            booster, initial_types=[(FEATURES, types.FloatTensorType([None, features]))], target_opset=15
        )
    except Exception as error:
        raise CannotImport("objective-unsupported", f"onnxmltools cannot convert {objective}: {error}") from error
    classifier = len(model.graph.output) == 2

    def predict(rows: NDArray[Any]) -> NDArray[Any]:
        if not classifier:
            return np.asarray(booster.inplace_predict(rows))
        if objective == "multi:softmax":
            margin = np.exp(booster.inplace_predict(rows, predict_type="margin").astype(np.float64))
            return np.asarray(margin / margin.sum(axis=1, keepdims=True))
        positive = np.asarray(booster.inplace_predict(rows))
        return positive if positive.ndim == 2 else np.stack([1 - positive, positive], axis=1)

    outputs = predict(np.zeros((1, features), np.float32)).size
    return tabular.converted(
        model,
        predict,
        request,
        ranges=_ranges(learner, features),
        framework=f"XGBoost {xgboost.__version__}",
        names=names,
        labels=(classes or [str(label) for label in range(outputs)]) if classifier else (),
        title=f"XGBoost, {objective}",
        missing=True,
        not_carried=notes,
    )


def _check(learner: Mapping[str, Any]) -> None:
    booster = learner["gradient_booster"]["name"]
    if booster != "gbtree":
        raise CannotImport("booster-unsupported", f"the booster {booster!r} cannot be carried over; gbtree can")
    trees = learner["gradient_booster"]["model"]["trees"]
    if any(any(tree.get("split_type", ())) for tree in trees):
        kinds = zip(learner.get("feature_names", ()), learner.get("feature_types", ()), strict=False)
        named = ", ".join(name for name, kind in kinds if kind == "c") or "not named"
        raise CannotImport(
            "categorical-features", f"splits on categories cannot be carried over ({named}); encode them as numbers"
        )
    if any(int(tree["tree_param"].get("size_leaf_vector", 1)) > 1 for tree in trees):
        raise CannotImport("vector-leaves", "trees with several outputs a leaf cannot be carried over")


def _ranges(learner: Mapping[str, Any], features: int) -> Ranges:
    index: list[int] = []
    thresholds: list[float] = []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        for child, feature, threshold in zip(
            tree["left_children"], tree["split_indices"], tree["split_conditions"], strict=True
        ):
            if child >= 0:
                index.append(feature)
                thresholds.append(threshold)
    return Ranges.of_thresholds(features, index, thresholds)

"""A LightGBM model: its own text format, or an estimator of its scikit-learn interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.models.importing import tabular
from auscult.models.importing.source import CannotImport, Converted, Request, framework
from auscult.models.importing.tabular import FEATURES, Ranges

EXTRA = "import-tabular"


def convert(request: Request) -> Converted:
    """Return the model in the file."""
    lightgbm = framework("lightgbm", EXTRA)
    try:
        booster = lightgbm.Booster(model_file=request.source)
    except lightgbm.basic.LightGBMError as error:
        raise CannotImport("not-lightgbm", f"{request.source.name} is not a LightGBM model: {error}") from None
    return _convert(booster, request, ())


def of_object(model: Any, request: Request) -> Converted:
    """Return an estimator, or a Booster, that was unpickled."""
    booster = getattr(model, "booster_", model)
    return _convert(booster, request, [str(label) for label in getattr(model, "classes_", ())])


def _convert(booster: Any, request: Request, classes: Sequence[str]) -> Converted:
    lightgbm, onnxmltools = framework("lightgbm", EXTRA), framework("onnxmltools", EXTRA)
    dumped = booster.dump_model()
    names = list(dumped["feature_names"])
    splits = [split for tree in dumped["tree_info"] for split in _splits(tree["tree_structure"])]
    _check(booster, dumped, splits, names)
    objective = str(dumped.get("objective", "none")).partition(" ")[0]
    types = framework("onnxmltools.convert.common.data_types", EXTRA)
    try:
        model = onnxmltools.convert_lightgbm(
            booster,
            initial_types=[(FEATURES, types.FloatTensorType([None, len(names)]))],
            zipmap=False,
            target_opset=15,
        )
    except Exception as error:
        raise CannotImport("objective-unsupported", f"onnxmltools cannot convert {objective}: {error}") from error
    classifier = len(model.graph.output) == 2

    def predict(rows: NDArray[Any]) -> NDArray[Any]:
        answer = np.asarray(booster.predict(rows))
        return np.stack([1 - answer, answer], axis=1) if classifier and answer.ndim == 1 else answer

    outputs = predict(np.zeros((1, len(names)), np.float32)).size
    unnamed = names == [f"Column_{index}" for index in range(len(names))]
    return tabular.converted(
        model,
        predict,
        request,
        ranges=Ranges.of_thresholds(
            len(names), [split["split_feature"] for split in splits], [split["threshold"] for split in splits]
        ),
        framework=f"LightGBM {lightgbm.__version__}",
        names=[] if unnamed else names,
        labels=(classes or [str(label) for label in range(outputs)]) if classifier else (),
        title=f"LightGBM, {objective}",
        missing=True,
    )


def _check(booster: Any, dumped: Any, splits: Sequence[Any], names: Sequence[str]) -> None:
    if categories := sorted({names[split["split_feature"]] for split in splits if split["decision_type"] == "=="}):
        raise CannotImport(
            "categorical-features",
            f"splits on categories cannot be carried over ({', '.join(categories)}); encode them as numbers",
        )
    if zeros := sorted({names[split["split_feature"]] for split in splits if split["missing_type"] == "Zero"}):
        raise CannotImport(
            "zero-as-missing", f"zero means missing for {', '.join(zeros)}, which ONNX cannot say; train without it"
        )
    if dumped.get("average_output"):
        raise CannotImport("random-forest", "LightGBM's random forest mode cannot be carried over; boosting can")
    if "is_linear=1" in booster.model_to_string():
        raise CannotImport("linear-trees", "trees with linear leaves cannot be carried over")


def _splits(node: Any) -> Iterator[Any]:
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if "split_feature" in each:
            yield each
            waiting += [each["left_child"], each["right_child"]]

"""A scikit-learn estimator or pipeline, from `.skops`, or pickled (`.joblib`, `.pkl`) where the caller trusts it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auscult.models.importing import lightgbm_model, tabular, xgboost_model
from auscult.models.importing.entry import open_session
from auscult.models.importing.golden import Golden
from auscult.models.importing.source import CannotImport, Converted, Request, framework
from auscult.models.importing.tabular import FEATURES, Ranges

if TYPE_CHECKING:
    from onnx import ModelProto

EXTRA = "import-tabular"
_LIBRARIES = ("sklearn", "xgboost", "lightgbm")
"""Their classes hold a model's data; skops only wants each to be named."""
OPSET = {"": 17, "ai.onnx.ml": 3}


def convert(request: Request) -> Converted:
    """Return the estimator as ONNX; CannotImport names the step that has no counterpart there."""
    sklearn = framework("sklearn", EXTRA)
    model, notes = _load(request)
    boosted = type(model).__module__.partition(".")[0]
    if boosted == "xgboost":
        return xgboost_model.of_object(model, request)
    if boosted == "lightgbm":
        return lightgbm_model.of_object(model, request)
    kind = _kind(model)
    model = _by_position(model)
    predict = _quiet(model.predict_proba if kind == "classifier" else model.predict)
    features = int(model.n_features_in_)
    ranges = _ranges(model, features)
    title = " and ".join(type(step).__name__ for step in _steps(model))
    refused: CannotImport | None = None
    # Where ONNX treats missing values otherwise than the source, rows that have some are not answered. Where single
    # precision is too little, e.g. for features of very different sizes, double is tried.
    for missing in (True, False) if _takes_missing(predict, ranges) else (False,):
        for dtype in ("FloatTensorType", "DoubleTensorType"):
            try:
                result = tabular.converted(
                    _to_onnx(model, kind, features, dtype),
                    predict,
                    request,
                    ranges=ranges,
                    framework=f"scikit-learn {sklearn.__version__}",
                    names=[str(name) for name in getattr(model, "feature_names_in_", ())],
                    labels=[str(label) for label in model.classes_] if kind == "classifier" else [],
                    title=title,
                    missing=missing,
                    not_carried=notes,
                )
                Golden.of(result).replay(open_session(result.model.SerializeToString()))
            except CannotImport as error:
                refused = refused or error
            else:
                return result
    raise refused or CannotImport("step-unsupported", f"{title} cannot be converted")


def _load(request: Request) -> tuple[Any, list[str]]:
    path = request.source
    if path.suffix == ".skops":
        skops = framework("skops.io", EXTRA)
        types = skops.get_untrusted_types(file=path)
        if unknown := [name for name in types if not _is_class_of_libraries(name)]:
            raise CannotImport(
                "types-untrusted", f"{path.name} holds types that skops does not trust: {', '.join(sorted(unknown))}"
            )
        return skops.load(path, trusted=types), []
    if not request.trust_pickle:
        raise CannotImport(
            "pickle-not-trusted",
            f"{path.name} is a pickle: loading it runs whatever code it holds. Save the model without one "
            "(scikit-learn: skops, .skops; XGBoost: save_model, .ubj or .json; LightGBM: save_model, .txt), or pass "
            "--trust-pickle if you know who made it",
        )
    joblib = framework("joblib", EXTRA)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = joblib.load(path)
        except ModuleNotFoundError as error:
            raise CannotImport(
                "pickle-incomplete", f"{path.name} needs {error.name}, which is not installed"
            ) from None
        except Exception as error:
            raise CannotImport("not-a-pickle", f"{path.name} cannot be unpickled: {error}") from error
    versions = {
        str(warning.message.original_sklearn_version)
        for warning in caught
        if isinstance(warning.message, Warning) and hasattr(warning.message, "original_sklearn_version")
    }
    return model, [
        f"Trained with scikit-learn {version} and read with another version, which may answer otherwise."
        for version in sorted(versions)
    ]


def _is_class_of_libraries(path: str) -> bool:
    """Whether this is a class of theirs, not a function, which a pipeline could call."""
    module, _, name = path.rpartition(".")
    if path == "collections.OrderedDict":
        return True
    return module.partition(".")[0] in _LIBRARIES and isinstance(getattr(framework(module, EXTRA), name, None), type)


def _kind(model: Any) -> str:
    base = framework("sklearn.base", EXTRA)
    name = type(model).__name__
    if not isinstance(model, base.BaseEstimator):
        raise CannotImport("not-an-estimator", f"the file holds a {name}, not a scikit-learn estimator")
    if not hasattr(model, "n_features_in_"):
        raise CannotImport("not-fitted", f"the {name} is not fitted")
    if base.is_classifier(model):
        if not hasattr(model, "predict_proba"):
            raise CannotImport(
                "no-probabilities", f"the {name} gives no probabilities; wrap it into CalibratedClassifierCV"
            )
        if isinstance(model.classes_, list):
            raise CannotImport("many-outputs", f"the {name} has more than one target; import one model for each")
        return "classifier"
    if base.is_regressor(model):
        return "regressor"
    raise CannotImport("neither-classifier-nor-regressor", f"the {name} is neither; only those are risk models")


def _by_position(model: Any) -> Any:
    """Return the model with columns chosen by place instead of name: it is given rows of numbers.

    scikit-learn has no public way to change that of a fitted ColumnTransformer.
    """
    model = copy.deepcopy(model)
    for step in _steps(model):
        members = [step]
        if type(step).__name__ == "ColumnTransformer":
            places = {name: list(index) for name, index in step._transformer_to_input_indices.items()}  # noqa: SLF001
            members = [member for _, transformer, _ in step.transformers_ for member in _steps(transformer)]
            step.transformers_ = [(name, each, places[name]) for name, each, _ in step.transformers_]
            step._columns = [places[name] for name, _, _ in step.transformers]  # noqa: SLF001
        for member in members:
            if any(np.asarray(categories).dtype.kind in "OUS" for categories in getattr(member, "categories_", ())):
                raise CannotImport(
                    "text-features",
                    f"the {type(member).__name__} takes text, and rows of numbers are given; encode it before",
                )
    return model


def _to_onnx(model: Any, kind: str, features: int, dtype: str) -> ModelProto:
    skl2onnx = framework("skl2onnx", EXTRA)
    types = framework("skl2onnx.common.data_types", EXTRA)
    _register_boosters(model)
    try:
        with _booleans_as_integers():
            converted: ModelProto = skl2onnx.convert_sklearn(
                model,
                initial_types=[(FEATURES, getattr(types, dtype)([None, features]))],
                options={id(model): {"zipmap": False}} if kind == "classifier" else None,
                target_opset=OPSET,
            )
    except Exception as error:
        steps = ", ".join(type(step).__name__ for step in _steps(model))
        reason = str(error).strip().partition("\n")[0][:300]
        raise CannotImport(
            "step-unsupported", f"skl2onnx {skl2onnx.__version__} cannot convert {steps}: {reason}"
        ) from error
    return converted


@contextmanager
def _booleans_as_integers() -> Iterator[None]:
    """skl2onnx 1.20 gives booleans as integer attributes of HistGradientBoosting; protobuf 7 refuses them."""
    container = framework("skl2onnx.common._container", EXTRA).ModelComponentContainer
    original = container.add_node

    def whole(value: Any) -> Any:
        return [int(each) if isinstance(each, bool | np.bool_) else each for each in value]

    def add_node(self: Any, *args: Any, **attributes: Any) -> None:
        told = {key: whole(value) if isinstance(value, list) else value for key, value in attributes.items()}
        original(self, *args, **told)

    container.add_node = add_node
    try:
        yield
    finally:
        container.add_node = original


def _register_boosters(model: Any) -> None:
    """Tell skl2onnx of XGBoost's and LightGBM's estimators inside pipelines."""
    for step in _steps(model):
        library = type(step).__module__.partition(".")[0]
        if library not in ("xgboost", "lightgbm"):
            continue
        operators = framework(f"onnxmltools.convert.{library}.operator_converters.{_CONVERTERS[library]}", EXTRA)
        shapes = framework("skl2onnx.common.shape_calculator", EXTRA)
        classifier = type(step).__name__.endswith("Classifier")
        framework("skl2onnx", EXTRA).update_registered_converter(
            type(step),
            type(step).__name__,
            shapes.calculate_linear_classifier_output_shapes
            if classifier
            else shapes.calculate_linear_regressor_output_shapes,
            getattr(operators, f"convert_{library}"),
            options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifier else None,
        )


_CONVERTERS = {"xgboost": "XGBoost", "lightgbm": "LightGbm"}


def _steps(model: Any) -> Iterator[Any]:
    if hasattr(model, "steps"):
        for _, step in model.steps:
            yield from _steps(step)
    elif model is not None and not isinstance(model, str):
        yield model


def _ranges(model: Any, features: int) -> Ranges:
    """Return where the first step expects each feature."""
    first = next(iter(_steps(model)))
    for centre, spread in (("mean_", "scale_"), ("center_", "scale_"), ("data_min_", "data_range_")):
        found = getattr(first, centre, None), getattr(first, spread, None)
        if all(isinstance(each, np.ndarray) and each.shape == (features,) for each in found):
            return Ranges(np.array(found[0], np.float64), np.array(found[1], np.float64))
    index: list[int] = []
    thresholds: list[float] = []
    members = [first, *np.ravel(getattr(first, "estimators_", []))]
    for member in members:
        if (tree := getattr(member, "tree_", None)) is not None:
            inner = tree.children_left >= 0
            index.extend(tree.feature[inner])
            thresholds.extend(tree.threshold[inner])
    return Ranges.of_thresholds(features, index, thresholds)


def _quiet(predict: tabular.Predict) -> tabular.Predict:
    """Keep to itself that the rows have no names: they are in the order of the names."""

    def quiet(rows: NDArray[Any]) -> NDArray[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return predict(rows)

    return quiet


def _takes_missing(predict: tabular.Predict, ranges: Ranges) -> bool:
    try:
        predict(ranges.rows(0, missing=True))
    except ValueError:
        return False
    return True

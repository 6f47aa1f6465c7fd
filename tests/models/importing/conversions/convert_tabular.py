"""Risk models of scikit-learn, XGBoost and LightGBM, trained here and imported."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.utils import check_array

from auscult.inference.pb import model_config_pb2 as pb

Imported = Callable[..., pb.ModelConfig]
Answer = Callable[[np.ndarray], np.ndarray]

RANDOM = np.random.default_rng(7)
X = (RANDOM.standard_normal((240, 4)) * [12, 1, 3, 400] + [60, 0, 8, 1000]).astype(np.float32)
CLASS = np.where((X[:, 0] > 60) ^ (X[:, 1] > 0), "malignant", "benign")
NUMBER = (CLASS == "malignant").astype(int)
THREE = np.digitize(X[:, 2], [7, 9])
NAMES = ["age", "sex", "diameter", "volume"]
FRESH = (RANDOM.standard_normal((500, 4)) * [12, 1, 3, 400] + [60, 0, 8, 1000]).astype(np.float32)
"""Rows that neither training nor importing saw."""


class Own(ClassifierMixin, BaseEstimator):
    """A classifier that only its author has."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Own:
        """Learn the classes and nothing else."""
        self.classes_, self.n_features_in_ = np.unique(y), x.shape[1]
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Return the same for all."""
        return np.full((len(x), 2), 0.5)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=2000),
        make_pipeline(StandardScaler(), RandomForestClassifier(15, random_state=0)),
        GradientBoostingClassifier(n_estimators=15, random_state=0),
        HistGradientBoostingClassifier(max_iter=15),
        make_pipeline(SimpleImputer(), StandardScaler(), MLPClassifier((8,), max_iter=60, random_state=0)),
        make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(), cv=2)),
        make_pipeline(StandardScaler(), KNeighborsClassifier(3)),
        make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=5)),
        make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(n_estimators=5, verbose=-1)),
    ],
    ids=lambda model: "-".join(type(step).__name__ for _, step in getattr(model, "steps", [("", model)])),
)
@pytest.mark.filterwarnings("ignore")
def test_classifier_of_scikit_learn_answers_alike(
    model: Any, tmp_path: Path, imported: Imported, answer: Answer
) -> None:
    """Probabilities of rows that importing did not see are those of scikit-learn; classes have their names."""
    boosted = type(getattr(model, "steps", [("", None)])[-1][1]).__module__.startswith("xgboost")
    model.fit(X, NUMBER if boosted else CLASS)
    joblib.dump(model, tmp_path / "model.joblib")
    config = imported(tmp_path / "model.joblib", "--trust-pickle")
    np.testing.assert_allclose(answer(FRESH), model.predict_proba(FRESH), rtol=1e-4, atol=1e-5)
    assert config.max_batch_size == 1024
    assert [output.name for output in config.output] == ["probabilities"]
    labels = (tmp_path / "models/model" / config.output[0].label_filename).read_text(encoding="utf-8").split()
    assert labels == [str(label) for label in model.classes_]


@pytest.mark.parametrize(
    "last",
    [
        RandomForestClassifier(5, random_state=0),
        HistGradientBoostingClassifier(max_iter=5),
        KNeighborsClassifier(),
        xgboost.XGBClassifier(n_estimators=3),
        lightgbm.LGBMClassifier(n_estimators=3, verbose=-1),
    ],
    ids=lambda last: type(last).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_pipeline_is_imported_from_skops(last: Any, tmp_path: Path, imported: Imported, answer: Answer) -> None:
    """A file that holds no code needs no trust."""
    model = make_pipeline(StandardScaler(), last).fit(X, NUMBER)
    skops.io.dump(model, tmp_path / "model.skops")
    imported(tmp_path / "model.skops")
    np.testing.assert_allclose(answer(FRESH), model.predict_proba(FRESH), rtol=1e-4, atol=1e-5)


def test_function_in_skops_is_not_called(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Data holds no functions: one of scikit-learn's own, in a pipeline, is refused as well."""
    model = make_pipeline(FunctionTransformer(check_array), LogisticRegression(max_iter=2000)).fit(X, CLASS)
    skops.io.dump(model, tmp_path / "model.skops")
    assert "types-untrusted" in refused(tmp_path / "model.skops")


def test_names_are_kept(tmp_path: Path, imported: Imported) -> None:
    """Features that were named in training are named in the configuration, in their order."""
    model = LogisticRegression(max_iter=2000).fit(X, CLASS)
    model.feature_names_in_ = np.array(NAMES, dtype=object)
    skops.io.dump(model, tmp_path / "model.skops")
    config = imported(tmp_path / "model.skops")
    assert json.loads(config.parameters["feature_names"].string_value) == NAMES


def test_columns_chosen_by_name_are_taken_by_place(
    tmp_path: Path, imported: Imported, answer: Answer, models: Callable[..., Any]
) -> None:
    """A pipeline that was trained on a data frame is given rows in the order of its columns."""
    frame = pd.DataFrame(X, columns=NAMES).assign(sex=THREE.astype(np.float32))
    columns = [("scaled", StandardScaler(), ["volume", "age"]), ("coded", OneHotEncoder(), ["sex"])]
    model = make_pipeline(ColumnTransformer(columns), LogisticRegression(max_iter=2000)).fit(frame, CLASS)
    joblib.dump(model, tmp_path / "model.joblib")
    assert "--example" in models("import", tmp_path / "model.joblib", "--name", "model", "--trust-pickle").output
    np.savez(tmp_path / "example.npz", features=frame.to_numpy()[:20])
    config = imported(tmp_path / "model.joblib", "--trust-pickle", "--example", tmp_path / "example.npz")
    rows = frame.to_numpy().astype(np.float32)
    np.testing.assert_allclose(answer(rows), model.predict_proba(frame), rtol=1e-4, atol=1e-5)
    assert json.loads(config.parameters["feature_names"].string_value) == NAMES


def test_text_is_refused_by_name(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A feature of text has no place in rows of numbers."""
    frame = pd.DataFrame(X, columns=NAMES).assign(sex=CLASS)
    model = make_pipeline(ColumnTransformer([("coded", OneHotEncoder(), ["sex"])]), LogisticRegression())
    joblib.dump(model.fit(frame, CLASS), tmp_path / "model.joblib")
    said = refused(tmp_path / "model.joblib", "--trust-pickle")
    assert "text-features" in said
    assert "OneHotEncoder" in said
    assert "malignant" not in said


def test_regressor_gives_a_value(tmp_path: Path, imported: Imported, answer: Answer) -> None:
    """A regressor has one output, `value`, one number a row."""
    model = ExtraTreesRegressor(10, random_state=0).fit(X, X[:, 2] ** 2)
    joblib.dump(model, tmp_path / "model.joblib")
    config = imported(tmp_path / "model.joblib", "--trust-pickle")
    assert [(output.name, list(output.dims)) for output in config.output] == [("value", [1])]
    np.testing.assert_allclose(answer(FRESH)[:, 0], model.predict(FRESH), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_row_that_the_source_refuses_is_not_answered(
    bad: float, tmp_path: Path, imported: Imported, answer: Answer
) -> None:
    """Where scikit-learn raises on a missing value, that row is NaN and the others are as before."""
    skops.io.dump(LogisticRegression(max_iter=2000).fit(X, CLASS), tmp_path / "model.skops")
    imported(tmp_path / "model.skops")
    rows = FRESH[:3].copy()
    rows[1, 2] = bad
    answered = answer(rows)
    assert np.isnan(answered[1]).all()
    np.testing.assert_array_equal(answered[[0, 2]], answer(FRESH)[[0, 2]])


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (xgboost.XGBClassifier, NUMBER),
        (xgboost.XGBClassifier, THREE),
        (xgboost.XGBRegressor, X[:, 2]),
    ],
    ids=["two", "three", "value"],
)
def test_xgboost_answers_alike(  # noqa: PLR0917
    kind: Any, target: np.ndarray, form: str, tmp_path: Path, imported: Imported, answer: Answer
) -> None:
    """XGBoost's own formats, with missing values, which go the way that training chose."""
    holes, fresh = _with_holes(X), _with_holes(FRESH)
    model = kind(n_estimators=12, max_depth=4).fit(holes, target)
    model.get_booster().feature_names = NAMES
    model.save_model(tmp_path / f"model.{form}")
    config = imported(tmp_path / f"model.{form}", "--unit", "age=a", "--unit", "diameter=mm")
    predicted = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    model.get_booster().feature_names = None
    np.testing.assert_allclose(answer(fresh).squeeze(), predicted(fresh), rtol=1e-4, atol=1e-5)
    assert json.loads(config.parameters["feature_names"].string_value) == NAMES
    assert json.loads(config.parameters["feature_units"].string_value) == {"age": "a", "diameter": "mm"}


def test_early_stopped_xgboost_uses_its_best_rounds(tmp_path: Path, imported: Imported, answer: Answer) -> None:
    """What XGBClassifier predicts with after early stopping is what is imported, not all rounds."""
    noise = RANDOM.integers(0, 2, len(X))
    model = xgboost.XGBClassifier(n_estimators=60, max_depth=6, early_stopping_rounds=5)
    model.fit(X[:160], noise[:160], eval_set=[(X[160:], noise[160:])], verbose=False)
    assert model.best_iteration + 1 < len(model.get_booster().get_dump())
    model.save_model(tmp_path / "model.ubj")
    imported(tmp_path / "model.ubj")
    np.testing.assert_allclose(answer(FRESH), model.predict_proba(FRESH), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "target"),
    [(lightgbm.LGBMClassifier, CLASS), (lightgbm.LGBMClassifier, THREE), (lightgbm.LGBMRegressor, X[:, 2])],
    ids=["two", "three", "value"],
)
@pytest.mark.parametrize("holes", [False, True])
def test_lightgbm_answers_alike(  # noqa: PLR0917
    kind: Any, target: np.ndarray, holes: bool, tmp_path: Path, imported: Imported, answer: Answer
) -> None:
    """LightGBM's text format, trained with and without missing values, asked with some."""
    model = kind(n_estimators=12, verbose=-1).fit(_with_holes(X) if holes else X, target)
    model.booster_.save_model(tmp_path / "model.txt")
    imported(tmp_path / "model.txt")
    fresh = _with_holes(FRESH)
    predicted = model.predict_proba if hasattr(model, "predict_proba") else model.predict
    np.testing.assert_allclose(answer(fresh).squeeze(), predicted(fresh), rtol=1e-4, atol=1e-5)


def test_labels_may_be_given(tmp_path: Path, imported: Imported, models: Callable[..., Any]) -> None:
    """XGBoost's formats do not keep the classes' names; the caller's are taken, if they are as many."""
    xgboost.XGBClassifier(n_estimators=3).fit(X, NUMBER).save_model(tmp_path / "model.json")
    config = imported(tmp_path / "model.json", "--labels", "benign,malignant")
    labels = (tmp_path / "models/model" / config.output[0].label_filename).read_text(encoding="utf-8").split()
    assert labels == ["benign", "malignant"]
    more = models("import", tmp_path / "model.json", "--name", "other", "--labels", "a,b,c")
    assert "labels-wrong" in more.output


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pickle", "model.pt", "model.pth"])
def test_pickle_is_not_loaded_without_trust(name: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    """Nothing of a pickle runs unless the caller says so, and the message names the formats without code."""
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(tmp_path / "ran")))
    said = refused(tmp_path / name)
    assert "pickle-not-trusted" in said
    assert "--trust-pickle" in said
    assert not (tmp_path / "ran").exists()


def test_own_step_is_refused_by_name(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A step that ONNX has no counterpart for is named."""
    joblib.dump(make_pipeline(StandardScaler(), Own()).fit(X, CLASS), tmp_path / "model.joblib")
    said = refused(tmp_path / "model.joblib", "--trust-pickle")
    assert "step-unsupported" in said
    assert "Own" in said


def test_classifier_without_probabilities_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Distances from a margin are not shown as if they were probabilities."""
    skops.io.dump(SVC().fit(X, CLASS), tmp_path / "model.skops")
    assert "no-probabilities" in refused(tmp_path / "model.skops")


def test_categories_are_refused_by_name(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Splits on categories cannot be carried over; the feature is named."""
    rows = np.column_stack([RANDOM.integers(0, 6, 240), X[:, 1]]).astype(np.float32)
    target = np.isin(rows[:, 0], [1, 4]).astype(int)
    data = lightgbm.Dataset(rows, target, feature_name=["stage", "age"], categorical_feature=["stage"])
    lightgbm.train(
        {"objective": "binary", "verbose": -1, "min_data_per_group": 1, "max_cat_to_onehot": 1}, data, 5
    ).save_model(tmp_path / "model.txt")
    said = refused(tmp_path / "model.txt")
    assert "categorical-features" in said
    assert "stage" in said
    matrix = xgboost.DMatrix(
        rows, target, feature_names=["stage", "age"], feature_types=["c", "float"], enable_categorical=True
    )
    xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, matrix, 5).save_model(tmp_path / "m.json")
    said = refused(tmp_path / "m.json")
    assert "categorical-features" in said
    assert "stage" in said


def test_zero_as_missing_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A model for which 0 means unknown is not one for which NaN does."""
    rows = np.where(RANDOM.random(X.shape) < 0.3, 0, X)
    data = lightgbm.Dataset(rows, NUMBER)
    lightgbm.train({"objective": "binary", "verbose": -1, "zero_as_missing": True}, data, 5).save_model(
        tmp_path / "model.txt"
    )
    assert "zero-as-missing" in refused(tmp_path / "model.txt")


def test_linear_booster_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    """Only trees of XGBoost are carried over."""
    xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(X, NUMBER), 2).save_model(tmp_path / "model.json")
    assert "booster-unsupported" in refused(tmp_path / "model.json")


def test_answer_that_differs_is_not_imported(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the graph answers otherwise than the source, nothing is written."""
    model = LogisticRegression(max_iter=2000).fit(X, CLASS)
    skops.io.dump(model, tmp_path / "model.skops")
    monkeypatch.setattr(LogisticRegression, "predict_proba", lambda _, x: np.full((len(x), 2), 0.5))
    assert "output-differs" in refused(tmp_path / "model.skops")


def _with_holes(rows: np.ndarray) -> np.ndarray:
    holed = rows.copy()
    holed[np.random.default_rng(3).random(rows.shape) < 0.15] = np.nan
    return holed

"""The Brock graphs give the published probabilities, and say why."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from auscult.models.risk.brock import CONTRIBUTIONS, FULL, FULL_NO_SPICULATION, Brock

Run = Callable[[str, dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]
Row = dict[str, float]

VECTORS = Path(__file__).parents[3].parent / "shared/reference/lung/brock_vectors.csv"
VERSIONS = pytest.mark.parametrize("model", [FULL, FULL_NO_SPICULATION], ids=lambda model: model.name)


CENTRE: Row = {
    "age": 62,
    "female": 0,
    "family_history_lung_cancer": 0,
    "emphysema": 0,
    "diameter": 4,
    "type": 0,
    "upper_lobe": 0,
    "nodule_count": 4,
    "spiculation": 0,
}


def row(*values: float, **changes: float) -> Row:
    """Return one row of inputs: `values` in the order of CENTRE, then `changes`; the rest as in CENTRE."""
    return CENTRE | dict(zip(CENTRE, values, strict=False)) | changes


def ask(run: Run, model: Brock, *rows: Row) -> dict[str, NDArray[np.float64]]:
    """Return the model's answer for `rows`."""
    return run(
        model.name,
        {
            name: np.array([[each[name]] for each in rows], np.int64 if name == "type" else np.float64)
            for name in model.inputs
        },
    )


YES_NO = st.sampled_from((0, 1))
ROWS = st.fixed_dictionaries(
    dict.fromkeys(CENTRE, YES_NO)
    | {
        "age": st.floats(40, 90),
        "diameter": st.floats(1, 30),
        "type": st.sampled_from((0, 1, 2)),
        "nodule_count": st.integers(1, 30),
    }
)


@pytest.mark.parametrize(
    ("inputs", "full", "no_spiculation"),
    [
        (row(), 0.11246367, 0.11046737),
        (row(age=50, diameter=3, nodule_count=1), 0.02736866, 0.02391625),
        (row(age=55, female=1, diameter=6, type=2, nodule_count=3), 0.76042703, 0.63774793),
        (row(80, 1, 0, 1, 30, 0, 1, 1, 1), 84.65060679, 78.97930600),
        (row(60, 1, 0, 0, 10, 1, 1, 1, 1), 25.72245328, 15.17231432),
        (row(77, diameter=18.5, nodule_count=1), 17.41952724, 21.60387356),
        (row(68, 1, 1, 0, 14.7, 2, 1, 7, 0), 20.36921020, 21.47530550),
    ],
)
def test_known_nodules_have_their_published_risk(run: Run, inputs: Row, full: float, no_spiculation: float) -> None:
    """Percentages that two independent public calculators give."""
    assert 100 * ask(run, FULL, inputs)["probability"].item() == pytest.approx(full, abs=1e-6)
    assert 100 * ask(run, FULL_NO_SPICULATION, inputs)["probability"].item() == pytest.approx(
        no_spiculation, abs=1e-6
    )


def test_reference_table_is_met(run: Run) -> None:
    """Every row of the reference table is met to a millionth of a percentage point."""
    if not VECTORS.exists():
        pytest.skip("the reference vectors are not beside the repository")
    kinds = {"solid": 0, "part": 1, "ggo": 2}
    with VECTORS.open() as file:
        table = list(csv.DictReader(file))
    rows = [
        row(
            *(float(line[key]) for key in ("age", "female", "family_hx_lung_ca", "emphysema", "diameter_mm")),
            kinds[line["type"]],
            *(float(line[key]) for key in ("upper_lobe", "nodule_count", "spiculation")),
        )
        for line in table
    ]
    for model, column in ((FULL, "brock_full_spic_pct"), (FULL_NO_SPICULATION, "brock_full_nospic_pct")):
        expected = [float(line[column]) for line in table]
        np.testing.assert_allclose(100 * ask(run, model, *rows)["probability"].ravel(), expected, rtol=0, atol=1e-6)


@given(ROWS)
@settings(deadline=None)
def test_formula_is_the_published_one(run: Run, inputs: Row) -> None:
    """The model with spiculation agrees with the paper's form, whose constants are folded into one intercept.

    0.2761 is the folded intercept that PMC6717521, Table 2, prints; coefficients have four decimals there.
    """
    slope = {
        "age": 0.0287,
        "female": 0.6011,
        "family_history_lung_cancer": 0.2961,
        "emphysema": 0.2953,
        "upper_lobe": 0.6581,
        "nodule_count": -0.0824,
        "spiculation": 0.7729,
    }
    x = 0.2761 + sum(value * inputs[name] for name, value in slope.items())
    x += (0, 0.377, -0.1276)[int(inputs["type"])] - 5.3854 / np.sqrt(inputs["diameter"] / 10)
    expected = 1 / (1 + np.exp(-x))
    # Four decimals: the last digit moves a count of 30 by 0.0005 and an age of 90 by 0.003 in log-odds.
    assert ask(run, FULL, inputs)["log_odds"].item() == pytest.approx(x, abs=6e-3)
    assert ask(run, FULL, inputs)["probability"].item() == pytest.approx(expected, abs=1.5e-3)


@VERSIONS
@given(rows=st.lists(ROWS, min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_contributions_explain_the_risk(run: Run, model: Brock, rows: list[Row]) -> None:
    """In every row the contributions add up to the log-odds, and the probability is their logistic."""
    answer = ask(run, model, *rows)
    assert answer["contributions"].shape == (len(rows), len(model.contributions))
    np.testing.assert_allclose(answer["contributions"].sum(axis=1, keepdims=True), answer["log_odds"], atol=1e-12)
    np.testing.assert_allclose(answer["probability"], 1 / (1 + np.exp(-answer["log_odds"])), rtol=1e-13)


@VERSIONS
@given(rows=st.lists(ROWS, min_size=2, max_size=8))
@settings(deadline=None, max_examples=25)
def test_rows_do_not_touch_each_other(run: Run, model: Brock, rows: list[Row]) -> None:
    """A row's answer is the same alone and in a batch, but for the last bit of vectorised exponentials."""
    together = ask(run, model, *rows)["probability"]
    alone = [ask(run, model, each)["probability"][0] for each in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-14)


@VERSIONS
@given(inputs=ROWS, more=st.floats(0.1, 5))
@settings(deadline=None, max_examples=50)
def test_risk_moves_as_published(run: Run, model: Brock, inputs: Row, more: float) -> None:
    """A larger nodule, an older patient or a risk factor raises the risk; more nodules lower it."""
    higher = [inputs | {name: inputs[name] + more} for name in ("diameter", "age")]
    factors = [name for name in model.inputs if name not in {"diameter", "age", "type", "nodule_count"}]
    before = ask(run, model, *(inputs | {name: 0} for name in factors))["log_odds"]
    after = ask(run, model, *(inputs | {name: 1} for name in factors))["log_odds"]
    answer = ask(run, model, inputs, inputs | {"nodule_count": inputs["nodule_count"] + 1}, *higher)[
        "log_odds"
    ].ravel()
    assert (after > before).all()
    assert answer[1] < answer[0] < answer[2:].min()


@VERSIONS
def test_contributions_vanish_at_the_centre(run: Run, model: Brock) -> None:
    """A solid 4 mm nodule, one of four, in a man of 62 without risk factors has the intercept alone."""
    shares = ask(run, model, row())["contributions"][0]
    assert shares[0] == model.intercept
    np.testing.assert_allclose(shares[1:], 0, atol=1e-8)


@VERSIONS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("diameter", 0.0),
        ("diameter", -4.0),
        ("diameter", np.nan),
        ("diameter", np.inf),
        ("age", np.nan),
        ("age", 0.0),
        ("age", 121.0),
        ("nodule_count", 0.0),
        ("nodule_count", np.nan),
        ("nodule_count", np.inf),
        ("type", -1),
        ("type", 3),
        ("female", 2.0),
        ("emphysema", 0.5),
        ("upper_lobe", np.nan),
    ],
)
def test_senseless_input_has_no_risk(run: Run, model: Brock, name: str, value: float) -> None:
    """A row that the model cannot be asked about is NaN in every output; its neighbours are answered."""
    answer = ask(run, model, row(), row() | {name: value}, row())
    for output in answer.values():
        assert np.isnan(output[1]).all()
        assert np.isfinite(output[[0, 2]]).all()


@VERSIONS
def test_names_of_contributions_are_in_the_repository(repository: Path, model: Brock) -> None:
    """A reader without this code finds the order of the contributions in the configuration and in the graph."""
    folder = repository / model.name
    names = ",".join(model.contributions)
    assert f'"contributions" value {{ string_value: "{names}" }}' in (folder / "config.pbtxt").read_text()
    properties = {entry.key: entry.value for entry in onnx.load(folder / "1/model.onnx").metadata_props}
    assert properties["contributions"] == names
    assert CONTRIBUTIONS[: len(model.contributions)] == model.contributions

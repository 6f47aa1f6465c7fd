"""Volume doubling time, and what the guideline makes of it."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.domain import codes
from auscult.pathways.lung_nodule.fleischner import Appearance
from auscult.pathways.lung_nodule.growth import Change, Sizes, doubling_time, recommend

VECTORS = Path(__file__).resolve().parents[4] / "shared/reference/lung/vdt_vectors.csv"
RULES = {"VDT<=400": "VDT_UP_TO_400", "VDT 400-600": "VDT_400_TO_600", "VDT>600": "VDT_ABOVE_600"}


def change(earlier: float, later: float, days: int = 100) -> Change:
    """Return the change of a nodule between two volumes in mm3."""
    return Change(Sizes(5, 5, earlier), Sizes(6, 6, later), date(2026, 1, 1), days, "1.2")


def test_reference_vectors() -> None:
    """Doubling time, change in percent, significance and advice of each row."""
    if not VECTORS.exists():
        pytest.skip(f"the reference vectors are not here: {VECTORS.name}")
    with VECTORS.open() as file:
        for row in csv.DictReader(file):
            found = change(float(row["v1_mm3"]), float(row["v2_mm3"]), int(row["days"]))
            assert found.doubling_time == pytest.approx(float(row["vdt_days"]), rel=1e-6), row["id"]
            assert 100 * found.share == pytest.approx(float(row["pct_change"]), abs=1e-5), row["id"]
            assert found.significant == (row["growth_ge25pct"] == "true"), row["id"]
            advice = recommend(found, Appearance.SOLID)
            assert (advice and advice.rule) == RULES.get(row["bts_action"].partition(":")[0]), row["id"]


@given(st.floats(10, 1e4), st.floats(20, 2000), st.integers(30, 1500))
def test_the_doubling_time_is_the_one_that_it_grew_with(volume: float, time: float, days: int) -> None:
    """It is exponential growth, read backwards."""
    found = doubling_time(volume, volume * 2 ** (days / time), days)
    assert found == pytest.approx(time, rel=1e-6)


@pytest.mark.parametrize(("earlier", "later", "days"), [(100, 100, 90), (100, 60, 90), (0, 50, 90), (100, 200, 0)])
def test_what_did_not_grow_has_no_doubling_time(earlier: float, later: float, days: float) -> None:
    """Neither infinity nor a negative number."""
    assert doubling_time(earlier, later, days) is None


@pytest.mark.parametrize(
    ("later", "verdict"),
    [(125, codes.GROWN), (124, codes.STABLE), (76, codes.STABLE), (75, codes.SHRUNK)],
)
def test_a_quarter_of_the_volume_is_significant(later: float, verdict: codes.Code) -> None:
    """On both sides; less is within volumetry's error, and brings no advice."""
    found = change(100, later)
    assert found.verdict == verdict
    assert found.evaluation().value == verdict
    assert (recommend(found, Appearance.SOLID) is not None) == (verdict is codes.GROWN)


@pytest.mark.parametrize(
    ("days", "rule"),
    [(400, "VDT_UP_TO_400"), (401, "VDT_400_TO_600"), (600, "VDT_400_TO_600"), (601, "VDT_ABOVE_600")],
)
def test_the_bounds_of_the_guideline(days: int, rule: str) -> None:
    """A volume that doubled has its interval as doubling time; subsolid nodules have no such rule."""
    advice = recommend(change(100, 200, days), Appearance.SOLID)
    assert advice is not None
    assert advice.rule == rule
    assert recommend(change(100, 200, days), Appearance.PART_SOLID) is None


def test_the_numbers_have_units_and_say_from_which_study() -> None:
    """UCUM units; without a doubling time where there is none."""
    group = change(100, 150).group()
    assert {m.name: m.unit for m in group.measurements} == {
        "interval": "d",
        "earlier-longest-diameter": "mm",
        "earlier-mean-diameter": "mm",
        "earlier-volume": "mm3",
        "mean-diameter-change": "mm",
        "volume-change": "%",
        "volume-doubling-time": "d",
    }
    assert group.compared_with == "1.2"
    assert "volume-doubling-time" not in {m.name for m in change(100, 90).group().measurements}

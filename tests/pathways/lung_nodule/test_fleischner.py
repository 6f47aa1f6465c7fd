"""Fleischner 2017 against its published tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.pathways.lung_nodule.fleischner import (
    TEXTS,
    Appearance,
    Applicability,
    Risk,
    recommend,
    rule,
)

VECTORS = Path(__file__).resolve().parents[4] / "shared/reference/lung/fleischner2017_vectors.csv"
APPEARANCES = {
    "solid": (Appearance.SOLID,),
    "ggn": (Appearance.NONSOLID,),
    "part_solid": (Appearance.PART_SOLID,),
    "subsolid": (Appearance.NONSOLID, Appearance.PART_SOLID),
}


@pytest.mark.parametrize(
    ("appearance", "multiple", "mm", "risk", "expected"),
    [
        (Appearance.SOLID, False, 5.9, Risk.LOW, "NONE"),
        (Appearance.SOLID, False, 5.9, Risk.HIGH, "OPTIONAL_12M"),
        (Appearance.SOLID, False, 6.0, Risk.LOW, "CT_6_12M_THEN_CONSIDER_18_24M"),
        (Appearance.SOLID, False, 8.0, Risk.HIGH, "CT_6_12M_THEN_18_24M"),
        (Appearance.SOLID, False, 8.1, Risk.LOW, "CONSIDER_CT_3M_PETCT_OR_TISSUE"),
        (Appearance.SOLID, True, 8.1, Risk.LOW, "CT_3_6M_THEN_CONSIDER_18_24M"),
        (Appearance.SOLID, True, 6.0, Risk.HIGH, "CT_3_6M_THEN_18_24M"),
        (Appearance.NONSOLID, False, 5.9, Risk.HIGH, "NONE"),
        (Appearance.NONSOLID, False, 6.0, Risk.LOW, "CT_6_12M_THEN_EVERY_2Y_UNTIL_5Y"),
        (Appearance.PART_SOLID, False, 5.9, Risk.HIGH, "NONE"),
        (Appearance.PART_SOLID, False, 6.0, Risk.LOW, "CT_3_6M_THEN_ANNUAL_5Y_IF_SOLID_LT6"),
        (Appearance.PART_SOLID, True, 5.9, Risk.LOW, "CT_3_6M_THEN_CONSIDER_2Y_4Y"),
        (Appearance.NONSOLID, True, 6.0, Risk.HIGH, "CT_3_6M_THEN_PER_MOST_SUSPICIOUS"),
    ],
)
def test_each_cell_of_the_published_tables(
    appearance: Appearance, multiple: bool, mm: float, risk: Risk, expected: str
) -> None:
    """Size bounds are below 6, 6 to 8 with both ends, and above 8 mm."""
    assert rule(appearance=appearance, mean_diameter=mm, multiple=multiple, risk=risk) == expected


def test_reference_vectors() -> None:
    """Every row of the reference file gives its rule."""
    if not VECTORS.exists():
        pytest.skip(f"the reference vectors are not here: {VECTORS.name}")
    with VECTORS.open() as file:
        for row in csv.DictReader(file):
            for appearance in APPEARANCES[row["type"]]:
                for risk in {"low": (Risk.LOW,), "high": (Risk.HIGH,)}.get(row["risk"], tuple(Risk)):
                    answer = rule(
                        appearance=appearance,
                        mean_diameter=float(row["mm"]),
                        multiple=row["number"] == "multiple",
                        risk=risk,
                    )
                    assert answer == row["expected"], row["id"]


@given(
    st.sampled_from(Appearance),
    st.floats(0.1, 30),
    st.booleans(),
    st.sampled_from([(Risk.LOW,), (Risk.HIGH,), tuple(Risk)]),
)
def test_every_nodule_gets_advice_in_words(
    appearance: Appearance, mm: float, multiple: bool, risks: tuple[Risk, ...]
) -> None:
    """There is a text for every combination, and where the risk decides and is not known, both are said."""
    advice = recommend(
        appearance=appearance, mean_diameter=mm, multiple=multiple, risks=risks, patient=Applicability()
    )
    assert any(text in advice.text for text in TEXTS.values())
    if "_OR_" in advice.rule and advice.rule not in TEXTS:
        assert "If the risk is low" in advice.text
        assert "If the risk is high" in advice.text


@pytest.mark.parametrize(
    "patient",
    [Applicability(age=34.9), Applicability(known_cancer=True), Applicability(immunosuppressed=True)],
)
def test_patients_for_whom_the_guideline_is_not_made(patient: Applicability) -> None:
    """Below 35 years, with known cancer or immunosuppressed: no interval is advised and the reason is given."""
    advice = recommend(
        appearance=Appearance.SOLID, mean_diameter=7, multiple=False, risks=(Risk.LOW,), patient=patient
    )
    assert advice.rule == "NOT_APPLICABLE"
    assert "because" in advice.text


def test_a_mass_is_referred() -> None:
    """Above 30 mm it is a mass, and the guideline for nodules is not used."""
    advice = recommend(
        appearance=Appearance.SOLID, mean_diameter=31, multiple=False, risks=tuple(Risk), patient=Applicability()
    )
    assert advice.rule == "NOT_APPLICABLE"
    assert "mass" in advice.text

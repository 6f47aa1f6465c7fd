"""The table of radiomics features holds what the standards ask of it."""

from __future__ import annotations

import re

from auscult.domain.codes import IBSI
from auscult.domain.ibsi import RADIOMICS_BASIC

UNITS = {"mm", "mm3", "1", "[hnsf'U]", "[hnsf'U]2"}


def test_names_and_codes_are_unique() -> None:
    """No two features share a name or a code."""
    assert len({feature.name for feature in RADIOMICS_BASIC}) == len(RADIOMICS_BASIC)
    assert len({feature.code for feature in RADIOMICS_BASIC}) == len(RADIOMICS_BASIC)


def test_codes_have_the_form_of_the_ibsi() -> None:
    """Codes are four characters of the IBSI's own system."""
    for feature in RADIOMICS_BASIC:
        assert feature.code.system == IBSI
        assert re.fullmatch("[0-9A-Z]{4}", feature.code.code)


def test_units_fit_their_features() -> None:
    """Units are UCUM's; what is squared is squared, and what is a ratio has none."""
    units = {feature.name: feature.unit for feature in RADIOMICS_BASIC}
    assert set(units.values()) == UNITS
    assert {name for name, unit in units.items() if unit == "[hnsf'U]2"} == {"variance", "energy"}
    assert {name for name, unit in units.items() if unit == "1"} == {
        "elongation",
        "flatness",
        "skewness",
        "kurtosis",
        "coefficient-of-variation",
        "quartile-coefficient-of-dispersion",
        "entropy",
        "uniformity",
    }

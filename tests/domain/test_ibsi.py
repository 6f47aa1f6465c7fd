"""The table of radiomics features holds what the standards ask of it."""

from __future__ import annotations

import re

from auscult.domain.codes import IBSI
from auscult.domain.ibsi_features import FEATURES


def test_names_and_codes_are_unique() -> None:
    """No two features share a name, or a code where their matrices are brought together in the same way."""
    assert len({feature.name for feature in FEATURES}) == len(FEATURES) == 482
    assert len({(feature.code, feature.aggregation) for feature in FEATURES}) == len(FEATURES)


def test_codes_have_the_form_of_the_ibsi() -> None:
    """Codes are four characters of the IBSI's own system."""
    for feature in FEATURES:
        assert feature.code.system == IBSI
        assert re.fullmatch("[0-9A-Z]{4}", feature.code.code)


def test_units_fit_their_features() -> None:
    """Units are UCUM's; what is squared is squared, and textures have none."""
    units = {feature.name: feature.unit for feature in FEATURES}
    assert set(units.values()) == {"mm", "mm2", "mm3", "/mm", "1", "[hnsf'U]", "[hnsf'U]2", "[hnsf'U].mm3"}
    assert {name for name, unit in units.items() if unit == "[hnsf'U]2"} == {"stat_var", "stat_energy"}
    assert {unit for name, unit in units.items() if name.startswith(("cm_", "rlm_", "szm_", "ih_"))} == {"1"}

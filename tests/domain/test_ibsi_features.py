"""The table of all IBSI features holds what the standards ask of it."""

from __future__ import annotations

import re

from pydicom.sr._concepts_dict import concepts

from auscult.domain.codes import IBSI
from auscult.domain.ibsi_features import (
    DIRECTIONAL,
    FEATURES,
    FRACTIONS,
    LOCAL_INTENSITY,
    REGION,
    TEXTURE,
    UNDIRECTED,
    VOLUME_HISTOGRAM,
)


def test_names_are_unique_and_so_are_codes_of_an_aggregation() -> None:
    """A feature is known by its name, or by its code and how its matrices are brought together."""
    assert len({feature.name for feature in FEATURES}) == len(FEATURES) == 482
    assert len({(feature.code.code, feature.aggregation) for feature in FEATURES}) == 482
    assert all(feature.name.endswith(feature.aggregation) for feature in FEATURES)
    assert {feature.aggregation for feature in FEATURES} == {"", *DIRECTIONAL, *UNDIRECTED}


def test_codes_have_the_form_of_the_ibsi() -> None:
    """Codes are four characters of the IBSI's own system."""
    for feature in FEATURES:
        assert feature.code.system == IBSI
        assert re.fullmatch("[0-9A-Z]{4}", feature.code.code)


def test_codes_are_those_of_dicom() -> None:
    """Every code that is not of intensities alone is in DICOM's dictionary of concepts."""
    known = {code for named in concepts["IBSI"].values() for code in named}
    apart = {LOCAL_INTENSITY, VOLUME_HISTOGRAM, "statistics"}
    assert {feature.code.code for feature in FEATURES if feature.family not in apart} <= known


def test_the_models_return_all_but_what_is_measured_beside_them() -> None:
    """44 and 431 features come from graphs, seven do not."""
    assert (len(REGION), len(TEXTURE), len(FRACTIONS)) == (44, 431, 6)
    assert len({feature.name for feature in FEATURES} - {feature.name for feature in (*REGION, *TEXTURE)}) == 7


def test_units_are_of_ucum() -> None:
    """Lengths in mm, intensities in HU, and pure numbers."""
    assert {feature.unit for feature in FEATURES} == {
        "1",
        "mm",
        "mm2",
        "mm3",
        "/mm",
        "[hnsf'U]",
        "[hnsf'U]2",
        "[hnsf'U].mm3",
    }

"""A radiomics result is described once, for every encoder."""

from __future__ import annotations

import pytest
from pydicom.sr.codedict import Collection

from auscult.domain.codes import DCM, IBSI
from auscult.domain.finding import ModelReference
from auscult.domain.ibsi import HU
from auscult.domain.ibsi_features import FEATURES
from auscult.domain.radiomics import AGGREGATIONS, FAMILIES, described, unit

MODEL = ModelReference("radiomics", "1", "https://arxiv.org/abs/1612.07003")
VALUES = {feature.name: float(number) for number, feature in enumerate(FEATURES)}


def test_each_group_is_one_family_aggregated_in_one_way() -> None:
    """All features are in it once, in their order, and no code is twice in a group."""
    groups = described(FEATURES, VALUES, model=lambda _: MODEL, settings="{}")
    assert [m.name for group in groups for m in group.measurements] == list(VALUES)
    assert len({group.name for group in groups}) == len(groups) == 29
    for group in groups:
        assert len({m.code for m in group.measurements}) == len(group.measurements)
    assert {group.method for group in groups} == {None, *AGGREGATIONS.values()}


def test_what_has_no_value_is_named() -> None:
    """A number that is none does not travel as one."""
    values = {**VALUES, "morph_moran_i": float("nan"), "morph_diam": float("inf")}
    groups = described(FEATURES, values, model=lambda _: MODEL, settings="{}")
    assert [code.code for code in groups[0].without_value] == ["L0JK", "N365"]
    assert "morph_diam" not in {m.name for m in groups[0].measurements}


@pytest.mark.parametrize(
    ("intensity", "units"),
    [
        (HU, {HU, f"{HU}2", f"{HU}.mm3", "mm"}),
        ("g/mL", {"g/mL", "(g/mL)2", "(g/mL).mm3", "mm"}),
        ("1", {"1", "mm3", "mm"}),
    ],
)
def test_units_follow_those_of_the_image(intensity: str, units: set[str]) -> None:
    """Intensities squared, and summed over a volume; lengths stay."""
    named = {feature.name: feature for feature in FEATURES}
    said = {unit(named[name], intensity) for name in ("stat_mean", "stat_var", "morph_integ_int", "morph_diam")}
    assert said == units


def test_codes_are_registered() -> None:
    """DICOM's own dictionary has the codes of the families, and every IBSI code of shape, histogram and texture."""
    dicom = {getattr(Collection("DCM"), name).value for name in Collection("DCM").dir()}
    assert {code.code for code in FAMILIES.values() if code.system == DCM} <= dicom
    ours = {f.code.code for f in FEATURES if f.family not in {"statistics", "local intensity"}}
    registered = {getattr(Collection("IBSI"), name).value for name in Collection("IBSI").dir()}
    assert {code for code in ours if code not in registered} == {"NK6P", "4279", "PWN1", "BOHI", "WITY", "JXJA"}
    assert all(feature.code.system == IBSI for feature in FEATURES)

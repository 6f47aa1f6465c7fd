"""What no feature can be computed from is refused by name; what has no value is NaN, and only that."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from auscult.domain.ibsi_features import REGION
from auscult.platform.errors import TellClinician
from auscult.radiomics import process as processing
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, measure
from auscult.radiomics.process import process

pytestmark = pytest.mark.golden

SHAPE = (3, 4, 5)
IMAGE = np.arange(60, dtype=float).reshape(SHAPE)
FULL = np.ones(SHAPE, bool)
UNIT = np.ones(3)
BINS = Chain(bin_width=10)


def without_value(values: dict[str, float]) -> set[str]:
    """Return the families, or names of morphological features, that have a NaN; nothing is infinite."""
    assert not np.isinf(list(values.values())).any()
    missing = {name for name, value in values.items() if np.isnan(value)}
    return {name if name.startswith("morph") else name.partition("_")[0] for name in missing}


def refused(image: np.ndarray, mask: np.ndarray, spacing: np.ndarray, chain: Chain) -> str:
    """Return the reason for which `process` gives nothing."""
    with pytest.raises(TellClinician) as error:
        process(image, mask, spacing, chain)
    return error.value.reason


def test_an_empty_mask_is_refused() -> None:
    """Neither an empty mask nor one that interpolation empties is a region."""
    assert refused(IMAGE, ~FULL, UNIT, BINS) == "region-empty"
    one = np.zeros(SHAPE, bool)
    one[1, 1, 1] = True
    assert refused(IMAGE, one, UNIT, Chain(bin_width=1, spacing=(3, 3, 3))) == "region-empty"


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4), (2, 4, 5)])
def test_a_mask_of_another_geometry_is_refused(shape: tuple[int, ...]) -> None:
    """An image and a mask that do not fit are never paired in some way."""
    assert refused(IMAGE, np.ones(shape, bool), UNIT, BINS) == "mask-geometry"


@pytest.mark.parametrize("spacing", [[1, 0, 1], [1, -1, 1], [1, np.nan, 1], (1, np.inf, 1), [1, 1], 1])
def test_an_impossible_spacing_is_refused(spacing: Any) -> None:
    """Lengths are three, above 0 and finite."""
    assert refused(IMAGE, FULL, spacing, BINS) == "spacing-invalid"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_intensity_that_is_no_number_is_refused_in_the_region_alone(way: Infer | None, bad: float) -> None:
    """Inside it would spoil every feature; outside it is left out of the local peak."""
    image, mask = IMAGE.copy(), FULL.copy()
    image[0, 0, 0] = bad
    assert refused(image, mask, UNIT, BINS) == "intensity-not-finite"
    assert refused(image, mask, UNIT, Chain(bin_width=10, spacing=(0.5, 1, 1))) == "intensity-not-finite"
    mask[0, 0, 0] = False
    assert without_value(measure(image, mask, UNIT, BINS, way)) == set()


def test_a_range_that_leaves_nothing_is_refused() -> None:
    """Resegmentation must leave a voxel."""
    assert refused(IMAGE, FULL, UNIT, Chain(bin_width=1, resegmentation=(100, 200))) == "no-intensity-left"


def test_too_many_levels_are_refused() -> None:
    """Matrices grow with the square of the levels."""
    assert refused(IMAGE * 100, FULL, UNIT, Chain(bin_width=1)) == "too-many-levels"
    assert refused(IMAGE * 1e15, FULL, UNIT, Chain(bin_width=1)) == "too-many-levels"


def test_a_huge_region_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory is taken for it."""
    monkeypatch.setattr(processing, "MOST_VOXELS", 1000)
    assert refused(IMAGE, FULL, UNIT, Chain(bin_width=1, spacing=(0.1, 0.1, 0.1))) == "region-too-large"


def test_one_voxel_has_what_needs_no_neighbour(way: Infer | None) -> None:
    """One voxel has a mesh, an intensity, a run and a zone, and no pair."""
    mask = np.zeros(SHAPE, bool)
    mask[1, 2, 3] = True
    values = measure(IMAGE, mask, UNIT, BINS, way)
    assert without_value(values) == {
        *(f"morph_pca_{name}" for name in ("elongation", "flatness")),
        *(f"morph_{name}_dens_aee" for name in ("vol", "area")),
        "morph_moran_i",
        "morph_geary_c",
        "cm",
        "ngt",
    }
    assert values["morph_volume"] == pytest.approx(1 / 6)  # an octahedron
    assert values["morph_diam"] == values["rlm_sre_3D_comb"] == values["szm_z_perc_3D"] == 1


def test_a_flat_region_has_no_autocorrelation(way: Infer | None) -> None:
    """What divides by the spread of intensities is NaN, or what the IBSI says."""
    values = measure(np.full(SHAPE, 40.0), FULL, UNIT, Chain(bin_number=32), way)
    assert without_value(values) == {"morph_moran_i", "morph_geary_c"}
    assert values["cm_corr_3D_comb"] == 1
    assert values["ngt_coarseness_3D"] == 1e6
    assert values["ih_max"] == 1


def test_intensities_that_add_up_to_nothing_have_no_centre(way: Infer | None) -> None:
    """Ratios to an intensity of 0 are NaN."""
    image = np.array([[[-1.0, 1.0, -1.0, 1.0]]])
    values = measure(image, np.ones(image.shape, bool), UNIT, BINS, way)
    assert {"morph_com", "stat"} <= without_value(values)


@pytest.mark.parametrize("shape", [SHAPE, (0, 4, 5)])
def test_the_models_give_an_empty_region_no_value(infer: Infer, shape: tuple[int, ...]) -> None:
    """Asked without the library, both graphs answer NaN alone, and masks of other shapes are an error."""
    none, zones = np.zeros(shape, bool), np.zeros((0, 4), np.int32)
    texture = {"levels": none.astype(np.int32), "zones_2d": zones, "zones_3d": zones}
    region = {
        "image": none.astype(np.float32),
        "morphology": none,
        "intensity": none,
        "spacing": np.ones(3, np.float32),
        "volume_bins": np.array([0.0, 1.0, 1.0]),
    }
    assert np.isnan(infer("radiomics_texture", texture)["features"]).all()
    assert np.isnan(infer("radiomics_region", region)["features"]).all()
    if none.size:
        with pytest.raises(Exception, match="axis dimensions must match"):
            infer("radiomics_region", region | {"intensity": np.zeros((2, 2, 2), bool)})


def test_an_impossible_spacing_or_intensity_is_no_number_of_the_model(infer: Infer) -> None:
    """Asked without the library, the graph has no shape, or no intensity, and keeps the other."""
    region = {
        "image": IMAGE.astype(np.float32),
        "morphology": FULL,
        "intensity": FULL,
        "spacing": np.ones(3, np.float32),
        "volume_bins": np.array([0.0, 59.0, 1.0]),
    }
    names = [feature.name for feature in REGION]
    for changed, lost in (
        ({"spacing": np.array([1, 0, 1], np.float32)}, "morph"),
        (
            {"image": np.where(IMAGE == 3, np.nan, IMAGE).astype(np.float32)},
            "stat|ivh|morph_com$|morph_integ",
        ),
        ({"volume_bins": np.array([0.0, 59.0, 0.0])}, "ivh"),
    ):
        values = dict(zip(names, infer("radiomics_region", region | changed)["features"], strict=True))
        assert {name for name in names if np.isnan(values[name])} == {name for name in names if re.match(lost, name)}

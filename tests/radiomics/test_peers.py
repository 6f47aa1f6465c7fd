"""Where definitions agree, so do numbers: MIRP and PyRadiomics on two real tumours, to nine digits.

`peers/` holds what MIRP 2.5.0 and PyRadiomics 3.0.1 gave (`sh tests/radiomics/peers/record.sh` records it again): no
interpolation, bins of 25, distance 1. The sarcoma CT STS_001 is from the IBSI's validation set (CC BY 3.0), the lung
CT is its CT phantom. `docs/radiomics.md` says where definitions differ.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from auscult.domain.ibsi_features import FEATURES
from auscult.imaging.files import Pair, read_pair
from auscult.radiomics.chain import Chain
from auscult.radiomics.measure import Infer, measure

from .peers.regions import REGIONS

pytestmark = pytest.mark.golden

PEERS = Path(__file__).parent / "peers"
BIN = 25
AGREED = 1e-9
SINGLE = 2e-6
"""MIRP keeps intensities in single precision."""
AGGREGATIONS = {
    "2d_avg": "2D_avg",
    "2d_s_mrg": "2D_comb",
    "2.5d_d_mrg": "2_5D_avg",
    "2.5d_v_mrg": "2_5D_comb",
    "3d_avg": "3D_avg",
    "3d_v_mrg": "3D_comb",
    "2.5d": "2_5D",
    "2d": "2D",
    "3d": "3D",
}
"""MIRP's names, before those that they end with."""
IN_SINGLE_PRECISION = ("stat_", "loc_", "ih_rmad", "ih_medad", "ih_qcod", "morph_integ_int")
SAMPLED = {"morph_moran_i", "morph_geary_c"}
"""MIRP takes a sample of the pairs from 1,000 voxels on."""
OF_MESH = {"morph_volume", "morph_area_mesh", "morph_av", "morph_comp_1", "morph_comp_2", "morph_sph_dispr"}
OF_MESH |= {"morph_sphericity", "morph_asphericity", "morph_integ_int"}
OF_MESH |= {f"morph_{kind}_dens_{of}" for kind in ("vol", "area") for of in ("conv_hull", "aabb", "aee")}
"""Meshes differ where inside and outside meet across a cell's face; the sarcoma has no such place."""
MESH = 1e-3


def recorded(peer: str, region: str) -> dict[str, float]:
    """Return what a peer gave, by its own names."""
    with (PEERS / f"{peer}.csv").open() as file:
        return {row[peer]: float(row["value"]) for row in csv.DictReader(file) if row["region"] == region}


def pair(region: str) -> Pair:
    """Read a region from the files that it came in."""
    if not REGIONS[region][0].exists():
        pytest.skip(f"the {region} CT is not beside the repository")
    return read_pair(*REGIONS[region])


def compare(values: Mapping[str, float], peer: Mapping[str, float], loose: Mapping[str, float]) -> None:
    """Hold each number against a peer's; `loose`: the relative difference where more than 1e-9 is known."""
    for name, value in peer.items():
        assert values[name] == pytest.approx(value, rel=loose.get(name, AGREED), abs=0), name


@pytest.mark.parametrize("region", REGIONS)
def test_agrees_with_mirp(way: Infer | None, region: str) -> None:
    """All 482 features; two of them MIRP estimates from a sample."""
    found = pair(region)
    values = measure(found.image, found.mask, found.spacing, Chain(bin_width=BIN, resegmentation=(-1000, 3000)), way)
    peer = {ours(name): value for name, value in recorded("mirp", region).items()}
    assert peer.keys() >= values.keys() == {feature.name for feature in FEATURES}
    loose = {name: SINGLE for name in values if name.startswith(IN_SINGLE_PRECISION) or "_gl_var_" in name}
    loose |= dict.fromkeys(OF_MESH, MESH) if region == "lung" else {}
    compare(values, {name: peer[name] for name in values.keys() - SAMPLED}, loose)


def ours(name: str) -> str:
    """Return the IBSI's tag for MIRP's name, such as `cm_contrast_d1_3d_avg_fbs_w25.0`."""
    name = name.removesuffix(f"_fbs_w{BIN}.0").replace("_d1_", "_").replace("_a0.0_", "_")
    for theirs, tag in AGGREGATIONS.items():
        if name.endswith(f"_{theirs}"):
            return name.removesuffix(theirs) + tag
    return name


@pytest.mark.parametrize("region", REGIONS)
def test_agrees_with_pyradiomics(way: Infer | None, region: str) -> None:
    """102 features, 98 of them by the same definition; the other four differ as is known.

    PyRadiomics gives kurtosis without subtracting 3, and axes from the covariance over n instead of n - 1.
    """
    found = pair(region)
    # Its bins begin at multiples of their width, ours where the range begins.
    start = float(np.floor(found.image[found.mask].min() / BIN) * BIN)
    chain = Chain(bin_width=BIN, resegmentation=(start, 1e5))
    values = measure(found.image, found.mask, found.spacing, chain, way)
    count = int(found.mask.sum())
    values["stat_kurt"] += 3
    for axis in ("maj", "min", "least"):
        values[f"morph_pca_{axis}_axis"] *= np.sqrt((count - 1) / count)
    peer = recorded("pyradiomics", region)
    with (PEERS / "pyradiomics_names.csv").open() as file:
        tags = {row["pyradiomics"]: row["feature"] for row in csv.DictReader(file)}
    assert len(tags) == 102
    loose = dict.fromkeys(OF_MESH, MESH) if region == "lung" else {}
    compare(values, {tag: peer[name] for name, tag in tags.items()}, loose)

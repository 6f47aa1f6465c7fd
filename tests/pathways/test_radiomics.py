"""A pathway's radiomics: any part of the CT gives what the whole gives, by settings that the site may change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from auscult.domain.deadline import Deadline
from auscult.domain.volume import Geometry, Region, RegionSource, Volume
from auscult.pathways.lung_nodule import PATHWAY
from auscult.pathways.lung_nodule.pathway import LungNodule
from auscult.pathways.radiomics import MODELS, configured, measured
from auscult.platform.errors import RefuseToStart
from auscult.radiomics.measure import measure
from auscult.radiomics.parameters import DEFAULT, Parameters
from local_models import LocalModels

GEOMETRY = Geometry(np.zeros(3), np.eye(3), np.array([2.5, 0.8, 0.7]), (20, 40, 40))
HU = np.random.default_rng(5).integers(-900, 200, GEOMETRY.shape).astype(np.int16)
MASK = np.zeros(GEOMETRY.shape, np.bool_)
MASK[7:10, 20:26, 15:20] = True
VOLUME = Volume(HU, GEOMETRY, "1.2.3", tuple(f"1.2.3.{z}" for z in range(20)))
REGION = Region.of(MASK, GEOMETRY, RegionSource("model", "test"))


@pytest.mark.parametrize("spacing", [(None, None, None), (2, 2, 2)])
def test_a_part_of_the_ct_gives_what_the_whole_gives(
    models: LocalModels, spacing: tuple[float | None, float | None, float | None]
) -> None:
    """With and without interpolation, peaks around the region included."""
    parameters = Parameters(bin_width=25, spacing=spacing)
    deadline = Deadline.after(60)
    groups = measured(VOLUME, REGION, parameters, models, deadline)
    whole = measure(
        HU, MASK, GEOMETRY.spacing, parameters, lambda name, inputs: models.infer(name, inputs, deadline=deadline)
    )
    assert {m.name: m.value for group in groups for m in group.measurements} == pytest.approx(
        {name: value for name, value in whole.items() if np.isfinite(value)}, rel=1e-9
    )
    assert {group.model.name for group in groups} == set(MODELS)
    assert json.loads(groups[0].settings)["bin_width"] == 25


def test_a_site_gives_each_pathway_its_own_settings(tmp_path: Path) -> None:
    """By a parameter file; a name that no pathway has, or a file that cannot be used, stops the start."""
    path = tmp_path / "radiomics.yaml"
    path.write_text("{bin_number: 8, families: [morphology]}")
    (pathway,) = configured([PATHWAY], {"lung_nodule": path})
    assert isinstance(pathway, LungNodule)
    assert pathway.radiomics == Parameters(bin_number=8, families=("morphology",))
    assert configured([PATHWAY], {}) == (PATHWAY,)
    assert PATHWAY.radiomics != DEFAULT
    with pytest.raises(RefuseToStart, match="no pathway 'lung'"):
        configured([PATHWAY], {"lung": path})
    path.write_text("{bins: 8}")
    with pytest.raises(RefuseToStart, match="radiomics-settings"):
        configured([PATHWAY], {"lung_nodule": path})

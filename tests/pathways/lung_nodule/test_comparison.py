"""Which nodule was which, what became of it, and when that is not said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pytest

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Finding
from auscult.domain.study import Patient, PatientIdentity, Study, StudyRef
from auscult.domain.volume import Geometry, Region, RegionSource, Volume
from auscult.imaging.phantom import Phantom, Protocol, chest, grown, scan
from auscult.pathways.lung_nodule import PATHWAY, card
from auscult.pathways.lung_nodule.lungs import Lungs
from auscult.pathways.lung_nodule.matching import Placement, matched
from auscult.pathways.pathway import Found
from auscult.platform.errors import TellClinician
from auscult.radiomics.parameters import Parameters
from local_models import LocalModels

SHAPE = (30, 80, 80)
LUNGS = Lungs((slice(0, 30), slice(0, 80), slice(0, 80)), 40.0, 0.0, 58.0, whole=True)
PATIENT = Patient("Patient/1", date(1960, 1, 1), "female")
FEW = Parameters(families=("statistics",), bin_width=25.0)


@dataclass(frozen=True)
class Ball:
    """A solid ball; `at`: LPS in mm, its first voxel at the origin."""

    at: tuple[float, float, float]
    radius: float = 4.0


def study(
    uid: str, day: date, balls: Sequence[Ball], *, frame: str = "1.5", origin: float = 0.0, name: str = "nodule"
) -> Study:
    """Return a small CT with `balls`, each outlined by a person."""
    geometry = Geometry(np.full(3, origin), np.eye(3)[::-1].copy(), np.array([2.0, 1.0, 1.0]), SHAPE, frame)
    hu = np.full(SHAPE, -850, np.int16)
    places = geometry.to_patient(np.moveaxis(np.indices(SHAPE), 0, -1)) - origin
    regions = []
    for ball in balls:
        inside = np.linalg.norm(places - ball.at, axis=-1) <= ball.radius
        hu[inside] = 40
        regions.append(Region.of(inside, geometry, RegionSource("seg", name)))
    volume = Volume(hu, geometry, f"{uid}.1", tuple(f"{uid}.1.{n}" for n in range(SHAPE[0])))
    ref = StudyRef("default", uid, "d")
    return Study(ref, PatientIdentity("P", "", None, "F"), volume, tuple(regions), day)


def compared(later: Study, earlier: Study, models: LocalModels) -> Found:
    """Return what the pathway says of both."""
    deadline = Deadline.after(60)
    found = PATHWAY.measuring(FEW).find(later, PATIENT, models, deadline)
    return PATHWAY.compare(found, later, earlier, models, deadline)


def growth(finding: Finding) -> dict[str, float]:
    """Return the numbers of a finding's change."""
    return {m.name: m.value for group in finding.groups if group.name == "growth" for m in group.measurements}


def test_a_nodule_that_grew_is_told_with_its_doubling_time(models: LocalModels) -> None:
    """In numbers, on the card in one line, with the advice on growth and no order that the first CT would have."""
    earlier = study("1.1", date(2026, 1, 1), [Ball((30, 40, 30), 4.0)])
    later = study("1.2", date(2026, 4, 11), [Ball((32, 40, 30), 5.0)])
    found = compared(later, earlier, models)
    numbers = growth(found.findings[0])
    volumes = [each.regions[0].volume for each in (earlier, later)]
    assert numbers["interval"] == 100
    assert numbers["earlier-volume"] == volumes[0]
    assert numbers["volume-doubling-time"] == pytest.approx(100 * np.log(2) / np.log(volumes[1] / volumes[0]))
    assert found.counterparts == (earlier.regions[0],)
    assert [advice.rule for advice in found.findings[0].recommendations] == ["VDT_UP_TO_400"]
    told = card.render(found)
    assert (
        "Compared with the CT of 2026-01-01, 100 days before; nodules were matched by the common frame" in told.detail
    )
    assert "| In 100 days | grown: mean diameter 8." in told.detail
    assert f"doubling time {numbers['volume-doubling-time']:.0f} days" in told.summary
    assert "**British Thoracic Society 2015**" in told.detail
    assert (told.indicator, told.proposals) == ("warning", ())


def test_a_nodule_that_did_not_is_stable(models: LocalModels) -> None:
    """The guideline's months count from the CT on which it was seen first, so none is proposed from this one."""
    balls = [Ball((30, 40, 30), 4.0)]
    found = compared(study("1.2", date(2026, 6, 1), balls), study("1.1", date(2026, 1, 1), balls), models)
    told = card.render(found)
    assert "| In 151 days | stable, within what volumetry can tell" in told.detail
    assert "The months count from the CT of 2026-01-01 or an earlier one." in told.detail
    assert told.proposals == ()
    assert "grown" not in told.summary


def test_what_was_not_there_may_be_new(models: LocalModels) -> None:
    """Or was missed, or is where the earlier CT does not show; which, is said. Its own advice stays."""
    earlier = study("1.1", date(2026, 1, 1), [Ball((60, 60, 30))])
    later = study("1.2", date(2026, 6, 1), [Ball((20, 20, 30), 5.0), Ball((60, 60, 30))])
    first, second = compared(later, earlier, models).findings
    assert (
        first.notes[-1] == "no nodule was outlined here in the CT of 2026-01-01: it may be new, or was missed there"
    )
    assert growth(first) == {}
    assert growth(second)["volume-change"] == 0
    elsewhere = study("1.1", date(2026, 1, 1), [Ball((60, 60, 30))], origin=50.0)
    (only,) = compared(study("1.2", date(2026, 6, 1), [Ball((20, 20, 30))]), elsewhere, models).findings
    assert only.notes[-1] == "the CT of 2026-01-01 does not show this place"


def test_a_doubtful_match_is_no_match(models: LocalModels) -> None:
    """Two that lie as close: no number, no common identity, but the doubt in words."""
    earlier = study("1.1", date(2026, 1, 1), [Ball((30, 36, 30), 3.0), Ball((30, 46, 30), 3.0)])
    found = compared(study("1.2", date(2026, 6, 1), [Ball((30, 41, 30), 5.0)]), earlier, models)
    assert growth(found.findings[0]) == {}
    assert found.counterparts == (None,)
    assert "doubtful (another nodule lies nearly as close): compare by eye" in found.findings[0].notes[-1]


def test_like_is_compared_with_like(models: LocalModels) -> None:
    """What a person drew is not compared with nothing drawn, nor CTs that have no place in common."""
    later = study("1.2", date(2026, 6, 1), [Ball((30, 40, 30))])
    with pytest.raises(TellClinician, match="nobody has outlined"):
        compared(later, study("1.1", date(2026, 1, 1), [Ball((30, 40, 30))], name="heart"), models)
    with pytest.raises(TellClinician, match="another frame of reference"):
        compared(later, study("1.1", date(2026, 1, 1), [Ball((30, 40, 30))], frame="1.9"), models)


def test_places_are_carried_over_by_the_lungs() -> None:
    """Without a common frame: the patient lies elsewhere and breathes deeper; cut-off lungs give no place."""
    before = study("1.1", date(2026, 1, 1), [Ball((20, 40, 30)), Ball((60, 40, 30))], frame="1.8")
    after = study("1.2", date(2026, 6, 1), [Ball((60, 40, 30)), Ball((20, 40, 30))], origin=200.0)
    moved = replace(LUNGS, midline=240.0, bottom=200.0, top=258.0)
    placement = Placement.between((before.volume, LUNGS), (after.volume, moved))
    assert placement is not None
    assert "lungs" in placement.how
    pairs = matched(after.regions, before.regions, placement)
    assert [(pair.earlier, pair.doubt) for pair in pairs if pair] == [(1, ""), (0, "")]
    deeper = Placement.between((before.volume, LUNGS), (after.volume, replace(moved, top=287.0)))
    assert deeper is not None
    assert deeper.forward(np.array([20.0, 40.0, 29.0])) == pytest.approx([220, 240, 243.5])
    assert deeper.back(np.array([220.0, 240.0, 243.5])) == pytest.approx([20, 40, 29])
    assert Placement.between((before.volume, replace(LUNGS, whole=False)), (after.volume, moved)) is None


def test_a_hundredfold_nodule_is_hardly_the_same() -> None:
    """Its place alone does not make it so."""
    before = study("1.1", date(2026, 1, 1), [Ball((40, 40, 30), 2.5)])
    after = study("1.2", date(2026, 6, 1), [Ball((40, 40, 30), 15.0)])
    placement = Placement.between((before.volume, None), (after.volume, None))
    assert placement is not None
    (pair,) = matched(after.regions, before.regions, placement)
    assert pair is not None
    assert pair.doubt.startswith("the volumes differ")


def scanned(uid: str, phantom: Phantom, day: date, *, drawn: bool, moved: bool) -> Study:
    """Return a phantom's CT; `moved`: the patient lies elsewhere, in another frame of reference."""
    grid = phantom.grid()
    volume = scan(phantom, grid, Protocol(noise_hu=22.0 if moved else 25.0))
    place = volume.geometry
    if moved:
        place = replace(place, origin=place.origin + np.array([7.0, -12.0, 340.0]), frame_of_reference_uid="1.9")
    regions = (replace(phantom.region(grid), geometry=place),) if drawn else ()
    ref = StudyRef("default", uid, "d")
    identity = PatientIdentity("P", "", date(1960, 1, 1), "F")
    return Study(ref, identity, replace(volume, geometry=place), regions, day)


@pytest.mark.golden
@pytest.mark.parametrize(("drawn", "tolerance"), [(True, 0.10), (False, 0.25)])
@pytest.mark.parametrize("seed", [1, 4])
def test_the_doubling_time_of_phantoms(seed: int, drawn: bool, tolerance: float, models: LocalModels) -> None:
    """Known by construction: within a tenth where the nodule is drawn, within a quarter by the model's outline."""
    phantom = chest(seed, kind="solid", diameter_mm=9.0)
    earlier = scanned("1.1", phantom, date(2025, 8, 18), drawn=drawn, moved=False)
    later = scanned("1.2", grown(phantom, 150, 200.0), date(2026, 1, 15), drawn=drawn, moved=True)
    found = compared(later, earlier, models)
    assert "by their place in the lungs" in found.compared
    assert phantom.truth is not None
    apart = [np.linalg.norm(region.centroid - phantom.truth.centre - [7, -12, 340]) for region in found.regions]
    numbers = growth(found.findings[int(np.argmin(apart))])
    assert numbers["volume-doubling-time"] == pytest.approx(200, rel=tolerance)

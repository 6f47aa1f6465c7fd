"""The Brock risk as the pathway asks for it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from auscult.domain.deadline import Deadline
from auscult.pathways.lung_nodule import brock
from auscult.pathways.lung_nodule.fleischner import Appearance
from local_models import LocalModels

KNOWN = brock.Inputs(
    age=80,
    diameter=30,
    appearance=Appearance.SOLID,
    nodule_count=1,
    female=True,
    family_history_lung_cancer=False,
    emphysema=True,
    upper_lobe=True,
    spiculation=True,
)


def test_all_known_gives_the_published_risk_and_no_range(models: LocalModels) -> None:
    """An 80-year-old woman with emphysema and a spiculated 30 mm upper lobe nodule: 84.65 %."""
    risk = brock.assess(KNOWN, models, Deadline.after(60))
    assert risk.model.name == "brock_full"
    assert risk.probability == pytest.approx(0.8465060679, abs=1e-8)
    assert risk.interval is None
    assert risk.assumed == ()


def test_without_a_report_of_spiculation_the_other_variant_answers(models: LocalModels) -> None:
    """The published model without that input is used: 78.98 % for the same patient."""
    risk = brock.assess(replace(KNOWN, spiculation=None), models, Deadline.after(60))
    assert risk.model.name == "brock_full_no_spiculation"
    assert risk.probability == pytest.approx(0.7897930598, abs=1e-8)
    assert "spiculation" not in {share.input for share in risk.contributions}


def test_what_is_not_known_gives_a_range_that_holds_both_answers(models: LocalModels) -> None:
    """The range runs from the risk with the unknown inputs absent to that with all present; they are named."""
    unknown = replace(KNOWN, emphysema=None, family_history_lung_cancer=None)
    risk = brock.assess(unknown, models, Deadline.after(60))
    absent = brock.assess(
        replace(unknown, emphysema=False, family_history_lung_cancer=False), models, Deadline.after(60)
    )
    present = brock.assess(
        replace(unknown, emphysema=True, family_history_lung_cancer=True), models, Deadline.after(60)
    )
    assert risk.interval == (pytest.approx(absent.probability), pytest.approx(present.probability))
    assert risk.probability == pytest.approx(absent.probability)
    assert set(risk.assumed) == {"emphysema", "family history of lung cancer"}
    assert len(models.asked) == 3, "one call, whatever is unknown"


def test_contributions_are_named_in_the_models_own_order(models: LocalModels) -> None:
    """The graph's metadata and the pathway agree on what each column is, and the columns sum to the risk."""
    for model in (brock.WITH_SPICULATION, brock.WITHOUT_SPICULATION):
        config = (models.root / model / "config.pbtxt").read_text()
        assert f'"{",".join(brock.contribution_names(model))}"' in config
    risk = brock.assess(KNOWN, models, Deadline.after(60))
    log_odds = sum(share.log_odds for share in risk.contributions)
    assert 1 / (1 + math.exp(-log_odds)) == pytest.approx(risk.probability)

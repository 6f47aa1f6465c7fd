"""What the clinician reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.domain import codes
from auscult.domain.finding import (
    Contribution,
    Finding,
    Measurement,
    MeasurementGroup,
    ModelReference,
    Outline,
    Recommendation,
    Risk,
)
from auscult.pathways.lung_nodule import card
from auscult.pathways.pathway import Found

MODEL = ModelReference("m", "1", "a paper")


def nodule(longest: float = 9.0, across: float = 7.0, probability: float = 0.04) -> Finding:
    """Return a finding of a given size and risk."""
    sizes = (
        ("size", (("longest-diameter", longest), ("perpendicular-diameter", across))),
        ("mean-diameter", (("mean-diameter", (longest + across) / 2),)),
        ("volume", (("volume", 300.0),)),
    )
    return Finding(
        label="nodule-1",
        kind=codes.NODULE,
        site=codes.LUNG,
        location="left lung, upper third",
        appearance="solid",
        outline=Outline("1.2", "1.3", 4, (), "model", "lung_nodule_seg", MODEL),
        groups=tuple(
            MeasurementGroup(
                name, codes.DIAMETER, MODEL, tuple(Measurement(n, codes.DIAMETER, v, "mm") for n, v in numbers)
            )
            for name, numbers in sizes
        ),
        risks=(
            Risk(
                "malignancy",
                codes.PROBABILITY_OF_CANCER,
                codes.LUNG_CANCER,
                MODEL,
                probability,
                (Contribution("mean diameter", "8.0 mm", 2.5), Contribution("baseline", "", -6.8)),
                (probability, min(1.0, 1.6 * probability)),
                ("emphysema",),
            ),
        ),
        recommendations=(Recommendation(MODEL, "X", "CT at 6-12 months."),),
    )


def test_the_card_says_what_where_how_big_how_likely_and_what_to_do() -> None:
    """All of it is there, with what is not known and why the risk is what it is."""
    made = card.render(Found((nodule(),)))
    assert made.summary == "Lung nodule 8.0 mm, solid, left lung, upper third: malignancy risk 4 %"
    for part in (
        "9.0 x 7.0 mm",
        "300 mm3",
        "4 % (between 4 % and 6.4 %",
        "mean diameter (8.0 mm): +2.50",
        "not known, assumed absent: emphysema",
        "CT at 6-12 months.",
        "outlined by the model lung_nodule_seg",
    ):
        assert part in made.detail
    assert made.indicator == "info"
    assert made.models == (MODEL,)


@pytest.mark.parametrize("found", [nodule(probability=0.08), nodule(longest=35, across=33)])
def test_a_risk_that_may_reach_ten_percent_or_a_mass_is_a_warning(found: Finding) -> None:
    """The upper end of the range counts: 8 % that may be 12.8 % is a warning."""
    assert card.render(Found((found,))).indicator == "warning"


def test_no_nodule_is_said_with_the_model_that_looked() -> None:
    """A negative answer has an author, too, and a caution."""
    made = card.render(Found((), asked=(MODEL,)))
    assert made.summary == "Chest CT: no lung nodule found"
    assert "can miss nodules" in made.detail
    assert made.models == (MODEL,)


def test_no_answer_is_not_a_negative_answer() -> None:
    """Where the search could not be made, the card does not say that nothing was found."""
    made = card.render(Found((), ("deadline-exceeded: the model did not answer in time",)))
    assert "no lung nodule found" not in made.summary
    assert "deadline-exceeded" in made.detail
    assert made.indicator == "warning"


@given(st.integers(1, 10), st.floats(3, 60), st.floats(0.0001, 0.99))
def test_any_number_of_nodules_fits_the_card(count: int, longest: float, probability: float) -> None:
    """The summary keeps to the specification's length, and what the card leaves out is counted."""
    worst = nodule(longest, longest * 0.8, probability)
    many = tuple(replace(worst, label=f"nodule-{number}") for number in range(1, count + 1))
    made = card.render(Found(many))
    assert len(made.summary) <= 140
    assert ("smaller nodules are described in the record" in made.detail) == (count > card.SHOWN)


@pytest.mark.parametrize(
    ("probability", "text"), [(0.00112, "0.11 %"), (0.0149, "1.5 %"), (0.0996, "10 %"), (0.8465, "85 %")]
)
def test_percentages_have_the_digits_that_mean_something(probability: float, text: str) -> None:
    """Two significant digits below ten percent, whole percents above."""
    assert card.percent(probability) == text

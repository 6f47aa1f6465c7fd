"""A card is complete, or the error names what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from auscult.domain.finding import ModelReference
from auscult.domain.model_card import NOT_AVAILABLE, SOURCE_ATTRIBUTES, InvalidCardError, ModelCard, Performance

RULE = Path(__file__).parents[2].parent / "shared/reference/governance/hti1_source_attributes.yaml"
KEYS = [key for group in SOURCE_ATTRIBUTES.values() for key in group]


def card(**changes: Any) -> str:
    """Return a complete card as YAML, with `changes`; a change to None removes the field."""
    content = {
        "name": "brock",
        "version": 1,
        "title": "Brock",
        "summary": "Chance that a nodule is malignant.",
        "intended_use": "Research.",
        "stage": "active",
        "clinical_use": False,
        "evidence": "doi:10.1056/NEJMoa1214726",
        "license": "CC0-1.0",
        "training_data": "PanCan.",
        "performance": [{"metric": "AUC", "value": 0.94, "interval": [0.91, 0.97], "dataset": "BCCA"}],
        "limitations": ["Screening populations only."],
        "source_attributes": dict.fromkeys(KEYS, NOT_AVAILABLE),
    } | changes
    return yaml.safe_dump({key: value for key, value in content.items() if value is not None})


def test_complete_card_is_read() -> None:
    """Every field of a complete card arrives, and the reference is its short form."""
    read = ModelCard.parse(card())
    assert read.performance == (Performance("AUC", 0.94, "BCCA", interval=(0.91, 0.97)),)
    assert read.limitations == ("Screening populations only.",)
    assert read.reference() == ModelReference(
        "brock", "1", "doi:10.1056/NEJMoa1214726", clinical_use=False, stage="active"
    )


def test_attributes_are_those_of_the_rule() -> None:
    """The 31 attributes, their headings and order are the rule's."""
    if not RULE.exists():
        pytest.skip("the text of the rule is not beside the repository")
    rule = yaml.safe_load(RULE.read_text())["predictive_dsi_attributes_B"]
    assert {group["title"]: tuple(a["key"] for a in group["attributes"]) for group in rule} == SOURCE_ATTRIBUTES
    assert len(KEYS) == 31


@pytest.mark.parametrize("key", KEYS)
def test_missing_attribute_is_named(key: str) -> None:
    """Leaving out one source attribute is an error that names it."""
    attributes = dict.fromkeys(KEYS, NOT_AVAILABLE)
    del attributes[key]
    with pytest.raises(InvalidCardError, match=rf"source_attributes: missing {key}$"):
        ModelCard.parse(card(source_attributes=attributes))


@pytest.mark.parametrize("field", yaml.safe_load(card()))
def test_missing_field_is_named(field: str) -> None:
    """Leaving out one field is an error that names it."""
    with pytest.raises(InvalidCardError, match=rf"missing {field}$"):
        ModelCard.parse(card(**{field: None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "beta"}, "stage: one of shadow, active, retired"),
        ({"clinical_use": "no"}, "clinical_use: true or false"),
        ({"version": "1.0.0"}, "version: the number"),
        ({"version": 1.1}, "version: a text"),
        ({"title": 7}, "title: a text"),
        ({"evidence": " "}, "evidence: a text"),
        ({"limitations": []}, "limitations: every model has some"),
        ({"limitations": ["x", 3]}, r"limitations\[1\]: a text"),
        ({"performance": {}}, "performance: a list"),
        ({"performance": [{"metric": "AUC", "value": 1}]}, r"performance\[0\]: missing dataset"),
        (
            {"performance": [{"metric": "AUC", "value": "1", "dataset": "x"}]},
            r"performance\[0\].value: a finite number",
        ),
        ({"performance": [{"metric": "AUC", "value": float("nan"), "dataset": "x"}]}, "value: a finite number"),
        (
            {"performance": [{"metric": "AUC", "value": 1, "dataset": "x", "interval": [2, 1]}]},
            r"performance\[0\].interval: \[low, high\]",
        ),
        ({"sumary": "x"}, "unknown sumary"),
        ({"source_attributes": dict.fromkeys([*KEYS, "colour"], "x")}, "source_attributes: unknown colour"),
        (
            {"source_attributes": dict.fromkeys(KEYS, "x") | {"funding_source": ""}},
            "source_attributes.funding_source",
        ),
    ],
)
def test_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    """A field of the wrong form is an error that names it and says what is needed."""
    with pytest.raises(InvalidCardError, match=message):
        ModelCard.parse(card(**changes))


@pytest.mark.parametrize("text", ["name: [", "2001-02-31", "!!bool perhaps", "!!timestamp soon", "[" * 1000])
def test_text_that_is_not_yaml_is_refused(text: str) -> None:
    """A card that YAML cannot read says so."""
    with pytest.raises(InvalidCardError, match="not YAML"):
        ModelCard.parse(text)


@given(st.text())
def test_any_text_is_refused_by_name(text: str) -> None:
    """Whatever the text, the parser fails in no other way (no such text is a whole card)."""
    with pytest.raises(InvalidCardError, match=r".+"):
        ModelCard.parse(text)

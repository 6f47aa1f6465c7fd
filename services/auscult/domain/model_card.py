"""A model's card: what it is for, on what evidence it rests, and what is not known about it.

`card.yaml` lies beside each model. Its source attributes are the 31 that 45 CFR 170.315(b)(11)(iv)(B)
(ONC HTI-1 final rule, 89 FR 1192) asks of predictive decision support; `information not available` is an
allowed answer, silence is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

from auscult.domain.finding import ModelReference

STAGES = ("shadow", "active", "retired")

NOT_AVAILABLE = "information not available"
"""The answer that says openly that there is none."""

SOURCE_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "Details and output of the intervention": (
        "developer_contact",
        "funding_source",
        "output_value_description",
        "output_type",
    ),
    "Purpose of the intervention": (
        "intended_use",
        "intended_population",
        "intended_users",
        "decision_making_role",
    ),
    "Cautioned out-of-scope use of the intervention": (
        "cautioned_tasks_situations_populations",
        "known_risks_and_limitations",
    ),
    "Intervention development details and input features": (
        "training_inclusion_exclusion",
        "demographic_input_features",
        "training_representativeness",
        "training_relevance",
    ),
    "Process used to ensure fairness in development of the intervention": (
        "fairness_approach",
        "bias_management",
    ),
    "External validation process": (
        "external_data_source",
        "external_party",
        "external_representativeness",
        "external_process",
    ),
    "Quantitative measures of performance": (
        "internal_validity",
        "internal_fairness",
        "external_validity",
        "external_fairness",
        "outcome_evaluation_references",
    ),
    "Ongoing maintenance of intervention implementation and use": (
        "validity_monitoring",
        "local_validity",
        "fairness_monitoring",
        "local_fairness",
    ),
    "Update and continued validation or fairness assessment schedule": (
        "update_process_frequency",
        "performance_correction_frequency",
    ),
}
"""The rule's nine headings, (iv)(B)(1)-(9), each with its attributes in the rule's order."""


class InvalidCardError(ValueError):
    """The card cannot be used; the text names the field and says what it needs."""


@dataclass(frozen=True, slots=True)
class Performance:
    """One measured number. `unit` is UCUM, empty where the metric has none; `interval` is its 95 % interval."""

    metric: str
    value: float
    dataset: str
    unit: str = ""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a reader must know before trusting a model."""

    name: str
    """As its folder in the model repository."""
    version: str
    """As its version folder: a positive whole number."""
    title: str
    summary: str
    intended_use: str
    stage: str
    """`shadow` (computed and stored, shown to nobody), `active` or `retired`."""
    clinical_use: bool
    """True only after the site has validated it."""
    evidence: str
    """Citation or URL."""
    license: str
    training_data: str
    performance: tuple[Performance, ...]
    """Empty where nothing was measured; then the source attributes say so."""
    limitations: tuple[str, ...]
    source_attributes: Mapping[str, str]
    """Answers by attribute, in the order of `SOURCE_ATTRIBUTES`."""
    incomplete_studies: bool = False
    """True where it may compute a study of which instances are known to be missing; the card may leave it out."""
    resampled_studies: bool = False
    """True where it may compute slices of a tilted gantry, or at uneven distances, resampled to a regular grid; the
    card may leave it out."""

    @classmethod
    def parse(cls, text: str) -> ModelCard:
        """Read `card.yaml`; InvalidCardError names the field that is missing, unknown or wrong."""
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
            # PyYAML lets the last four out of impossible dates, ill-used tags and deep nesting.
            raise InvalidCardError(f"the card is not YAML: {error}") from None
        optional = frozenset({"incomplete_studies", "resampled_studies"})
        required = {field.name for field in fields(cls)} - optional
        card = _mapping(content, "the card", required=required, optional=optional)
        stage = _text(card["stage"], "stage")
        if stage not in STAGES:
            raise InvalidCardError(f"stage: one of {', '.join(STAGES)} is needed, not {stage!r}")
        for field in ("clinical_use", *sorted(optional)):
            if not isinstance(card.get(field, False), bool):
                raise InvalidCardError(f"{field}: true or false is needed")
        return cls(
            name=_text(card["name"], "name"),
            version=_version(card["version"]),
            title=_text(card["title"], "title"),
            summary=_text(card["summary"], "summary"),
            intended_use=_text(card["intended_use"], "intended_use"),
            stage=stage,
            clinical_use=card["clinical_use"],
            evidence=_text(card["evidence"], "evidence"),
            license=_text(card["license"], "license"),
            training_data=_text(card["training_data"], "training_data"),
            performance=tuple(
                _performance(item, f"performance[{index}]")
                for index, item in enumerate(_list(card["performance"], "performance"))
            ),
            limitations=tuple(
                _text(item, f"limitations[{index}]")
                for index, item in enumerate(_sentences(card["limitations"], "limitations"))
            ),
            source_attributes=_source_attributes(card["source_attributes"]),
            incomplete_studies=card.get("incomplete_studies", False),
            resampled_studies=card.get("resampled_studies", False),
        )

    def reference(self) -> ModelReference:
        """Return the short form that results carry."""
        return ModelReference(
            self.name,
            self.version,
            self.evidence,
            self.clinical_use,
            self.stage,
            self.incomplete_studies,
            self.resampled_studies,
        )


def _mapping(value: Any, field: str, *, required: set[str], optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return `value` as a mapping with all of `required`, and nothing that is in neither set."""
    if not isinstance(value, dict):
        raise InvalidCardError(f"{field}: a mapping is needed")
    if missing := sorted(required - value.keys()):
        raise InvalidCardError(f"{field}: missing {', '.join(missing)}")
    if unknown := sorted(str(key) for key in value.keys() - required - optional):
        raise InvalidCardError(f"{field}: unknown {', '.join(unknown)}; correct the spelling or remove it")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidCardError(
            f"{field}: a text is needed, not {value!r}; quote it where YAML reads a number or date"
        )
    return value.strip()


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidCardError(f"{field}: a list is needed")
    return value


def _sentences(value: Any, field: str) -> list[Any]:
    """Return a list of sentences that is not empty; one sentence alone need not be in a list."""
    sentences = [value] if isinstance(value, str) else _list(value, field)
    if not sentences:
        raise InvalidCardError(f"{field}: every model has some; name them")
    return sentences


def _version(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value, "version")
    if not re.fullmatch("[1-9][0-9]*", text):
        raise InvalidCardError(f"version: the number of the version folder is needed (1, 2, ...), not {text!r}")
    return text


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidCardError(f"{field}: a finite number is needed, not {value!r}")
    return float(value)


def _performance(value: Any, field: str) -> Performance:
    item = _mapping(value, field, required={"metric", "value", "dataset"}, optional=frozenset({"unit", "interval"}))
    interval = None
    if item.get("interval") is not None:
        bounds = [_number(bound, f"{field}.interval") for bound in _list(item["interval"], f"{field}.interval")]
        if len(bounds) != 2 or bounds[0] > bounds[1]:
            raise InvalidCardError(f"{field}.interval: [low, high] is needed, not {bounds}")
        interval = (bounds[0], bounds[1])
    return Performance(
        metric=_text(item["metric"], f"{field}.metric"),
        value=_number(item["value"], f"{field}.value"),
        dataset=_text(item["dataset"], f"{field}.dataset"),
        unit=_text(item["unit"], f"{field}.unit") if "unit" in item else "",
        interval=interval,
    )


def _source_attributes(value: Any) -> dict[str, str]:
    keys = [key for group in SOURCE_ATTRIBUTES.values() for key in group]
    answers = _mapping(value, "source_attributes", required=set(keys))
    return {key: _text(answers[key], f"source_attributes.{key}") for key in keys}

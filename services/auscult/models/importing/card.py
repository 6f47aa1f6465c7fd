"""The card of an imported model: what its source says, and openly that the rest is not known."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from auscult.domain.model_card import NOT_AVAILABLE, SOURCE_ATTRIBUTES
from auscult.models.importing.source import Facts

NOT_VALIDATED = "Imported as it is: not for clinical use until a site has validated it on its own patients."


def skeleton(name: str, version: str, facts: Facts, not_carried: Sequence[str], framework: str) -> str:
    """Return `card.yaml`, stage `shadow`."""
    use = facts.intended_use or f"{NOT_AVAILABLE}; state it before the model leaves the stage shadow"
    known = {
        "developer_contact": facts.developer,
        "intended_use": facts.intended_use,
        "training_inclusion_exclusion": facts.training_data,
        "known_risks_and_limitations": NOT_VALIDATED,
        "internal_validity": "; ".join(
            f"{item.metric} {item.value:g} ({item.dataset})" for item in facts.performance
        ),
    }
    card = {
        "name": name,
        "version": int(version),
        "title": facts.title or name,
        "summary": facts.summary or f"A model imported from {framework}; what it is for is not documented yet.",
        "intended_use": use,
        "stage": "shadow",
        "clinical_use": False,
        "evidence": facts.evidence or NOT_AVAILABLE,
        "license": facts.license or NOT_AVAILABLE,
        "training_data": facts.training_data or NOT_AVAILABLE,
        "performance": [
            {"metric": item.metric, "value": item.value, "dataset": item.dataset} for item in facts.performance
        ],
        "limitations": [NOT_VALIDATED, *not_carried],
        "source_attributes": {
            key: known.get(key) or NOT_AVAILABLE for group in SOURCE_ATTRIBUTES.values() for key in group
        },
    }
    return yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=116)

"""Fleischner Society 2017 guideline for incidental pulmonary nodules.

MacMahon et al., Radiology 2017;284:228-243, doi 10.1148/radiol.2017161659, Tables 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from auscult.domain import codes
from auscult.domain.finding import ModelReference, Proposal, Recommendation

GUIDELINE = ModelReference(
    name="fleischner_2017",
    version="2017",
    evidence="MacMahon et al., Radiology 2017;284:228, doi 10.1148/radiol.2017161659",
)


class Appearance(Enum):
    """Attenuation of a nodule."""

    SOLID = "solid"
    PART_SOLID = "part-solid"
    NONSOLID = "nonsolid (ground glass)"


class Risk(Enum):
    """Risk category of the guideline: high joins the intermediate and high risk of cancer (5 % and more)."""

    LOW = "low"
    HIGH = "high"


TEXTS = {
    "NONE": "No routine follow-up.",
    "OPTIONAL_12M": "Optional CT at 12 months.",
    "CT_6_12M_THEN_CONSIDER_18_24M": "CT at 6-12 months, then consider CT at 18-24 months.",
    "CT_6_12M_THEN_18_24M": "CT at 6-12 months, then CT at 18-24 months.",
    "CONSIDER_CT_3M_PETCT_OR_TISSUE": "Consider CT at 3 months, PET/CT, or tissue sampling.",
    "CT_3_6M_THEN_CONSIDER_18_24M": "CT at 3-6 months, then consider CT at 18-24 months.",
    "CT_3_6M_THEN_18_24M": "CT at 3-6 months, then CT at 18-24 months.",
    "CT_6_12M_THEN_EVERY_2Y_UNTIL_5Y": (
        "CT at 6-12 months to confirm persistence, then CT every 2 years until 5 years."
    ),
    "CT_3_6M_THEN_ANNUAL_5Y_IF_SOLID_LT6": (
        "CT at 3-6 months to confirm persistence. If unchanged and the solid component remains below 6 mm, "
        "annual CT for 5 years; a persistent solid component of 6 mm or more is highly suspicious."
    ),
    "CT_3_6M_THEN_CONSIDER_2Y_4Y": "CT at 3-6 months. If stable, consider CT at 2 and 4 years.",
    "CT_3_6M_THEN_PER_MOST_SUSPICIOUS": (
        "CT at 3-6 months, then management based on the most suspicious nodule or nodules."
    ),
}

FOLLOW_UP = {
    "OPTIONAL_12M": (12, 12),
    "CT_6_12M_THEN_CONSIDER_18_24M": (6, 12),
    "CT_6_12M_THEN_18_24M": (6, 12),
    "CONSIDER_CT_3M_PETCT_OR_TISSUE": (3, 3),
    "CT_3_6M_THEN_CONSIDER_18_24M": (3, 6),
    "CT_3_6M_THEN_18_24M": (3, 6),
    "CT_6_12M_THEN_EVERY_2Y_UNTIL_5Y": (6, 12),
    "CT_3_6M_THEN_ANNUAL_5Y_IF_SOLID_LT6": (3, 6),
    "CT_3_6M_THEN_CONSIDER_2Y_4Y": (3, 6),
    "CT_3_6M_THEN_PER_MOST_SUSPICIOUS": (3, 6),
}
"""Months (earliest, latest) to the first CT of the rules that have one."""
QUALIFIED = {"OPTIONAL_12M": "Optional: ", "CONSIDER_CT_3M_PETCT_OR_TISSUE": "Consider: "}
"""Rules whose CT is a possibility, not the advice."""

_SUBSOLID_MULTIPLE = (
    ("CT_3_6M_THEN_CONSIDER_2Y_4Y",) * 2,
    ("CT_3_6M_THEN_PER_MOST_SUSPICIOUS",) * 2,
    ("CT_3_6M_THEN_PER_MOST_SUSPICIOUS",) * 2,
)
RULES: dict[tuple[Appearance, bool], tuple[tuple[str, str], ...]] = {
    (Appearance.SOLID, False): (
        ("NONE", "OPTIONAL_12M"),
        ("CT_6_12M_THEN_CONSIDER_18_24M", "CT_6_12M_THEN_18_24M"),
        ("CONSIDER_CT_3M_PETCT_OR_TISSUE",) * 2,
    ),
    (Appearance.SOLID, True): (
        ("NONE", "OPTIONAL_12M"),
        ("CT_3_6M_THEN_CONSIDER_18_24M", "CT_3_6M_THEN_18_24M"),
        ("CT_3_6M_THEN_CONSIDER_18_24M", "CT_3_6M_THEN_18_24M"),
    ),
    (Appearance.NONSOLID, False): (
        ("NONE",) * 2,
        ("CT_6_12M_THEN_EVERY_2Y_UNTIL_5Y",) * 2,
        ("CT_6_12M_THEN_EVERY_2Y_UNTIL_5Y",) * 2,
    ),
    (Appearance.PART_SOLID, False): (
        ("NONE",) * 2,
        ("CT_3_6M_THEN_ANNUAL_5Y_IF_SOLID_LT6",) * 2,
        ("CT_3_6M_THEN_ANNUAL_5Y_IF_SOLID_LT6",) * 2,
    ),
    (Appearance.NONSOLID, True): _SUBSOLID_MULTIPLE,
    (Appearance.PART_SOLID, True): _SUBSOLID_MULTIPLE,
}
"""By appearance and whether there are several: below 6 mm, 6 to 8 mm, above 8 mm, the rules at (low, high) risk."""


@dataclass(frozen=True, slots=True)
class Applicability:
    """What the guideline needs to know about the patient; None where it is not known."""

    age: float | None = None
    known_cancer: bool | None = None
    immunosuppressed: bool | None = None

    @property
    def objection(self) -> str | None:
        """Why the guideline does not apply, if it does not."""
        if self.age is not None and self.age < 35:
            return "the patient is younger than 35 years"
        if self.known_cancer:
            return "the patient has a known cancer"
        if self.immunosuppressed:
            return "the patient is immunosuppressed"
        return None


def rule(*, appearance: Appearance, mean_diameter: float, multiple: bool, risk: Risk) -> str:
    """Return the name of the rule (a key of TEXTS) for a nodule.

    `mean_diameter`: mean of the longest and its perpendicular diameter in mm; for several nodules,
    of the most suspicious one. Bounds: below 6 mm; 6 to 8 mm, both included; above 8 mm.
    """
    if not 0 < mean_diameter <= 30:
        raise ValueError("the guideline is for nodules of up to 30 mm")
    band = 0 if mean_diameter < 6 else 1 if mean_diameter <= 8 else 2
    low, high = RULES[appearance, multiple][band]
    return high if risk is Risk.HIGH else low


def recommend(
    *,
    appearance: Appearance,
    mean_diameter: float,
    multiple: bool,
    risks: tuple[Risk, ...],
    patient: Applicability,
) -> Recommendation:
    """Return what the guideline advises, or why it does not apply.

    `risks`: the categories that the patient may be in; two where it is not known which. Where they
    lead to different advice, both are given: choosing between them is the clinician's.
    """
    if mean_diameter > 30:
        return Recommendation(
            GUIDELINE,
            "NOT_APPLICABLE",
            "A lesion above 30 mm is a mass, for which the guideline is not made: malignant until proven otherwise, "
            "refer for work-up.",
        )
    if objection := patient.objection:
        return Recommendation(
            GUIDELINE, "NOT_APPLICABLE", f"The guideline does not apply because {objection}: follow local practice."
        )
    rules = {
        risk: rule(appearance=appearance, mean_diameter=mean_diameter, multiple=multiple, risk=risk) for risk in risks
    }
    if len(set(rules.values())) == 1:
        name = next(iter(rules.values()))
        return Recommendation(GUIDELINE, name, TEXTS[name])
    text = " ".join(f"If the risk is {risk.value}: {TEXTS[name]}" for risk, name in rules.items())
    return Recommendation(GUIDELINE, "_OR_".join(rules.values()), text)


def proposals(recommendation: Recommendation) -> tuple[Proposal, ...]:
    """Return the first CT of what `recommend` advised: one for each rule, as the clinician chooses between them."""
    rules = _rules(recommendation.rule)
    dated = {FOLLOW_UP[rule]: rule for rule in rules if rule in FOLLOW_UP}
    return tuple(
        Proposal(
            label=f"{QUALIFIED.get(rule, '')}CT chest in {_span(months)} months",
            order=codes.CT_CHEST,
            months=months,
            reason=f"Follow-up of a pulmonary nodule, Fleischner Society 2017: {TEXTS[rule]}",
            guideline=recommendation.guideline,
            recommended=len(rules) == 1 and rule not in QUALIFIED,
        )
        for months, rule in dated.items()
    )


def _rules(name: str) -> tuple[str, ...]:
    """Return the rules in the name of a recommendation, which joins two where the risk is not known."""
    if name in TEXTS:
        return (name,)
    return next(((low, high) for low in TEXTS for high in TEXTS if name == f"{low}_OR_{high}"), ())


def _span(months: tuple[int, int]) -> str:
    earliest, latest = months
    return str(earliest) if earliest == latest else f"{earliest}-{latest}"

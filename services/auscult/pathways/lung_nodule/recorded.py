"""The Brock risk of a nodule that the record tells of, while its problem or its CT order is written.

Nothing was computed ahead: the size comes from Observations, the rest from the patient's record, and the risk
from the model over gRPC, all within the call's budget. Where the pathway has results of the patient, those are shown.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.cds_hooks.card import rendered
from auscult.cds_hooks.hooks import Resource, resources
from auscult.cds_hooks.prefetch import UnavailableError
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.domain import codes
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Card, ModelReference, Risk
from auscult.pathways.lung_nodule import brock, orders
from auscult.pathways.lung_nodule.card import MASS, WARNING_RISK, percent
from auscult.pathways.lung_nodule.fleischner import Appearance
from auscult.pathways.lung_nodule.follow_up import PATHWAY
from auscult.pathways.services import HurriedModels, Tools
from auscult.publish.fhir.risk_factors import SMOKING_STATUS, stated

SIZE = (codes.TUMOR_SIZE.system, codes.TUMOR_SIZE.code)
DIAMETERS = {(code.system, code.code) for code in (codes.LONGEST_DIAMETER, codes.OTHER_DIAMETER)}
LUNG = (codes.LUNG.system, codes.LUNG.code)
MILLIMETRES = {"mm": 1.0, "cm": 10.0}
LABEL = "Auscult lung nodule risk"
_NAMESPACE = uuid.UUID("4f4e0f4c-6b0e-5c0b-8a3c-6a2b3f0f7d52")


@dataclass(frozen=True, slots=True)
class Nodule:
    """The largest nodule of the newest day with sizes. `diameter`: mean, mm; `count`: of that day."""

    day: str
    diameter: float
    count: int


@dataclass(frozen=True, slots=True)
class _Hurried:
    """The models within one call's deadline."""

    models: HurriedModels
    deadline: Deadline

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline) -> dict[str, NDArray[Any]]:
        return self.models.infer(model, inputs, deadline=deadline)

    def reference(self, model: str) -> ModelReference:
        return self.models.reference(model, self.deadline)


def service(tools: Tools) -> Service:
    """Return the service."""

    async def answer(call: Call) -> Answer:
        concerned = [each for each in _written(call) if orders.for_nodule(each)]
        if not concerned:
            return Answer()
        if shown := tools.store.of(call.caller.tenant, call.patient, PATHWAY):
            return Answer(shown)
        patient, sizes = await asyncio.gather(
            call.prefetch.resource("patient", call.deadline), call.prefetch.resources("sizes", call.deadline)
        )
        nodule, age = recorded_nodule(sizes), _age(patient)
        if nodule is None:
            return Answer()
        if age is None or nodule.diameter > MASS:
            return Answer((_told(call, _without(nodule), tools.public_url),))
        factors = stated(*[await _known(call, key) for key in ("conditions", "relatives", "smoking")])
        known = brock.Inputs(
            age=age,
            diameter=nodule.diameter,
            appearance=Appearance.SOLID,
            nodule_count=1 if any(map(orders.is_solitary, concerned)) else nodule.count,
            female={"female": True, "male": False}.get(str((patient or {}).get("gender"))),
            family_history_lung_cancer=factors.family_history_of_lung_cancer,
            emphysema=factors.emphysema,
            upper_lobe=None,
            spiculation=factors.spiculation,
        )
        risks = await asyncio.to_thread(_assess, known, tools.models, call.deadline)
        asked = {risk.model for risk in risks.values()}
        if any(model.stage != "active" for model in asked) or not tools.store.allows(model.name for model in asked):
            return Answer()
        return Answer((_told(call, card(nodule, risks), tools.public_url),))

    return Service(
        id="auscult-lung-nodule-risk",
        hooks=("problem-list-item-create", "order-select", "order-sign"),
        title="Lung nodule risk",
        description=(
            "The risk of malignancy (Brock model) of a lung nodule whose size is in the record, when the nodule is "
            "put on the problem list, or is the reason of an order."
        ),
        answer=answer,
        prefetch={
            "patient": "Patient/{{context.patientId}}",
            "sizes": "Observation?patient={{context.patientId}}&code=http://loinc.org|21889-1",
            "conditions": "Condition?patient={{context.patientId}}",
            "relatives": "FamilyMemberHistory?patient={{context.patientId}}",
            "smoking": f"Observation?patient={{{{context.patientId}}}}&code=http://loinc.org|{SMOKING_STATUS}",
        },
        required=frozenset({"patient", "sizes"}),
        usage=(
            "Sizes are Observations with LOINC 21889-1, components 33728-7 and 33729-5, and SNOMED CT 39607008 "
            "(lung) as body site. Nodules are known by SNOMED CT 786838002 and 427359005, and ICD-10-CM R91.1."
        ),
    )


def _written(call: Call) -> list[Resource]:
    """Return what the clinician is writing."""
    if call.hook == "problem-list-item-create":
        return resources(call.context["conditions"])
    chosen = call.context.get("selections")
    drafts = resources(call.context["draftOrders"])
    return [
        order
        for order in drafts
        if chosen is None or f"{order['resourceType']}/{order.get('id')}" in chosen or order.get("id") in chosen
    ]


async def _known(call: Call, key: str) -> list[Resource] | None:
    """Return what the record says, None where that is not known: the risk tells how far it matters."""
    try:
        return await call.prefetch.resources(key, call.deadline)
    except UnavailableError:
        return None


def recorded_nodule(observations: Sequence[Resource]) -> Nodule | None:
    """Return the nodule that Observations of size tell of, None where they tell of none in a lung."""
    sizes = [
        (str(each.get("effectiveDateTime", ""))[:10], diameter)
        for each in observations
        if SIZE in orders.codings(each.get("code"))
        and LUNG in orders.codings(each.get("bodySite"))
        and each.get("status") not in {"entered-in-error", "cancelled"}
        and (diameter := _diameter(each)) is not None
    ]
    if not sizes:
        return None
    newest = max(day for day, _ in sizes)
    of_day = [diameter for day, diameter in sizes if day == newest]
    return Nodule(newest, max(of_day), len(of_day))


def _diameter(observation: Resource) -> float | None:
    """Return the mean of the longest and its perpendicular diameter in mm, as the Brock model wants it."""
    found = []
    for component in observation.get("component") or ():
        quantity = component.get("valueQuantity", {})
        scale = MILLIMETRES.get(str(quantity.get("code") or quantity.get("unit")))
        measured = not DIAMETERS.isdisjoint(orders.codings(component.get("code")))
        if scale and measured and isinstance(quantity.get("value"), int | float):
            found.append(quantity["value"] * scale)
    return float(np.mean(found)) if len(found) == len(DIAMETERS) and min(found) > 0 else None


def _age(patient: Resource | None) -> float | None:
    """Return the age in years today, None where the birth date is not known to the day."""
    try:
        born = date.fromisoformat(str((patient or {}).get("birthDate", "")))
    except ValueError:
        return None
    today = datetime.now(UTC).date()
    years = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    return float(years) if 0 < years <= brock.OLDEST else None


def _assess(known: brock.Inputs, models: HurriedModels, deadline: Deadline) -> dict[Appearance, Risk]:
    """Return the risk for each type that the nodule may have: an Observation of size does not tell it."""
    hurried = _Hurried(models, deadline)
    return {
        appearance: brock.assess(replace(known, appearance=appearance), hurried, deadline)
        for appearance in Appearance
    }


def card(nodule: Nodule, risks: dict[Appearance, Risk]) -> Card:
    """Return the card, as the clinician reads it."""
    bounds = [bound for risk in risks.values() for bound in risk.interval or (risk.probability, risk.probability)]
    low, high = min(bounds), max(bounds)
    some = next(iter(risks.values()))
    lines = [
        f"Mean diameter {nodule.diameter:.1f} mm, recorded {nodule.day or 'without a date'}.",
        "",
        "| Type | Risk of malignancy (Brock) |",
        "| --- | --- |",
        *(f"| {appearance.value} | {_range(risk)} |" for appearance, risk in risks.items()),
        "",
        f"Not known: nodule type{''.join(f', {name}' for name in some.assumed)}.",
    ]
    return Card(
        summary=f"Lung nodule {nodule.diameter:.1f} mm recorded: malignancy risk {percent(low)} to {percent(high)}",
        indicator="warning" if high >= WARNING_RISK else "info",
        detail="\n".join(lines),
        source_label=LABEL,
        models=tuple({(risk.model.name, risk.model.version): risk.model for risk in risks.values()}.values()),
    )


def _without(nodule: Nodule) -> Card:
    """Return the card where the model is not for this nodule, or the patient's age is not known."""
    reason = (
        "The Brock model is for nodules of up to 30 mm."
        if nodule.diameter > MASS
        else "The record does not give the patient's birth date, which the Brock model needs."
    )
    return Card(
        summary=f"Lung nodule {nodule.diameter:.1f} mm in the record: no malignancy risk computed",
        indicator="info",
        detail=reason,
        source_label=LABEL,
    )


def _told(call: Call, said: Card, public_url: str) -> bytes:
    return rendered(
        said,
        public_url,
        topic=f"{PATHWAY}_recorded",
        identity=uuid.uuid5(_NAMESPACE, f"{call.caller.tenant}|{call.patient}|{said.summary}|{said.detail}"),
        computed=f"Computed {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from the record, for this call.",
    )


def _range(risk: Risk) -> str:
    low, high = risk.interval or (risk.probability, risk.probability)
    return percent(risk.probability) if low == high else f"{percent(low)} to {percent(high)}"

"""The follow-up that the Fleischner Society advises for the nodules found, told while orders are written.

At `order-select` it is told where a chest CT is selected: with the advised dates for that order. At `order-sign` also
where the advised CT is missing among the orders, unless the record has an active order of one.

A client that is registered for system actions gets one for each chest CT at `order-sign`: the whole order, with a
note of what was found and is advised, for who performs it. Nothing else is changed without the clinician.
"""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from auscult.cds_hooks.card import NOT_VALIDATED
from auscult.cds_hooks.hooks import Resource
from auscult.cds_hooks.prefetch import UnavailableError
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.cds_hooks.store import CardStore
from auscult.pathways.lung_nodule import orders

PATHWAY = "lung_nodule"
DATES = ("occurrenceDateTime", "occurrencePeriod", "occurrenceTiming")
"""An order has one of these (FHIR R4 ServiceRequest, occurrence[x])."""

Json = dict[str, Any]


def service(store: CardStore) -> Service:
    """Return the service."""

    async def answer(call: Call) -> Answer:
        advised = advice(store, call)
        if advised is None:
            return Answer()
        if call.hook == "order-select":
            written = orders.selected(call.context, call.patient)
        else:
            written = orders.drafts(call.context, call.patient)
        if written:
            if not (call.hook == "order-sign" and call.caller.system_actions):
                return Answer((msgspec.json.encode(_dated(advised, written[0])),))
            told = [noted(order, advised) for order in written]
            actions = [_marked(new) for new, old in zip(told, written, strict=True) if new != old and "id" in old]
            # With the note, which would be lost again where the suggestion replaces the order.
            return Answer((msgspec.json.encode(_dated(advised, told[0])),), actions)
        if call.hook == "order-select" or await _ordered(call):
            return Answer()
        return Answer((msgspec.json.encode(advised),))

    return Service(
        id="auscult-lung-nodule-follow-up",
        hooks=("order-select", "order-sign"),
        title="Lung nodule follow-up",
        description=(
            "The follow-up CT that the Fleischner Society (2017) advises for the nodules in the newest chest CT, as "
            "a suggestion, where a chest CT is ordered, or its order is missing."
        ),
        answer=answer,
        prefetch={
            "patient": "Patient/{{context.patientId}}",
            "orders": "ServiceRequest?patient={{context.patientId}}&status=active",
        },
        usage="Knows chest CTs by SNOMED CT 169069000 and LOINC 24627-2.",
    )


def advice(store: CardStore, call: Call) -> Json | None:
    """Return the newest card of the pathway where it proposes a follow-up."""
    for card in store.of(call.caller.tenant, call.patient, PATHWAY)[:1]:
        found: Json = msgspec.json.decode(card)
        return found if "suggestions" in found else None
    return None


async def _ordered(call: Call) -> bool:
    """Whether a chest CT is ordered already; where that cannot be read, the advice is told once more."""
    try:
        return any(map(orders.is_chest_ct, await call.prefetch.resources("orders", call.deadline)))
    except UnavailableError:
        return False


def noted(order: Resource, card: Json) -> Resource:
    """Return the order with a note (FHIR R4 Annotation) of the card's advice; the same where it has it already."""
    text = f"{card['summary']}. Advised: {'; '.join(each['label'] for each in card['suggestions'])}."
    if NOT_VALIDATED in card["detail"]:
        text += f" {NOT_VALIDATED}."
    note = {"authorString": card["source"]["label"], "text": text}
    notes = order.get("note") or []
    return order if note in notes else order | {"note": [*notes, note]}


def _marked(order: Resource) -> Json:
    return {"type": "update", "description": "Note the lung nodule's follow-up on the order", "resource": order}


def _dated(card: Json, order: Resource) -> Json:
    """Return the card with its drafts as new dates of the order that is being written."""
    kept = {name: value for name, value in order.items() if name not in DATES}
    return card | {
        "suggestions": [
            suggestion
            | {
                "uuid": str(uuid.uuid5(uuid.UUID(suggestion["uuid"]), "update")),
                "actions": [
                    {
                        "type": "update",
                        "description": action["description"],
                        "resource": kept | {"occurrencePeriod": action["resource"]["occurrencePeriod"]},
                    }
                    for action in suggestion["actions"]
                ],
            }
            for suggestion in card["suggestions"]
        ]
    }

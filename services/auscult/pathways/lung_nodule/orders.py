"""Which orders and problems of an EHR concern a lung nodule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from auscult.cds_hooks.hooks import Resource, resources
from auscult.domain import codes

ICD_10_CM = ("http://hl7.org/fhir/sid/icd-10-cm", "urn:oid:2.16.840.1.113883.6.90")
"""The second is how Epic writes it."""
CHEST_CT = frozenset((code.system, code.code) for code in (codes.CT_CHEST, codes.LOINC_CT_CHEST))
NODULE = frozenset(
    {
        *((code.system, code.code) for code in (codes.LUNG_NODULE, codes.SOLITARY_LUNG_NODULE)),
        # Solitary pulmonary nodule; R91.8 holds other findings, too.
        *((system, "R91.1") for system in ICD_10_CM),
    }
)


def drafts(context: Mapping[str, Any], patient: str) -> list[Resource]:
    """Return the draft orders in context for chest CTs of `patient` (`Patient/<id>`), and of nobody else."""
    return [
        order
        for order in resources(context.get("draftOrders"))
        if is_chest_ct(order) and str(order.get("subject", {}).get("reference", patient)).endswith(patient)
    ]


def selected(context: Mapping[str, Any], patient: str) -> list[Resource]:
    """Return those of them that were selected now (order-select: advice is on these)."""
    chosen = [str(each) for each in context.get("selections") or ()]
    return [
        order
        for order in drafts(context, patient)
        if f"{order['resourceType']}/{order.get('id')}" in chosen or order.get("id") in chosen
    ]


def is_chest_ct(order: Resource) -> bool:
    """Whether it is an order of a chest CT."""
    return order["resourceType"] in {"ServiceRequest", "ProcedureRequest"} and _says(order.get("code"), CHEST_CT)


def for_nodule(resource: Resource) -> bool:
    """Whether a Condition is a lung nodule, or an order gives one as its reason."""
    reasons = resource.get("reasonCode")
    concepts = [resource.get("code"), *(reasons if isinstance(reasons, list) else ())]
    return any(_says(concept, NODULE) for concept in concepts)


def is_solitary(resource: Resource) -> bool:
    """Whether it says that there is one nodule."""
    solitary = NODULE - {(codes.LUNG_NODULE.system, codes.LUNG_NODULE.code)}
    return any(_says(concept, solitary) for concept in (resource.get("code"), *resource.get("reasonCode", ())))


def codings(concept: object) -> Iterator[tuple[str, str]]:
    """Yield (system, code) of a CodeableConcept that may be missing."""
    found = concept.get("coding") if isinstance(concept, dict) else None
    for coding in found if isinstance(found, list) else ():
        if isinstance(coding, dict):
            yield str(coding.get("system", "")), str(coding.get("code", ""))


def _says(concept: object, wanted: frozenset[tuple[str, str]]) -> bool:
    return not wanted.isdisjoint(codings(concept))

"""The service that shows what was found before anyone asked: it looks up, and joins bytes."""

from __future__ import annotations

from auscult.cds_hooks import vendors
from auscult.cds_hooks.card import LOADING
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.cds_hooks.store import CardStore

SERVICE = "auscult-patient-view"
HOOKS = (
    "patient-view",
    "encounter-start",
    "encounter-discharge",
    "appointment-book",
    "order-dispatch",
    "problem-list-item-create",
    "allergyintolerance-create",
)
"""The site registers those at which it wants to see findings. Orders have services of their own."""


def stored(store: CardStore) -> Service:
    """Return the service that answers from `store`."""

    def answer(call: Call) -> Answer:
        # Before the look-up: what was loading when the answer began may be missing from it.
        loading = () if store.ready else (LOADING,)
        return Answer(loading + store.cards(call.caller.tenant, call.patient, vendors.pathways(call)))

    return Service(
        id=SERVICE,
        hooks=HOOKS,
        title="Auscult imaging findings",
        description=(
            "What Auscult's models found in this patient's images, with model, version, time and evidence. "
            "Answered from results that were computed when the images arrived."
        ),
        answer=answer,
        immediate=True,
        prefetch={"patient": "Patient/{{context.patientId}}"},
    )

"""The CDS Hooks services that pathways offer beside the one that shows what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from numpy.typing import NDArray

from auscult.cds_hooks.services import Service
from auscult.cds_hooks.store import CardStore
from auscult.domain.deadline import Deadline
from auscult.domain.finding import ModelReference


class HurriedModels(Protocol):
    """The models, for who has a deadline of half a second: nothing is waited for beyond it."""

    def infer(self, model: str, inputs: dict[str, NDArray[Any]], *, deadline: Deadline) -> dict[str, NDArray[Any]]:
        """As `Models.infer`."""

    def reference(self, model: str, deadline: Deadline | None = None) -> ModelReference:
        """As `Models.reference`, within the deadline."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a service may use."""

    store: CardStore
    models: HurriedModels
    public_url: str
    """Below which the evidence pages are."""


Offer = Callable[[Tools], Sequence[Service]]
"""What an entry point of the group `auscult.cds_services` names."""


def offered(tools: Tools) -> tuple[Service, ...]:
    """Return the services of the entry point group `auscult.cds_services`, our own and other distributions'."""
    offers: list[Offer] = [entry.load() for entry in entry_points(group="auscult.cds_services")]
    return tuple(service for offer in offers for service in offer(tools))

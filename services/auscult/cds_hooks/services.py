"""What a service is: the hooks it answers, what it asks the EHR to prefetch, its budget, and its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from auscult.cds_hooks.hooks import HOOKS
from auscult.cds_hooks.prefetch import Prefetch
from auscult.cds_hooks.trust.gate import Caller
from auscult.domain.deadline import Deadline
from auscult.platform.errors import RefuseToStart

BUDGET = 0.5
"""Seconds (CDS Hooks 2.0.1, Responding to a Service Call: services should answer within 500 ms)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a service, after all checks."""

    hook: str
    patient: str
    """`Patient/<id>`."""
    context: Mapping[str, Any]
    prefetch: Prefetch
    caller: Caller
    deadline: Deadline
    extension: Mapping[str, Any] = field(default_factory=dict)
    """What a vendor adds to the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Cards, each as JSON, and actions that the EHR takes by itself."""

    cards: Sequence[bytes] = ()
    system_actions: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """One service, on one hook or several: discovery lists it once for each."""

    id: str
    hooks: tuple[str, ...]
    title: str
    description: str
    answer: Callable[[Call], Answer | Awaitable[Answer]]
    """At once, where all that it needs is in memory."""
    prefetch: Mapping[str, str] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    """Keys of `prefetch` without which there is no answer: 412 where they cannot be had."""
    usage: str = ""
    """What a human reads of preconditions. Told in the description: strict clients know no `usageRequirements`."""
    budget: float = BUDGET
    immediate: bool = False
    """Whether `answer` always answers at once, not with an awaitable."""
    version: str = "1"


class Registry:
    """The services by id. RefuseToStart (`service-invalid`) where two have one id, or a hook is unknown."""

    def __init__(self, services: Sequence[Service], *, versions: bool = False) -> None:
        """`versions`: whether discovery tells each service's `version`, a field of the 3.0 ballot."""
        self._services = {service.id: service for service in services}
        unknown = {hook for service in services for hook in service.hooks} - HOOKS.keys()
        if len(self._services) < len(services) or unknown or not all(service.hooks for service in services):
            raise RefuseToStart(
                "service-invalid", "each CDS service needs an id of its own, and hooks that CDS Hooks defines"
            )
        self.discovery = msgspec.json.encode(
            {"services": [one for each in services for one in _described(each, versions=versions)]}
        )
        """The answer of the discovery endpoint."""

    @property
    def all(self) -> tuple[Service, ...]:
        """The services, as they were given."""
        return tuple(self._services.values())

    def get(self, service_id: str) -> Service | None:
        """Return a service, or None."""
        return self._services.get(service_id)


def _described(service: Service, *, versions: bool) -> list[dict[str, Any]]:
    described: dict[str, Any] = {
        "id": service.id,
        "title": service.title,
        "description": f"{service.description} {service.usage}".rstrip(),
    }
    if versions:
        described["version"] = service.version
    if service.prefetch:
        described["prefetch"] = dict(service.prefetch)
    return [{"hook": hook} | described for hook in service.hooks]

"""Notifications as FHIR servers send them, for the tests."""

from __future__ import annotations

from typing import Any

BASE = "https://fhir.example/r4"
OBSERVATION = {
    "resourceType": "Observation",
    "id": "crea-1",
    "meta": {"versionId": "3"},
    "subject": {"reference": "Patient/7"},
}


def told(kind: str = "event-notification", *, events: list[dict[str, Any]] | None = None, so_far: int = 1) -> Any:
    """Return a notification as the Backport IG 1.1 writes it on R4."""
    parts = [
        {"name": "subscription", "valueReference": {"reference": f"{BASE}/Subscription/s1"}},
        {"name": "topic", "valueCanonical": "https://fhir.example/topic"},
        {"name": "status", "valueCode": "active"},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(so_far)},
        *({"name": "notification-event", "part": part} for part in events or []),
    ]
    return {
        "resourceType": "Bundle",
        "type": "history",
        "entry": [{"resource": {"resourceType": "Parameters", "parameter": parts}}],
    }


def event(number: int, focus: str = "Observation/crea-1") -> Any:
    """Return one event's parts."""
    return [
        {"name": "event-number", "valueString": str(number)},
        {"name": "timestamp", "valueInstant": "2026-11-25T00:00:00Z"},
        {"name": "focus", "valueReference": {"reference": focus}},
    ]

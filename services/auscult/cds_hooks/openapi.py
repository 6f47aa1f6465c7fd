"""The description of the HTTP service (OpenAPI 3.1), from the tables that the service itself follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from auscult import __version__
from auscult.cds_hooks.elements import CardJson
from auscult.cds_hooks.hooks import HOOKS, LONGEST
from auscult.cds_hooks.services import Registry, Service

Json = dict[str, Any]

TEXT = {"type": "string", "minLength": 1, "maxLength": LONGEST}
BUNDLE = {"type": "object", "properties": {"resourceType": {"const": "Bundle"}, "entry": {"type": "array"}}}
REFERENCES = {"type": "array", "items": TEXT}
PREFETCHED = {"type": ["object", "null"]}
CODING = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("code", "system", "display")},
}
FEEDBACK = {
    "type": "object",
    "required": ["feedback"],
    "properties": {
        "feedback": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["card", "outcome", "outcomeTimestamp"],
                "properties": {
                    "card": TEXT,
                    "outcome": {"enum": ["accepted", "overridden"]},
                    "acceptedSuggestions": {
                        "type": "array",
                        "items": {"type": "object", "required": ["id"], "properties": {"id": TEXT}},
                    },
                    "overrideReason": {
                        "type": "object",
                        "properties": {"reason": CODING, "userComment": {"type": "string"}},
                    },
                    "outcomeTimestamp": {"type": "string", "format": "date-time"},
                },
                "if": {"properties": {"outcome": {"const": "accepted"}}},
                "then": {"required": ["acceptedSuggestions"]},
            },
        }
    },
}
OUTCOME = {
    "type": "object",
    "required": ["resourceType", "issue"],
    "properties": {"resourceType": {"const": "OperationOutcome"}, "issue": {"type": "array", "minItems": 1}},
}
ERRORS = {
    "400": "A field is missing or wrong; the answer names it.",
    "403": "The client is not registered for this service.",
    "404": "There is no such service.",
    "412": "Data that the service needs cannot be had, or, where so configured, there is no full answer.",
    "413": "The body is too long.",
    "415": "The body is not JSON.",
    "429": "The client called too often.",
}


def describe(registry: Registry, public_url: str) -> bytes:
    """Return the description as JSON."""
    _, components = msgspec.json.schema_components([CardJson], ref_template="#/components/schemas/{name}")
    services = registry.all
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Auscult CDS Hooks", "version": __version__, "description": "CDS Hooks 2.0.1"},
            "servers": [{"url": public_url.rstrip("/")}],
            "security": [{"client": []}],
            "paths": {"/cds-services": {"get": _discovery()}}
            | dict(path for each in services for path in _paths(each)),
            "components": {
                "schemas": {**components, "OperationOutcome": OUTCOME},
                "securitySchemes": {"client": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            },
        }
    )


def _discovery() -> Json:
    service = {
        "type": "object",
        "required": ["hook", "id", "description"],
        "properties": {"hook": {"enum": list(HOOKS)}, "id": TEXT, "title": TEXT, "description": TEXT},
    }
    answer = {
        "type": "object",
        "required": ["services"],
        "properties": {"services": {"type": "array", "items": service}},
    }
    return {
        "operationId": "discovery",
        "summary": "The services",
        "security": [{}],
        "responses": {"200": _content("The services", answer)},
    }


def _paths(service: Service) -> Iterator[tuple[str, Json]]:
    path = f"/cds-services/{service.id}"
    cards = {"type": "array", "items": {"$ref": "#/components/schemas/CardJson"}}
    answer = {
        "type": "object",
        "required": ["cards"],
        "properties": {"cards": cards, "systemActions": {"type": "array"}},
    }
    calls: Json = {"oneOf": [_call(hook, service) for hook in service.hooks]}
    yield path, {"post": _operation(service.id, service.description, calls, _content("Cards", answer))}
    accepted: Json = {"description": "The outcomes were taken"}
    yield (
        f"{path}/feedback",
        {"post": _operation(f"{service.id}-feedback", "What became of cards", FEEDBACK, accepted)},
    )


def _operation(name: str, description: str, body: Json, success: Json) -> Json:
    refused = {
        status: _content(text, {"$ref": "#/components/schemas/OperationOutcome"}) for status, text in ERRORS.items()
    }
    return {
        "operationId": name,
        "description": description,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": success, **refused, "401": {"description": "The client is not let in."}},
    }


def _call(name: str, service: Service) -> Json:
    hook = HOOKS[name]
    fields = (
        dict.fromkeys((*hook.texts, *hook.optional), TEXT)
        | dict.fromkeys(hook.lists, REFERENCES)
        | dict.fromkeys(hook.resources, BUNDLE)
    )
    context: Json = {
        "type": "object",
        "required": [*hook.texts, *hook.lists, *hook.resources],
        "properties": fields,
    }
    if hook.either:
        context["anyOf"] = [{"required": [one]} for one in hook.either]
    return {
        "type": "object",
        "required": ["hook", "hookInstance", "context"],
        "properties": {
            "hook": {"const": name},
            "hookInstance": {"type": "string", "format": "uuid"},
            "fhirServer": {"type": "string", "format": "uri"},
            "fhirAuthorization": {
                "type": "object",
                "required": ["access_token"],
                "properties": {"access_token": {"type": "string"}, "patient": {"type": "string"}},
            },
            "context": context,
            "prefetch": {
                "type": "object",
                "properties": dict.fromkeys(service.prefetch, PREFETCHED),
            },
            "extension": {"type": "object"},
        },
    }


def _content(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}

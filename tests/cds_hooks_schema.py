"""Holds every answer of the services against a schema that was written from the specification, not from our types."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parent / "cds-hooks-2.0.1.schema.json"


@cache
def _validators() -> tuple[Draft202012Validator, Draft202012Validator]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    right = {"oneOf": [{"$ref": "#/$defs/discovery"}, {"$ref": "#/$defs/response"}]}
    return Draft202012Validator(schema | right), Draft202012Validator(
        schema | {"oneOf": [{"$ref": "#/$defs/outcome"}]}
    )


def wrong_with(content: Any, *, failed: bool = False) -> list[str]:
    """Return what the schema has against an answer, or against the OperationOutcome of one that `failed`."""
    found = []
    for error in _validators()[failed].iter_errors(content):
        deepest = max((error, *(error.context or ())), key=lambda each: len(each.absolute_path))
        found.append(f"{deepest.json_path}: {deepest.message}")
    return found


def checked(answer: httpx.Response) -> httpx.Response:
    """Return an answer of discovery, a service or feedback that conforms; AssertionError where it does not."""
    path = answer.request.url.path
    if path.startswith("/cds-services") and answer.content and answer.request.method in {"GET", "POST"}:
        assert answer.headers["content-type"] == "application/json"
        assert wrong_with(answer.json(), failed=not answer.is_success) == []
    return answer

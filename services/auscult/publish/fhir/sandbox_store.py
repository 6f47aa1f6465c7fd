"""What the FHIR sandbox holds, and the FHIR R4 rules that it keeps. See `sandbox`: for the demo and tests alone."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

Json = dict[str, Any]

PAGE = 50
TOKENS = {"_tag": "meta", "_id": "id", "identifier": "identifier", "code": "code", "category": "category"}
REFERENCES = {"patient": ("subject", "patient"), "subject": ("subject",), "target": ("target",)}
CONTROLS = {"_count", "_offset"}
_LITERAL = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")


class Problem(Exception):
    """Answered as an OperationOutcome."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.outcome = {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "error", "code": code, "diagnostics": text}],
        }


class Store:
    """Resources by `Type/id`."""

    def __init__(self, resources: Mapping[str, Json] | None = None) -> None:
        self.resources: dict[str, Json] = dict(resources or {})

    def get(self, place: str) -> Json:
        """Return the resource at `Type/id`; Problem where there is none."""
        if place not in self.resources:
            raise Problem(404, "not-found", f"{place} is not known")
        return self.resources[place]

    def put(self, place: str, resource: Json, *, checked: bool = False) -> tuple[int, Json]:
        """Create or update; what is unchanged keeps its version. `checked`: its structure is known to be right."""
        resource_type, _, identity = place.partition("/")
        _validate(resource, resource_type, checked=checked)
        if resource.get("id") != identity:
            raise Problem(400, "invalid", "the id in the resource is not the id in the URL")
        before = self.resources.get(place)
        if before is not None and _content(before) == _content(resource):
            return 200, before
        version = int(before["meta"]["versionId"]) + 1 if before else 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        stored = {**resource, "meta": {**resource.get("meta", {}), "versionId": str(version), "lastUpdated": now}}
        self.resources[place] = stored
        return (200 if before else 201), stored

    def post(self, resource_type: str, resource: Json, if_none_exist: str | None) -> tuple[int, Json]:
        """Create, unless `if_none_exist` matches already (R4 `http.html#ccreate`)."""
        if if_none_exist:
            matches = list(self.search(resource_type, parse_qsl(if_none_exist)))
            if len(matches) > 1:
                raise Problem(412, "multiple-matches", "If-None-Exist matches several resources")
            if matches:
                return 200, matches[0]
        identity = str(uuid.uuid4())
        return self.put(f"{resource_type}/{identity}", {**resource, "id": identity})

    def search(self, resource_type: str, parameters: list[tuple[str, str]]) -> Iterator[Json]:
        """Yield what matches all of `parameters`; Problem where one is not known."""
        _model(resource_type)
        for name, _ in parameters:
            if name not in TOKENS.keys() | REFERENCES.keys() | CONTROLS:
                raise Problem(400, "not-supported", f"the search parameter {name} is not known here")
        for place, resource in self.resources.items():
            if place.startswith(f"{resource_type}/") and all(
                _matches(resource, name, value) for name, value in parameters if name not in CONTROLS
            ):
                yield resource

    def _update(self, resource_type: str, condition: str, resource: Json, *, checked: bool) -> tuple[int, Json]:
        """Update what `condition` matches, or create it (R4 `http.html#cond-update`)."""
        matches = list(self.search(resource_type, parse_qsl(condition)))
        if len(matches) > 1:
            raise Problem(412, "multiple-matches", "the condition matches several resources")
        identity = matches[0]["id"] if matches else str(uuid.uuid4())
        return self.put(f"{resource_type}/{identity}", {**resource, "id": identity}, checked=checked)

    def searchset(self, resource_type: str, parameters: list[tuple[str, str]], base: str) -> Json:
        """Return one page, with a link to the next."""
        asked = dict(parameters)
        start, count = int(asked.get("_offset", 0)), int(asked.get("_count", PAGE))
        found = list(self.search(resource_type, parameters))
        bundle: Json = {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": len(found),
            "entry": [
                {
                    "fullUrl": f"{base}/{resource_type}/{resource['id']}",
                    "resource": resource,
                    "search": {"mode": "match"},
                }
                for resource in found[start : start + count]
            ],
        }
        if start + count < len(found):
            following = urlencode({**asked, "_offset": str(start + count)})
            bundle["link"] = [{"relation": "next", "url": f"{base}/{resource_type}?{following}"}]
        return bundle

    def entry(self, entry: Json, base: str, *, checked: bool = False) -> Json:
        """Carry out one entry of a batch or transaction."""
        request = entry.get("request", {})
        method, place = request.get("method"), urlsplit(str(request.get("url", "")))
        if method == "GET" and "/" not in place.path:
            return {
                "resource": self.searchset(place.path, parse_qsl(place.query), base),
                "response": {"status": "200 OK"},
            }
        if method == "GET":
            return {"resource": self.get(place.path), "response": {"status": "200 OK"}}
        if method == "PUT" and place.query:
            status, stored = self._update(place.path, place.query, entry.get("resource", {}), checked=checked)
        elif method == "PUT":
            self._check_version(place.path, request.get("ifMatch"))
            status, stored = self.put(place.path, entry.get("resource", {}), checked=checked)
        elif method == "POST":
            status, stored = self.post(place.path, entry.get("resource", {}), request.get("ifNoneExist"))
        else:
            raise Problem(400, "not-supported", "a Bundle entry needs a request with GET, PUT or POST")
        return {"response": {"status": str(status), **location(stored)}}

    def bundle(self, bundle: Json, base: str) -> Json:
        """Carry out a batch, entry by entry, or a transaction, whole or not at all."""
        kind, entries = bundle.get("type"), bundle.get("entry", [])
        if kind == "batch":
            return {
                "resourceType": "Bundle",
                "type": "batch-response",
                "entry": [self._tried(e, base) for e in entries],
            }
        if kind != "transaction":
            raise Problem(400, "not-supported", "a Bundle of type batch or transaction is needed")
        _validate(bundle, "Bundle")
        draft = Store(self.resources)
        answers = [draft.entry(entry, base, checked=True) for entry in entries]
        written = ["/".join(str(answer["response"]["location"]).split("/")[:2]) for answer in answers]
        given = {entry.get("fullUrl"): place for entry, place in zip(entries, written, strict=True)}
        for place in written:
            draft.resources[place] = _resolved(draft.resources[place], given)
        draft.check_references(draft.resources[place] for place in written)
        self.resources = draft.resources
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}

    def _check_version(self, place: str, if_match: str | None) -> None:
        """Refuse to write over another version than the one that was read (R4 `http.html#concurrency`)."""
        held = self.resources.get(place)
        if if_match and (held is None or f'W/"{held["meta"]["versionId"]}"' != if_match):
            raise Problem(412, "conflict", "it was changed since")

    def _tried(self, entry: Json, base: str) -> Json:
        try:
            return self.entry(entry, base)
        except Problem as problem:
            return {"response": {"status": str(problem.status), "outcome": problem.outcome}}

    def check_references(self, resources: Iterator[Json]) -> None:
        """Refuse literal references to what is not here, as servers with referential integrity do."""
        for resource in resources:
            for literal in _literals(resource):
                if literal not in self.resources:
                    raise Problem(400, "processing", f"the reference {literal} leads nowhere")


def _model(resource_type: str) -> Any:
    try:
        return get_fhir_model_class(resource_type)
    except ValueError:
        raise Problem(404, "not-supported", "there is no such resource type") from None


def _validate(resource: Json, resource_type: str, *, checked: bool = False) -> None:
    model = _model(resource_type)
    if resource.get("resourceType") != resource_type:
        raise Problem(400, "invalid", f"a {resource_type} is needed")
    if checked:
        return
    try:
        model.model_validate(resource)
    except ValidationError as error:
        raise Problem(422, "structure", str(error)) from None


def _content(resource: Json) -> Json:
    meta = {key: value for key, value in resource.get("meta", {}).items() if key not in {"versionId", "lastUpdated"}}
    return {**resource, "meta": meta}


def location(stored: Json) -> Json:
    """Return where and in which version `stored` is, as a Bundle's response says it."""
    version = stored["meta"]["versionId"]
    return {
        "location": f"{stored['resourceType']}/{stored['id']}/_history/{version}",
        "etag": f'W/"{version}"',
        "lastModified": stored["meta"]["lastUpdated"],
    }


def _literals(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        literal = value.get("reference")
        if isinstance(literal, str) and _LITERAL.fullmatch(literal):
            yield literal
        for item in value.values():
            yield from _literals(item)
    elif isinstance(value, list):
        for item in value:
            yield from _literals(item)


def _resolved(value: Any, given: Mapping[Any, str]) -> Any:
    """Put the places that were given into references to a transaction's own entries (R4 `http.html#trules`)."""
    if isinstance(value, dict):
        return {
            key: given.get(item, item) if key == "reference" and isinstance(item, str) else _resolved(item, given)
            for key, item in value.items()
        }
    return [_resolved(item, given) for item in value] if isinstance(value, list) else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _matches(resource: Json, name: str, wanted: str) -> bool:
    """Whether one parameter matches; commas that are not escaped mean "or"."""
    choices = [re.sub(r"\\([\\,$|])", r"\1", choice) for choice in re.split(r"(?<!\\),", wanted)]
    if name in REFERENCES:
        kind = "Patient/" if name == "patient" else ""
        wanted_places = {choice if "/" in choice else f"{kind}{choice}" for choice in choices}
        held = [item for element in REFERENCES[name] for item in _list(resource.get(element))]
        return any(item.get("reference") in wanted_places for item in held)
    return any(_token(item, choice) for item in _list(resource.get(TOKENS[name])) for choice in choices)


def _token(held: Any, wanted: str) -> bool:
    """Match a token: `code`, `system|code`, `|code` or `system|` (R4 `search.html#token`)."""
    if isinstance(held, str):
        return held == wanted
    system, bar, code = wanted.partition("|")
    for item in held.get("coding", held.get("tag", [held])):
        value = item.get("value", item.get("code"))
        if not bar and value == wanted:
            return True
        if bar and (not code or value == code) and item.get("system", "") == system:
            return True
    return False

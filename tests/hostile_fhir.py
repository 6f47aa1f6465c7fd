"""FHIR as a hostile or broken server sends it: good resources in which one thing or a few are replaced."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

BASE = "http://fhir.example/r4"
ELSEWHERE = "http://evil.example/r4"
HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 1.5, float("nan"), float("inf"), "", " ", "x" * 5000, "\ud800", "\x00", [], {}, [[]],
    [None], [{}], {"x": {}}, ["Patient/p1"], "Patient/p1", "../../etc", "Patient/../../x", "Patient/..", "//evil/x",
    f"{ELSEWHERE}/Patient/p1", f"{BASE}@evil.example/Patient/p1", "urn:uuid:0", "#p1", "javascript:x", "http://[::1",
    "Patient/p1/_history/../x", "Patient/p1?x=y", "Patient/p1\r\nHost: evil", "2026-13-45", "0000", "99999-01-01",
    "2026-11-25T25:61:61Z", "9" * 30, "1e999", "true", {"reference": f"{ELSEWHERE}/Patient/p1"},
    {"resourceType": "Patient", "id": ".."}, {"coding": "x"}, {"coding": [None, 7, {"code": {}}]},
)  # fmt: skip
"""What is put where something else belongs."""


def deep(levels: int) -> Any:
    """Return a value nested so deep."""
    value: Any = {}
    for _ in range(levels):
        value = {"extension": [value]}
    return value


def resources(kind: str) -> list[dict[str, Any]]:
    """Return what a good server finds of a type."""
    subject = {"reference": "Patient/p1"}
    coded = {"coding": [{"system": "http://loinc.org", "code": "2160-0", "display": "Creatinine"}], "text": "x"}
    base = {"resourceType": kind, "id": "p1", "meta": {"versionId": "1", "lastUpdated": "2026-11-25T00:00:00Z"}}
    more: dict[str, dict[str, Any]] = {
        "Patient": {
            "identifier": [{"system": "urn:oid:1.2.36.146.595.217.0.1", "value": "MRN-4711"}],
            "gender": "female",
            "birthDate": "1957-03-09",
            "link": [{"other": {"reference": "Patient/p2"}, "type": "seealso"}],
        },
        "Consent": {
            "status": "active",
            "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope",
                                  "code": "patient-privacy"}]},
            "patient": subject,
            "provision": {"type": "permit", "period": {"start": "2020"}, "provision": [{"type": "permit"}]},
        },
        "Flag": {"status": "active", "code": coded, "subject": subject},
        "Group": {"member": [{"entity": subject}]},
        "Condition": {"code": coded, "subject": subject, "onsetDateTime": "2020", "clinicalStatus": coded},
        "FamilyMemberHistory": {"relationship": coded, "condition": [{"code": coded}], "patient": subject},
        "Provenance": {"target": [{"reference": "Observation/o"}], "recorded": "2026-11-25T00:00:00Z"},
        "Subscription": {"status": "active", "channel": {"endpoint": "http://x"}, "criteria": "x"},
    }  # fmt: skip
    measured = {"status": "final", "code": coded, "subject": subject, "effectiveDateTime": "2026-11-25",
                "valueQuantity": {"value": 88, "unit": "umol/L", "code": "umol/L"},
                "valueCodeableConcept": coded, "component": [{"code": coded}]}  # fmt: skip
    return [{**base, **more.get(kind, measured)}]


def searchset(kind: str) -> dict[str, Any]:
    """Return a page of a search, with a page behind it."""
    entries = [{"resource": one, "search": {"mode": "match"}} for one in resources(kind)]
    return {"resourceType": "Bundle", "type": "searchset", "entry": entries, "link": []}


def broken(value: Any, chance: random.Random) -> Any:
    """Return a copy with one to three places replaced, removed or added to."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return chance.choice(HOSTILE)
        holder, key = chance.choice(places)
        hostile = copy.deepcopy(chance.choice((*HOSTILE, deep(70), deep(150))))
        if chance.random() < 0.1 and isinstance(holder, dict):
            del holder[key]
        elif chance.random() < 0.1 and isinstance(holder, list):
            holder.insert(key, hostile)
        else:
            holder[key] = hostile
    return value


def _places(value: Any, levels: int = 20) -> Any:
    if levels and isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key], levels - 1)


def body(value: Any, chance: random.Random) -> bytes:
    """Return it as bytes, now and then not in UTF-8, with a mark before it, cut off or said twice."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = '{"a":' * 100_000
    kind = chance.random()
    if kind < 0.02:
        return text.encode("utf-16")
    if kind < 0.04:
        return b"\xef\xbb\xbf" + text.encode()
    if kind < 0.06:
        return text.encode()[: chance.randrange(len(text) + 1)]
    if kind < 0.08:
        return text.replace("{", '{"resourceType":"Bundle","resourceType":7,', 1).encode()
    if kind < 0.10:
        return text.replace(": ", ': 1e999, "x": ', 1).encode()
    return text.encode()

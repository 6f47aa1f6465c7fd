"""What an EHR vendor understands beyond, or short of, the specification. A client's `profile` chooses.

- `epic`: "CDS Hooks Tutorial" on fhir.epic.com (Card, Suggestion and Link Attributes, Supported Extensions,
  Codesets for Create APIs, Epic Extensions).
- `oracle`: Cerner's "CDS Hooks" page for Millennium (CDS Service Registration: allowed links, smart apps).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from auscult.cds_hooks.services import Answer, Call
from auscult.cds_hooks.trust.gate import Caller

TRIGGER = "com.epic.cdshooks.request.bpa-trigger-action"
"""Which of its own triggers Epic mapped to the hook: `patient-view` stands for several."""
CONTENT_TYPE = {"com.epic.cdshooks.card.detail.content-type": "text/markdown; variant=GitHub"}
PREFERENCE_LIST = "urn:com.epic.cdshooks.action.code.system.preference-list-item"
TOPIC_LIMIT = 100
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")

Json = dict[str, Any]


def adapt(answer: Answer, caller: Caller) -> Answer:
    """Return the answer as the caller's EHR understands it."""
    if caller.profile == "none":
        return answer
    orders, links = tuple(sorted(caller.orders.items())), caller.links
    return replace(answer, cards=tuple(_adapted(card, caller.profile, orders, links) for card in answer.cards))


def pathways(call: Call) -> tuple[str, ...] | None:
    """Return the pathways whose cards the site wants at Epic's trigger; None where it wants all."""
    if call.caller.profile != "epic":
        return None
    return call.caller.triggers.get(str(call.extension.get(TRIGGER)))


@lru_cache(maxsize=4096)
def _adapted(raw: bytes, profile: str, orders: tuple[tuple[str, str], ...], links: tuple[str, ...]) -> bytes:
    card: Json = msgspec.json.decode(raw)
    return msgspec.json.encode(_epic(card, dict(orders)) if profile == "epic" else _oracle(card, links))


def _epic(card: Json, orders: Mapping[str, str]) -> Json:
    """One action a suggestion, any selection, an alphanumeric topic, the detail's type, the site's order codes."""
    if topic := card["source"].get("topic"):
        topic["code"] = _NOT_ALPHANUMERIC.sub("", topic["code"])[:TOPIC_LIMIT]
    if "detail" in card:
        card["extension"] = CONTENT_TYPE
    if suggestions := card.get("suggestions"):
        card["selectionBehavior"] = "any"
        card["suggestions"] = [one for each in suggestions for one in _single(each, orders)]
    return card


def _single(suggestion: Json, orders: Mapping[str, str]) -> Iterator[Json]:
    actions = suggestion.get("actions", [])
    for number, action in enumerate(actions):
        _prefer(action.get("resource", {}).get("code", {}), orders)
        one = {name: value for name, value in suggestion.items() if name != "isRecommended"} | {"actions": [action]}
        # Epic selects recommended suggestions in advance: an order is the clinician's to choose.
        if len(actions) > 1:
            one["label"] = action["description"]
            one["uuid"] = str(uuid.uuid5(uuid.UUID(suggestion["uuid"]), str(number)))
        yield one
    if not actions:
        yield suggestion


def _prefer(code: Json, orders: Mapping[str, str]) -> None:
    """Put the site's preference list item before the standard codes of an order."""
    codings = code.get("coding", [])
    for coding in list(codings):
        if key := orders.get(f"{coding.get('system')}|{coding.get('code')}"):
            codings.insert(0, {"system": PREFERENCE_LIST, "code": key})


def _oracle(card: Json, allowed: tuple[str, ...]) -> Json:
    """Links are registered one by one, so they come without a query; what is not registered is left out here."""
    links = []
    for link in card.pop("links", []):
        url = link["url"] if link["type"] == "smart" else link["url"].partition("?")[0]
        if not allowed or url in allowed:
            links.append(link | {"url": url})
    if links:
        card["links"] = links
    if "url" in card["source"]:
        card["source"]["url"] = card["source"]["url"].partition("?")[0]
    return card

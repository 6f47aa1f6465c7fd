"""Vendors' EHRs: the shapes that their public documentation shows are accepted, and answered as they understand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from auscult.cds_hooks.elements import Action, CardJson, Coding, Link, Source, Suggestion
from auscult.cds_hooks.request import read_feedback
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.stored import SERVICE
from auscult.cds_hooks.trust.gate import Caller
from auscult.cds_hooks.vendors import PREFERENCE_LIST, TRIGGER
from ehr import Ehr, request

if TYPE_CHECKING:
    from collections.abc import Callable

    from auscult.domain.finding import Result
    from conftest import Topic

EPIC = {
    "hook": "order-select",
    "hookInstance": "f399c67c-c703-11ea-af16-460231621f93",
    "fhirServer": "https://ehr.example.org/interconnect/api/FHIR/R4",
    "fhirAuthorization": {
        "access_token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln",
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "Observation.Read (Labs) (R4) Patient.Read (R4)",
        "subject": "eBqAgsjUpqwkyIZoKeMcUA3",
    },
    "context": {
        "patientId": "eXoGxqgBaJuNkuahMYmiDhg3",
        "encounterId": "eAJ9U5Zv9Vzeg4lBWxmAQcItP6nlidE0QacJVtVudEQ43",
        "userId": "PractitionerRole/e-QokEGUJIzyynNdkCFrs9w3",
        "selections": ["MedicationRequest/ez067mnwOAKP5z1.YJwRAsd9"],
        "draftOrders": {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [
                {
                    "resource": {
                        "resourceType": "MedicationRequest",
                        "id": "ez067mnwOAKP5z1.YJwRAsd9",
                        "status": "draft",
                        "medicationReference": {"reference": "#m"},
                        "contained": [{"resourceType": "Medication", "id": "m"}],
                        "subject": {"reference": "Patient/eXoGxqgBaJuNkuahMYmiDhg3", "display": "Patient, Test"},
                    }
                }
            ],
        },
    },
    "prefetch": {
        "user": {"resourceType": "PractitionerRole", "identifier": [{"system": "urn:oid:2.16.840.1.113883.4.1"}]},
        "conditions": {
            "resourceType": "Bundle",
            "total": 0,
            "entry": [{"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}}],
        },
    },
    "extension": {
        TRIGGER: "18",
        "com.epic.cdshooks.request.cds-hooks-specification-version": "1.0",
        "com.epic.cdshooks.request.fhir-version": "R4",
        "com.epic.cdshooks.request.criteria-id": "2852",
        "com.epic.cdshooks.request.epic-version": "9.4",
        "internal.epic.cdshooks.request.epic-emp-id": "17805",
    },
}
"""As in "CDS Hooks Tutorial", Example HTTP Request and Medication References."""
ORDER = {"resourceType": "ServiceRequest", "code": {"coding": [{"system": "s", "code": "ct"}]}}
CARD = CardJson(
    summary="Nodule",
    indicator="info",
    detail="**Bold**",
    source=Source("Auscult", "https://a/models/brock?version=1", Coding("urn:t", "lung_nodule", "Lung nodule")),
    suggestions=(
        Suggestion(
            "Two",
            uuid="cf72fe83-1eb9-410c-94aa-04ec98736388",
            is_recommended=True,
            actions=(
                Action("create", "Order the CT", ORDER),
                Action("delete", "Drop it", resource_id="ServiceRequest/1"),
            ),
        ),
        Suggestion("None", uuid="12035ae1-5d60-4f58-b922-882140b98283"),
    ),
    selection_behavior="at-most-one",
    links=(
        Link("Evidence", "https://a/models/brock?version=1", "absolute"),
        Link("App", "https://app/launch?x=1", "smart"),
    ),
)


async def _card(_: Call) -> Answer:
    return Answer((msgspec.json.encode(CARD),))


ONE = Service("one", ("patient-view", "order-select"), "One", "One", _card)
BASE = "https://ehr.example.org/interconnect/api/FHIR/R4"


def told(caller: Caller, call: dict[str, Any]) -> dict[str, Any]:
    """Return the card that the caller gets."""
    [answer] = Ehr(CardStore("https://a"), ONE, caller=caller).ask("one", call)
    [card] = answer.json()["cards"]
    assert isinstance(card, dict)
    return card


def test_epic_gets_one_action_a_suggestion_any_selection_and_its_own_codes() -> None:
    """The topic is alphanumeric, the detail has a type, an order is the preference list's, and none is preset."""
    caller = Caller("epic", "default", (BASE,), "epic", orders={"s|ct": "CTCHEST"})
    card = told(caller, EPIC)
    assert card["selectionBehavior"] == "any"
    assert card["source"]["topic"]["code"] == "lungnodule"
    assert card["extension"] == {"com.epic.cdshooks.card.detail.content-type": "text/markdown; variant=GitHub"}
    assert [len(each.get("actions", [])) for each in card["suggestions"]] == [1, 1, 0]
    assert len({each["uuid"] for each in card["suggestions"]}) == 3
    assert "isRecommended" not in json.dumps(card)
    coding = card["suggestions"][0]["actions"][0]["resource"]["code"]["coding"]
    assert coding[0] == {"system": PREFERENCE_LIST, "code": "CTCHEST"}
    assert coding[1]["code"] == "ct"


def test_others_get_the_specification_and_no_extension() -> None:
    """A client without a profile gets the card as it is."""
    assert told(Caller("x", "default", (BASE,)), EPIC) == json.loads(msgspec.json.encode(CARD))


@pytest.mark.parametrize(
    ("links", "urls"),
    [
        ((), ["https://a/models/brock", "https://app/launch?x=1"]),
        (("https://a/models/brock",), ["https://a/models/brock"]),
    ],
)
def test_oracle_gets_links_that_can_be_registered(links: tuple[str, ...], urls: list[str]) -> None:
    """Without a query, and only those that are registered where the site says which."""
    card = told(Caller("oracle", "default", (BASE,), "oracle", links=links), request())
    assert [link["url"] for link in card["links"]] == urls
    assert card["source"]["url"] == "https://a/models/brock"


@pytest.fixture
def shown(store: CardStore, topic: Topic, make_result: Callable[..., Result]) -> CardStore:
    """Return a store with a card of the lung nodule pathway."""
    topic.publish(make_result())
    topic.wait()
    return store


@pytest.mark.parametrize(
    ("profile", "trigger", "count"), [("epic", "60", 1), ("epic", "6", 0), ("epic", "99", 1), ("none", "6", 1)]
)
def test_epic_s_triggers_choose_pathways(
    shown: CardStore,
    profile: Any,
    trigger: str,
    count: int,
) -> None:
    """Epic uses patient-view for several of its triggers; a site may say which pathways it wants at each."""
    caller = Caller("epic", "default", (), profile, triggers={"60": ("lung_nodule",), "6": ("other",)})
    for value in (trigger, int(trigger)):
        [answer] = Ehr(shown, caller=caller).ask(SERVICE, request(extension={TRIGGER: value}))
        assert len(answer.json()["cards"]) == count


def test_a_vendor_s_call_in_full_is_answered() -> None:
    """Epic's extension, contained medication, scopes in words and outcome entries are no errors, whoever calls."""
    for profile in ("none", "epic", "oracle"):
        caller = replace(Caller("x", "default", (BASE,)), profile=profile)  # type: ignore[arg-type]
        assert told(caller, EPIC)["summary"] == "Nodule"


REASON = {"code": "contraindicated", "display": "bad", "system": "http: //example.org/reasons"}
CATEGORY = "com.epic.cdshooks.feedback.overrideReason.reasonCategory"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"overrideReasons": {"reason": REASON, "userComment": "Free text"}},
            ("http: //example.org/reasons", "contraindicated"),
        ),
        ({"overrideReasons": [{"reason": REASON}]}, ("http: //example.org/reasons", "contraindicated")),
        ({"overrideReasons": {"extension": {CATEGORY: "45"}, "userComment": "Text"}}, (f"urn:{CATEGORY}", "45")),
        ({"overrideReason": {"reason": REASON}}, ("http: //example.org/reasons", "contraindicated")),
        ({"overrideReason": {"userComment": "Text"}}, ("", "")),
        ({"overrideReasons": "x"}, ("", "")),
        ({}, ("", "")),
    ],
)
def test_both_spellings_of_the_reason_are_read(given: dict[str, Any], reason: tuple[str, str]) -> None:
    """The specification's `overrideReason`, and Epic's `overrideReasons` with one reason or its own category."""
    item = {"card": "123456", "outcome": "overridden", "outcomeTimestamp": "2022-05-19T19:44:04Z"} | given
    [read] = read_feedback(json.dumps({"feedback": [item]}).encode())
    assert read.reason == reason

"""Every hook, method and content type over HTTP, and the shape of each answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from pydantic import ValidationError

from auscult.cds_hooks.card import SmartApp, render
from auscult.cds_hooks.elements import Action, CardJson, Link, Source, Suggestion
from auscult.cds_hooks.hooks import HOOKS
from auscult.cds_hooks.services import Answer, Call, Registry, Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.stored import SERVICE
from auscult.domain.codes import CT_CHEST
from auscult.domain.finding import ModelReference, Proposal, Result
from auscult.platform.errors import RefuseToStart
from auscult.platform.settings import Settings
from ehr import CONTEXTS, Ehr, request

if TYPE_CHECKING:
    from conftest import Call as Send
    from conftest import Topic

FIELDS = {
    "": {
        "uuid",
        "summary",
        "detail",
        "indicator",
        "source",
        "suggestions",
        "selectionBehavior",
        "overrideReasons",
        "links",
    },
    "source": {"label", "url", "icon", "topic"},
    "topic": {"code", "system", "display"},
    "suggestions": {"label", "uuid", "isRecommended", "actions"},
    "actions": {"type", "description", "resource", "resourceId"},
    "overrideReasons": {"code", "system", "display"},
    "links": {"label", "url", "type", "appContext"},
}
"""CDS Hooks 2.0.1, Card Attributes: what a strict reader knows."""


def names(value: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (place, name, value) of every field of a card, but not of FHIR resources in it."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            for name, inner in each.items():
                yield place, name, inner
                if name != "resource":
                    yield from names(inner, name)


PROPOSAL = Proposal("CT chest in 6-12 months", CT_CHEST, (6, 12), "Nodule", ModelReference("guide", "1", "x"))


def test_a_card_has_only_what_is_specified_and_nothing_empty(
    send: Send, topic: Topic, make_result: Callable[..., Result]
) -> None:
    """A strict reader knows every field; no value is null or empty; an override reason has a display."""
    topic.publish(make_result(proposals=(PROPOSAL,), override_reasons=(CT_CHEST,), acquired="2026-01-31"))
    topic.wait()
    [card] = send("POST", f"/cds-services/{SERVICE}", json=request()).json()["cards"]
    for place, name, value in names(card):
        assert name in FIELDS[place]
        assert value not in (None, "", [], {})
    assert card["selectionBehavior"] == "at-most-one"
    assert len(card["summary"]) < 140
    [suggestion] = card["suggestions"]
    order = suggestion["actions"][0]["resource"]
    assert (order["resourceType"], order["status"], order["intent"]) == ("ServiceRequest", "draft", "proposal")
    assert order["subject"] == {"reference": "Patient/42"}
    assert order["occurrencePeriod"] == {"start": "2026-07-31", "end": "2027-01-31"}
    assert order["meta"]["security"][0]["code"] == "AIAST"


def test_a_card_links_to_the_site_s_smart_app(make_result: Callable[..., Result]) -> None:
    """The link has the study as context; without an app, or in a link that is no SMART link, there is none."""
    result = make_result()
    app = SmartApp("https://viewer.example.org/launch", "Open <b>images</b>")
    first, evidence = json.loads(render(result, "https://a", app))["links"]
    assert (first["type"], first["url"], "<" in first["label"]) == (
        "smart",
        "https://viewer.example.org/launch",
        False,
    )
    assert json.loads(first["appContext"]) == {"pathway": "lung_nodule", "study": "1.2.3"}
    assert (evidence["type"], "appContext" in evidence) == ("absolute", False)
    assert [link["type"] for link in json.loads(render(result, "https://a"))["links"]] == ["absolute"]


@pytest.mark.parametrize(
    "url", ["http://viewer.example.org/launch", "javascript:alert(1)", "https://user@host/", "x"]
)
def test_a_smart_app_is_on_https(url: str) -> None:
    """Another launch URL is refused when the settings are read."""
    with pytest.raises(ValidationError):
        Settings(hooks_smart_app=url)


@pytest.fixture
def send(call: Send) -> Send:
    """Return what sends one request."""
    return call


async def all_hooks(call: Call) -> Answer:
    """Answer with one card of everything that there is, and a system action."""
    card = CardJson(
        summary=call.hook,
        indicator="info",
        source=Source("All"),
        suggestions=(Suggestion("Delete", actions=(Action("delete", "Delete it", resource_id="ServiceRequest/1"),)),),
        selection_behavior="any",
        links=(Link("App", "https://app.example.org/launch", "smart", app_context='{"a":1}'),),
    )
    action = {"type": "update", "description": "Annotate", "resource": {"resourceType": "ServiceRequest", "id": "1"}}
    return Answer((msgspec.json.encode(card),), (action,))


ALL = Service("all", tuple(HOOKS), "All", "All hooks", all_hooks, usage="None")


@pytest.mark.parametrize("hook", CONTEXTS)
def test_every_hook_is_answered(hook: str) -> None:
    """Each with the smallest context that its definition allows; links, deletions and system actions are told."""
    [answer] = Ehr(CardStore("https://a"), ALL).ask("all", request(hook))
    assert answer.status_code == 200
    [card] = answer.json()["cards"]
    assert card["summary"] == hook
    assert card["links"][0]["appContext"] == '{"a":1}'
    assert card["suggestions"][0]["actions"] == [
        {"type": "delete", "description": "Delete it", "resourceId": "ServiceRequest/1"}
    ]
    assert answer.json()["systemActions"][0]["type"] == "update"


@pytest.mark.parametrize(
    ("hook", "context", "named"),
    [
        ("encounter-start", {"encounterId": None}, "encounterId"),
        ("patient-view", {"encounterId": 7}, "encounterId"),
        ("order-select", {"selections": "ServiceRequest/1"}, "selections"),
        ("order-select", {"draftOrders": None}, "draftOrders"),
        ("order-sign", {"draftOrders": "x"}, "draftOrders"),
        ("order-dispatch", {"performer": None}, "performer"),
        ("order-dispatch", {"dispatchedOrders": None}, "dispatchedOrders"),
        ("appointment-book", {"appointments": None}, "appointments"),
        ("problem-list-item-create", {"conditions": None}, "conditions"),
        ("allergyintolerance-create", {"allergyIntolerances": None}, "allergyIntolerances"),
    ],
)
def test_a_context_without_what_its_hook_requires_is_refused(hook: str, context: dict[str, Any], named: str) -> None:
    """400, and the field is named."""
    [answer] = Ehr(CardStore("https://a"), ALL).ask("all", request(hook, context))
    assert answer.status_code == 400
    assert named in answer.json()["issue"][0]["diagnostics"]


def test_orders_may_come_as_a_list_and_dispatch_in_its_older_form() -> None:
    """Some send a list where a Bundle is due; order-dispatch 1.0 names one order, the example of 1.1 has hyphens."""
    calls = [
        request("order-sign", {"draftOrders": [{"resourceType": "ServiceRequest"}]}),
        request("order-dispatch", {"dispatchedOrders": None, "order": "ServiceRequest/1"}),
        request("order-dispatch", {"dispatchedOrders": None, "dispatched-orders": ["ServiceRequest/1"]}),
    ]
    assert [answer.status_code for answer in Ehr(CardStore("https://a"), ALL).ask("all", *calls)] == [200] * 3


def test_discovery_lists_a_service_once_for_each_hook(send: Send) -> None:
    """The same id on several hooks, with what 2.0.1 knows, and `version` where the site wants it."""
    services = send("GET", "/cds-services").json()["services"]
    assert {each["hook"] for each in services} == set(HOOKS) - {"order-select", "order-sign"}
    assert {each["id"] for each in services} == {SERVICE}
    assert all({"hook", "id", "title", "description", "prefetch"} == set(each) for each in services)
    assert b'"version"' not in Registry((ALL,)).discovery
    assert b'"version":"1"' in Registry((ALL,), versions=True).discovery


@pytest.mark.parametrize("services", [(ALL, ALL), (Service("x", ("no-hook",), "X", "X", all_hooks),)])
def test_a_service_that_cannot_be_called_is_refused_at_the_start(services: tuple[Service, ...]) -> None:
    """Two of one id, or a hook that is not defined."""
    with pytest.raises(RefuseToStart, match="service-invalid"):
        Registry(services)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/cds-services/", 200),
        ("HEAD", "/cds-services", 200),
        ("OPTIONS", "/cds-services", 204),
        ("POST", "/cds-services", 405),
        ("DELETE", "/cds-services", 405),
        ("GET", f"/cds-services/{SERVICE}", 405),
        ("PUT", f"/cds-services/{SERVICE}/feedback", 405),
        ("OPTIONS", f"/cds-services/{SERVICE}", 204),
        ("POST", f"/cds-services/{SERVICE}/other", 404),
        ("POST", "/cds-services/a/b/c", 404),
        ("GET", "/cds-servicesx", 404),
    ],
)
def test_methods_and_paths(send: Send, method: str, path: str, status: int) -> None:
    """What there is, is answered; 405 says what is allowed; errors are OperationOutcomes; HEAD has no body."""
    answer = send(method, path)
    assert answer.status_code == status
    if status in {404, 405}:
        assert answer.json()["resourceType"] == "OperationOutcome"
    if status in {204, 405}:
        assert "OPTIONS" in answer.headers["allow"]
    if method == "HEAD":
        assert answer.content == b""
        assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=UTF-8", 200),
        ('application/json;charset="utf-8"', 200),
        ("application/fhir+json", 200),
        ("application/json; charset=utf-16", 415),
        ("application/xml", 415),
    ],
)
def test_content_types(send: Send, kind: str, status: int) -> None:
    """JSON in UTF-8 is read; anything else is 415."""
    answer = send("POST", f"/cds-services/{SERVICE}", content=json.dumps(request()), headers={"content-type": kind})
    assert answer.status_code == status


def test_a_body_that_is_declared_too_long_is_not_read() -> None:
    """413 before a byte is taken; a client that goes away before its end gets nothing."""
    app = Ehr(CardStore("https://a")).app

    async def ask(length: bytes, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        given = iter(messages)

        async def receive() -> dict[str, Any]:
            return next(given)

        async def tell(message: dict[str, Any]) -> None:
            told.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        scope = {"type": "http", "method": "POST", "path": f"/cds-services/{SERVICE}", "headers": headers}
        await app(scope, receive, tell)  # type: ignore[arg-type]
        return told

    assert asyncio.run(ask(b"3000000"))[0]["status"] == 413
    half = {"type": "http.request", "body": b"{", "more_body": True}
    assert asyncio.run(ask(b"10", half, {"type": "http.disconnect"})) == []


def test_the_service_describes_itself(send: Send) -> None:
    """OpenAPI 3.1: a path for discovery, and two for each service; each hook is a form of the request."""
    described = send("GET", "/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]) == {
        "/cds-services",
        f"/cds-services/{SERVICE}",
        f"/cds-services/{SERVICE}/feedback",
    }
    call = described["paths"][f"/cds-services/{SERVICE}"]["post"]["requestBody"]["content"]["application/json"]
    hooks = {each["properties"]["hook"]["const"] for each in call["schema"]["oneOf"]}
    assert hooks == set(HOOKS) - {"order-select", "order-sign"}


def test_a_browser_s_head_and_error_answers_have_cors_headers(send: Send) -> None:
    """A page of a named origin reads errors, too; without that a browser hides them."""
    headers = {"origin": "https://ehr.example.org", "content-type": "application/json"}
    answer: httpx.Response = send("POST", f"/cds-services/{SERVICE}", content=b"{", headers=headers)
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == "https://ehr.example.org"

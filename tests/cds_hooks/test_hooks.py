"""CDS Hooks over HTTP: discovery, patient-view, feedback, and the errors an integrator meets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from auscult.cds_hooks.endpoints import BODY_LIMIT
from auscult.cds_hooks.request import read_feedback, read_hook
from auscult.cds_hooks.stored import HOOKS, SERVICE
from auscult.domain.finding import Result
from auscult.platform.errors import Refused

if TYPE_CHECKING:
    from conftest import Call, Topic

Make = Callable[..., Result]
HOOK = f"/cds-services/{SERVICE}"
FEEDBACK = f"{HOOK}/feedback"
OUTCOME = {"card": "4e0a3a1e", "outcome": "overridden", "outcomeTimestamp": "2026-01-31T12:00:00Z"}


def body(**changes: Any) -> dict[str, Any]:
    """Return a valid call of patient-view with `changes`; a change to ... removes the field."""
    request = {
        "hook": "patient-view",
        "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
        "context": {"userId": "Practitioner/abc", "patientId": "42"},
    } | changes
    return {name: value for name, value in request.items() if value is not ...}


SECRET = {"resourceType": "Patient", "id": "secret"}
OF_ANOTHER: list[Any] = [
    SECRET,
    [SECRET],
    SECRET | {"entry": 7},
    {
        "resourceType": "Bundle",
        "entry": [{"resource": {"resourceType": "Patient", "id": "42"}}, {"resource": SECRET}],
    },
    {"resourceType": "Observation", "subject": {"reference": "Patient/secret"}},
    {
        "resourceType": "Bundle",
        "entry": [{"resource": {"patient": {"reference": "https://a/Patient/secret/_history/1"}}}],
    },
    {"resourceType": "Account", "subject": [{"reference": "Patient/42"}, {"reference": "Patient/secret"}]},
]
"""Prefetched resources of somebody else, also such as FHIR does not know."""


def test_discovery_describes_the_service(call: Call) -> None:
    """The discovery endpoint gives all that CDS Hooks 2.0 requires of a service."""
    answer = call("GET", "/cds-services")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    services = answer.json()["services"]
    assert [service["hook"] for service in services] == list(HOOKS)
    service = services[0]
    assert service["id"] == SERVICE
    assert service["prefetch"] == {"patient": "Patient/{{context.patientId}}"}
    assert service["title"]
    assert service["description"]


def test_a_patient_s_cards_are_answered(call: Call, topic: Topic, make_result: Make) -> None:
    """The patient in context gets the cards in the store, another patient an empty list."""
    topic.publish(make_result())
    topic.publish(make_result(study="1.9", indicator="warning", summary="Second"))
    topic.wait()
    answer = call("POST", HOOK, json=body())
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert [card["summary"] for card in answer.json()["cards"]] == ["Second", "Lung nodule 8.4 mm"]
    other = call("POST", HOOK, json=body(context={"userId": "Practitioner/abc", "patientId": "43"}))
    assert other.content == b'{"cards":[]}'


def test_another_tenant_s_cards_are_not_answered(call: Call, topic: Topic, make_result: Make) -> None:
    """The service answers for its own tenant, whatever the topic holds."""
    topic.publish(make_result(tenant="north"))
    topic.wait()
    assert call("POST", HOOK, json=body()).json() == {"cards": []}


@pytest.mark.parametrize(
    "changes",
    [
        {"context": {"userId": "Practitioner/abc", "patientId": "Patient/42", "encounterId": "9"}},
        {"prefetch": None},
        {"prefetch": {}},
        {"prefetch": {"patient": None}},
        {"prefetch": {"patient": {"resourceType": "Patient", "id": "42", "name": [{"family": "X"}]}}},
        {"prefetch": {"patient": {"resourceType": "OperationOutcome", "issue": []}, "other": [1]}},
        {"prefetch": {"x": {"resourceType": "Observation", "subject": {"reference": "https://a/r4/Patient/42"}}}},
        {"prefetch": {"x": {"resourceType": "Observation", "subject": {"reference": "Group/7"}}}},
        {"fhirServer": "https://ehr.example.org/fhir", "fhirAuthorization": {"access_token": "t", "expires_in": 300}},
        {
            "extension": {"com.example.a": {"b": [None]}},
            "unknown": 1,
            "hookInstance": "d1577c69dfbe44adba6d3e05e953b2ea",
        },
    ],
)
def test_what_ehrs_add_or_leave_out_is_accepted(
    call: Call, topic: Topic, make_result: Make, changes: dict[str, Any]
) -> None:
    """Both forms of the patient's id, every state of prefetch, unknown fields and extensions."""
    topic.publish(make_result())
    topic.wait()
    assert len(call("POST", HOOK, json=body(**changes)).json()["cards"]) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hook": ...}, "hook"),
        ({"hook": "order-sign"}, "discovery"),
        ({"hookInstance": ...}, "hookInstance"),
        ({"hookInstance": "7"}, "$.hookInstance"),
        ({"context": ...}, "context"),
        ({"context": {"patientId": "42"}}, "userId"),
        ({"context": {"userId": "", "patientId": "42"}}, "context.userId"),
        ({"context": {"userId": "a"}}, "patientId"),
        ({"context": {"userId": "a", "patientId": 42}}, "context.patientId"),
        ({"context": {"userId": "a", "patientId": "Patient/"}}, "context.patientId"),
        ({"context": {"userId": "a", "patientId": "Person/42"}}, "context.patientId"),
        ({"context": {"userId": "a", "patientId": "42 OR 1"}}, "context.patientId"),
        ({"fhirAuthorization": {"access_token": "t", "patient": "secret"}}, "prefetch"),
        *(({"prefetch": {"x": of_another}}, "prefetch") for of_another in OF_ANOTHER),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(call: Call, changes: dict[str, Any], named: str) -> None:
    """It gets 400 and an OperationOutcome that names the field and no value."""
    answer = call("POST", HOOK, json=body(**changes))
    assert answer.status_code == 400
    assert answer.json()["resourceType"] == "OperationOutcome"
    [issue] = answer.json()["issue"]
    assert (issue["severity"], issue["code"]) == ("error", "invalid")
    assert named in issue["diagnostics"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid"),
        (b'{"hook":', 400, "invalid"),
        (b"[]", 400, "invalid"),
        (b'{"hook":"\xff"}', 400, "invalid"),
        (b'{"x":' + b"[" * 100_000, 400, "invalid"),
        (b" " * (BODY_LIMIT + 1), 413, "too-long"),
    ],
)
def test_a_body_that_is_no_request_is_refused(call: Call, content: bytes, status: int, code: str) -> None:
    """Bytes that are not JSON, nest without end or are too many get a 4xx with an OperationOutcome."""
    answer = call("POST", HOOK, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text(max_size=4), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_no_body_fails_otherwise(content: bytes) -> None:
    """Whatever the bytes, the parsers refuse them by name."""
    for read in (partial(read_hook, hooks=HOOKS), read_feedback):
        with pytest.raises(Refused) as refused:
            read(content)
        assert refused.value.status == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types_are_refused(call: Call, kind: str) -> None:
    """A page of another site can send plain text without a preflight; it gets 415."""
    answer = call("POST", HOOK, content=json.dumps(body()), headers={"content-type": kind})
    assert answer.status_code == 415


def test_a_charset_is_accepted(call: Call) -> None:
    """`application/json; charset=utf-8` is JSON."""
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert call("POST", HOOK, content=json.dumps(body()), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/cds-services/other", 404, "not-found"),
        ("POST", "/cds-services/other/feedback", 404, "not-found"),
        ("GET", "/elsewhere", 404, "not-found"),
        ("GET", HOOK, 405, "not-supported"),
    ],
)
def test_an_unknown_service_is_not_found(call: Call, method: str, path: str, status: int, code: str) -> None:
    """It gets an OperationOutcome, like every error."""
    answer = call(method, path, **({"json": body()} if method == "POST" else {}))
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)


def test_while_results_are_loading_a_card_says_so(call: Call, topic: Topic, make_result: Make) -> None:
    """What is known is shown beside a card that says that more may come; probes learn it too."""
    assert call("GET", "/readyz").status_code == 200
    topic.withheld.set()
    topic.publish(make_result())
    topic.wait()
    cards = call("POST", HOOK, json=body()).json()["cards"]
    assert [card["indicator"] for card in cards] == ["info", "info"]
    assert "loading" in cards[0]["summary"]
    assert call("GET", "/readyz").json() == {"ready": False, "skipped": 0}
    assert call("GET", "/readyz").status_code == 503
    assert call("GET", "/healthz").status_code == 200


def test_a_hook_continues_the_caller_s_trace(call: Call, spans: InMemorySpanExporter) -> None:
    """The span is the server's side of the caller's, and does not name the patient."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    context = {"userId": "Practitioner/abc", "patientId": "secret"}
    call("POST", HOOK, json=body(context=context), headers={"traceparent": parent})
    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("hook patient-view", SpanKind.SERVER)
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert dict(span.attributes or {}) == {"cards": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"overrideReason": {"reason": {"code": "x", "system": "https://a.org"}, "userComment": "secret"}},
        {"outcome": "accepted", "acceptedSuggestions": [{"id": "e56e1945"}]},
        {"overrideReasons": [{"code": "x"}]},
    ],
)
def test_feedback_is_counted_without_its_words(
    call: Call, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    """Each outcome gets 200 and is counted in the log; comments are not in it."""
    caplog.set_level(logging.INFO)
    answer = call("POST", FEEDBACK, json={"feedback": [OUTCOME, OUTCOME | changes]})
    assert answer.status_code == 200
    assert "feedback: " in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("feedback", "named"),
    [
        ([], "$.feedback"),
        ([OUTCOME | {"outcome": "ignored"}], "outcome"),
        ([OUTCOME | {"outcome": "accepted"}], "acceptedSuggestions"),
        ([OUTCOME | {"outcomeTimestamp": "2026-01-31T12:00:00"}], "outcomeTimestamp"),
        ([OUTCOME, OUTCOME | {"outcomeTimestamp": "0001-01-01T00:00:00+14:00"}], "outcomeTimestamp"),
        ([{"card": "x", "outcome": "overridden"}], "outcomeTimestamp"),
        ([OUTCOME | {"card": ""}], "card"),
    ],
)
def test_wrong_feedback_is_told_what_is_wrong(call: Call, feedback: list[Any], named: str) -> None:
    """It gets 400 and the name of the field."""
    answer = call("POST", FEEDBACK, json={"feedback": feedback})
    assert answer.status_code == 400
    assert named in answer.json()["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    "told",
    ["2026-01-31T12:00Z", "2026-01-31T13:00:00+0100", "2026-01-31T12:00:00.000000000Z", "20260131t120000z"],
)
def test_one_moment_is_one_moment_in_every_form_of_iso_8601(told: str) -> None:
    """Java's `OffsetDateTime` leaves out seconds that are zero, its `Instant` tells nanoseconds."""
    [item] = read_feedback(json.dumps({"feedback": [OUTCOME | {"outcomeTimestamp": told}]}).encode())
    assert item.at.isoformat() == "2026-01-31T12:00:00+00:00"


def test_an_ehr_in_a_browser_that_is_named_may_call(call: Call) -> None:
    """Its preflight and its calls are allowed; other origins get no permission."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type, authorization"}
    allowed = call("OPTIONS", HOOK, headers={"origin": "https://ehr.example.org"} | asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://ehr.example.org"
    called = call("POST", HOOK, json=body(), headers={"origin": "https://ehr.example.org"})
    assert called.headers["access-control-allow-origin"] == "https://ehr.example.org"
    other = call("OPTIONS", HOOK, headers={"origin": "https://evil.example.org"} | asked)
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in call("GET", "/cds-services", headers={"origin": "null"}).headers


def test_no_log_names_a_patient(
    call: Call, topic: Topic, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Right, wrong and unreadable calls leave no identifier behind at any level."""
    caplog.set_level(logging.DEBUG, logger="auscult")
    topic.publish(make_result("Patient/secret"))
    topic.wait()
    context = {"userId": "Practitioner/secret", "patientId": "secret"}
    assert len(call("POST", HOOK, json=body(context=context)).json()["cards"]) == 1
    call("POST", HOOK, json=body(context=context | {"patientId": "secret/secret"}))
    call("POST", HOOK, json=body(context=context, hook="secret"))
    assert "secret" not in caplog.text

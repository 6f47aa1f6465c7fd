"""The FHIR client: what each failure becomes, and what it never says."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from auscult.domain.deadline import Deadline
from auscult.platform import telemetry
from auscult.platform.errors import AuscultError, DeadLetter, RefuseToStart, Retry
from auscult.publish.fhir import connection
from auscult.publish.fhir.answers import seconds
from auscult.publish.fhir.client import FhirClient, token
from auscult.publish.fhir.patients import resolve
from auscult.publish.fhir.resources import transaction
from fhir_samples import IDENTITY, ISSUER_SYSTEM, STUDY_UID, SYSTEMS, finding, patient, put, result

BASE = "http://fhir.example/base"
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "processing", "diagnostics": "Quixote, born 1957-03-09"}],
}


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> FhirClient:
    """Return a client whose server is a function."""
    return FhirClient(BASE, 5, transport=httpx.MockTransport(handler))


def always(status: int, body: Any = OUTCOME, **headers: str) -> FhirClient:
    """Return a client whose server always answers the same."""
    return answering(lambda _: httpx.Response(status, json=body, headers=headers))


def searchset(*resources: dict[str, Any], following: str | None = None) -> dict[str, Any]:
    """Return a page of a search."""
    links = [{"relation": "next", "url": following}] if following else []
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": r} for r in resources],
        "link": links,
    }


@pytest.mark.parametrize("status", [408, 409, 412, 425, 429, 500, 502, 503, 504])
def test_failure_that_may_pass_is_a_retry(status: int) -> None:
    """A concurrent writer, too many requests and the server's own faults are tried again."""
    with always(status) as client, pytest.raises(Retry, match=f"status {status} \\(processing\\)"):
        client.search("Patient", {"_id": "1"})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422])
def test_refusal_is_a_dead_letter(status: int) -> None:
    """What the server refuses as it is, is not sent again by itself."""
    with always(status) as client, pytest.raises(DeadLetter, match=f"fhir-.*status {status}"):
        client.search("Patient", {"_id": "1"})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(409), "fhir-conflict"),
        (httpx.Response(412), "fhir-precondition"),
        (httpx.Response(429), "fhir-busy"),
        (httpx.Response(503, content=b"<html>busy</html>"), "fhir-busy"),
        (httpx.Response(500, content=b'{"resourceType": "Operat'), "fhir-failed"),
        (httpx.Response(502, content=b"<html>bad gateway</html>"), "fhir-failed"),
        (httpx.Response(200, content=b'{"resourceType": "Bundle", "ent'), "fhir-malformed"),
        (httpx.Response(200, content=b"<html>log in</html>"), "fhir-malformed"),
        (httpx.Response(401), "fhir-unauthorized"),
        (httpx.Response(403), "fhir-forbidden"),
        (httpx.Response(405), "fhir-not-supported"),
        (httpx.Response(422, content=b"\x00"), "fhir-refused"),
        (httpx.ReadError("reset"), "fhir-cut-off"),
        (httpx.RemoteProtocolError("half"), "fhir-cut-off"),
        (httpx.ConnectError("down"), "fhir-unavailable"),
        (httpx.ReadTimeout("slow"), "fhir-timeout"),
    ],
)
def test_each_way_to_fail_has_its_name(answer: httpx.Response | httpx.RequestError, reason: str) -> None:
    """What an operator reads, and what decides whether the server has to be asked what it did."""

    def handler(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, httpx.RequestError):
            raise answer
        return answer

    with answering(handler) as client, pytest.raises(AuscultError) as caught:
        client.transaction(transaction(result()))
    assert caught.value.reason == reason


def test_redirect_is_not_followed() -> None:
    """A redirect could lead the patient's identifier to another host."""
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": "http://elsewhere.example/Patient"})

    with answering(handler) as client, pytest.raises(DeadLetter, match="fhir-redirect"):
        client.search("Patient", {"_id": "1"})
    assert asked == ["fhir.example"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [("7", 7.0), ("0", 0.0), ("soon", None), ("-3", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_retry_after_is_passed_on(said: str, expected: float | None) -> None:
    """The server says when to come back, in seconds or as a date; nonsense is not believed."""
    with always(429, **{"Retry-After": said}) as client, pytest.raises(Retry) as caught:
        client.read("Patient", "p1")
    assert caught.value.after == expected
    assert caught.value.reason == "fhir-busy"


def test_retry_after_as_a_date_counts_from_now() -> None:
    """A date in half an hour is half an hour to wait."""
    at = format_datetime(datetime.now(UTC) + timedelta(minutes=30), usegmt=True)
    with always(503, **{"Retry-After": at}) as client, pytest.raises(Retry) as caught:
        client.read("Patient", "p1")
    assert caught.value.after == pytest.approx(1800, abs=60)


@given(st.text() | st.integers(min_value=0).map(str) | st.datetimes().map(format_datetime))
def test_retry_after_is_never_more_than_an_hour(said: str) -> None:
    """Whatever a server writes there, the wait is bounded."""
    wait = seconds(said)
    assert wait is None or 0 <= wait <= 3600


@pytest.mark.parametrize("body", [b"<html>proxy</html>", b"", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_answer_that_is_not_json_is_a_retry(body: bytes) -> None:
    """Mostly it is a proxy that speaks, so the FHIR server is asked again."""
    with (
        answering(lambda _: httpx.Response(200, content=body)) as client,
        pytest.raises(Retry, match="fhir-malformed"),
    ):
        client.read("Patient", "p1")


@pytest.mark.parametrize(
    "page",
    [
        OUTCOME,
        {"type": "searchset", "entry": {"resource": {}}},
        {"type": "searchset", "entry": ["Patient"]},
        {"type": "searchset", "link": [1]},
    ],
)
def test_search_answered_with_no_searchset_is_a_retry(page: dict[str, Any]) -> None:
    """An answer of another shape is not read as "nothing found"."""
    with always(200, page) as client, pytest.raises(Retry, match="fhir-malformed"):
        client.search("Patient", {"_id": "1"})


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("https://fhir.example/Patient?identifier=MRN-4711"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("Quixote"),
        httpx.ReadTimeout("MRN-4711"),
        httpx.PoolTimeout(""),
    ],
)
def test_broken_connection_is_a_retry_without_its_text(error: httpx.RequestError) -> None:
    """Whether the server acted is not known; the library's text may hold the URL, so it is not kept."""

    def fail(request: httpx.Request) -> httpx.Response:
        error.request = request
        raise error

    with answering(fail) as client, pytest.raises(Retry, match=r"fhir-(unavailable|timeout|cut-off)") as caught:
        client.search("Patient", {"identifier": "MRN-4711"})
    assert "MRN-4711" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_read_of_what_is_not_there_is_none() -> None:
    """Only 404 means that there is none."""
    with always(404) as client:
        assert client.read("Provenance", "x") is None


def test_deleted_resource_is_a_dead_letter() -> None:
    """410 says that somebody removed it on purpose."""
    with always(410) as client, pytest.raises(DeadLetter):
        client.read("Provenance", "x")


@pytest.mark.parametrize("identity", ["", "../Patient", "a?b=c", "x" * 65])
def test_what_is_no_id_does_not_become_part_of_a_url(identity: str) -> None:
    """An id is checked before it is asked for."""
    with always(200, {}) as client, pytest.raises(ValueError, match="id"):
        client.read("Patient", identity)


def test_answer_that_trickles_ends_with_the_deadline() -> None:
    """A server that sends a byte now and then does not hold the worker."""

    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            while True:
                time.sleep(0.005)
                yield b" "

    with (
        answering(lambda _: httpx.Response(200, stream=Trickle())) as client,
        pytest.raises(Retry, match="fhir-timeout"),
    ):
        client.read("Patient", "p1", Deadline.after(0.03))


def test_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(connection, "MOST_BYTES", 1000)
    with always(200, {"text": "x" * 2000}) as client, pytest.raises(DeadLetter, match="fhir-too-large"):
        client.read("Patient", "p1")


def test_time_that_is_left_bounds_the_request() -> None:
    """The shorter of the timeout and what the deadline leaves is what a request gets."""
    seen: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={})

    with answering(handler) as client:
        client.read("Patient", "p1", Deadline.after(2))
        client.read("Patient", "p1", Deadline.after(60))
    assert 0 < seen[0] <= 2
    assert 2 < seen[1] <= 5


def test_pages_are_followed_on_the_same_server_alone() -> None:
    """All pages are read; a next link to another host is refused, and that host is not asked."""
    asked: list[httpx.URL] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        page = {"": "?page=2", "2": f"{BASE}?page=3", "3": "http://elsewhere.example/base?page=4"}
        number = request.url.params.get("page", "")
        return httpx.Response(
            200, json=searchset({"resourceType": "Patient", "id": number or "1"}, following=page[number])
        )

    with answering(handler) as client, pytest.raises(DeadLetter, match="fhir-foreign-link"):
        client.search("Patient", {"_id": "1"})
    assert [url.host for url in asked] == ["fhir.example"] * 3


@pytest.mark.parametrize(
    "link",
    [
        "https://fhir.example/base?p=2",
        "http://fhir.example:8080/base",
        "//elsewhere/base",
        "ftp://fhir.example/base",
        "http://fhir.example@elsewhere/",
        "http://[broken",
    ],
)
def test_link_that_leaves_the_server_is_refused(link: str) -> None:
    """Scheme, host and port must be the configured ones."""
    with always(200, searchset(following=link)) as client, pytest.raises(DeadLetter, match="fhir-foreign-link"):
        client.search("Patient", {"_id": "1"})


def test_search_without_end_is_a_dead_letter() -> None:
    """A server whose pages go round in circles is left."""
    with always(200, searchset(following=f"{BASE}?page=1")) as client, pytest.raises(DeadLetter, match="endless"):
        client.search("Patient", {"_id": "1"})


def test_what_the_server_adds_to_a_search_is_not_a_match() -> None:
    """Outcomes and included resources do not count."""
    page = searchset({"resourceType": "Patient", "id": "1"}, OUTCOME, {"resourceType": "Patient", "id": "2"})
    page["entry"][2]["search"] = {"mode": "include"}
    with always(200, page) as client:
        assert [resource["id"] for resource in client.search("Patient", {"_id": "1"})] == ["1"]


@pytest.mark.parametrize(
    "answer",
    [
        OUTCOME,
        {"type": "transaction-response", "entry": []},
        {"type": "transaction-response", "entry": [{"response": {"status": "201"}}] * 2 + [{}]},
    ],
)
def test_transaction_that_is_not_confirmed_is_a_retry(answer: dict[str, Any]) -> None:
    """Only an answer for each entry says that all was written."""
    with always(200, answer) as client, pytest.raises(Retry):
        client.transaction(transaction(result()))


def test_batch_tells_unsupported_searches_from_failed_ones() -> None:
    """A search that the server does not know is None; one that it refuses or fails is an error."""
    answers = [
        {"resource": searchset({"resourceType": "Condition", "id": "1"}), "response": {"status": "200 OK"}},
        {"response": {"status": "404 Not Found"}},
        {"response": {"status": "400", "outcome": {**OUTCOME, "issue": [{"code": "not-supported"}]}}},
    ]
    searches = [("Condition", {"patient": "1"})] * 3
    with always(200, {"type": "batch-response", "entry": answers}) as client:
        assert client.batch(searches) == [[{"resourceType": "Condition", "id": "1"}], None, None]
    for status, kind in (("403", DeadLetter), ("500", Retry), ("", Retry)):
        answers[1] = {"response": {"status": status}}
        with always(200, {"type": "batch-response", "entry": answers}) as client, pytest.raises(kind):
            client.batch(searches)
    with always(200, {"type": "batch-response", "entry": []}) as client, pytest.raises(Retry, match="fhir-malformed"):
        client.batch(searches)


@pytest.mark.parametrize(
    "base", ["", "fhir.example/base", "ftp://fhir.example", "http://", "http://fhir.example?x=1"]
)
def test_base_that_is_no_address_refuses_to_start(base: str) -> None:
    """A configuration that cannot work is found before a patient is asked for."""
    with pytest.raises(RefuseToStart, match="AUSCULT_FHIR_BASE"):
        FhirClient(base, 5)


def test_bar_is_sent_encoded() -> None:
    """HAPI refuses a URL with a bare `|`."""
    sent: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.raw_path)
        return httpx.Response(200, json=searchset())

    with answering(handler) as client:
        client.search("Patient", {"identifier": token("urn:oid:1.2", "A|B,C")})
    assert sent == [b"/base/Patient?identifier=urn%3Aoid%3A1.2%7CA%5C%7CB%5C%2CC"]


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_value_becomes_a_second_choice(value: str, other: str) -> None:
    """A PatientID with a comma asks for itself, not for two patients."""
    asked = token("urn:x", f"{value},{other}").removeprefix("urn:x|")
    unescaped = []
    characters = iter(asked)
    for character in characters:
        if character == "\\":
            unescaped.append(next(characters))
        else:
            assert character not in ",|$"
            unescaped.append(character)
    assert "".join(unescaped) == f"{value},{other}"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return where the spans of this test end up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry.trace, "get_tracer", provider.get_tracer)
    return exporter


def test_trace_goes_on_in_the_fhir_server(spans: InMemorySpanExporter) -> None:
    """Each request is a client span whose traceparent is sent."""
    sent: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["traceparent"])
        return httpx.Response(200, json={})

    with answering(handler) as client:
        client.read("Patient", "p1")
    (span,) = spans.get_finished_spans()
    assert span.name == "FHIR GET Patient"
    assert span.kind.name == "CLIENT"
    assert span.attributes == {"http.request.method": "GET", "http.response.status_code": 200}
    assert span.context is not None
    assert sent[0].startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")


def test_no_error_log_or_span_names_the_patient(
    client: FhirClient, record: httpx.Client, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """Identifiers, names, birth dates and study UIDs are in no text that leaves the worker."""
    caplog.set_level(logging.DEBUG, logger="auscult")
    said: list[str] = []

    def collect(action: Callable[[], object]) -> None:
        try:
            action()
        except AuscultError as error:
            said.append(str(error))

    put(record, patient(birthDate="1950-01-01"))
    collect(lambda: resolve(client, IDENTITY, SYSTEMS))
    put(record, patient(), patient("p2"))
    collect(lambda: resolve(client, IDENTITY, SYSTEMS))
    collect(lambda: client.transaction(transaction(result(finding("nodule-1"), patient="Patient/MRN-4711"))))
    with always(400) as refusing:
        collect(lambda: resolve(refusing, IDENTITY, SYSTEMS))
    assert len(said) == 4
    said += [span.to_json() for span in spans.get_finished_spans()]
    said += [log.getMessage() for log in caplog.records if log.name.startswith("auscult")]
    everything = json.dumps(said)
    for secret in ("MRN-4711", "Quixote", "1957", "1950", STUDY_UID, ISSUER_SYSTEM):
        assert secret not in everything

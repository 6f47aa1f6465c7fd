"""What an EHR prefetched is used as it is; what it did not is read from its registered server, and no other."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auscult.cds_hooks.elements import CardJson, Source
from auscult.cds_hooks.hooks import HOOKS
from auscult.cds_hooks.prefetch import resolve
from auscult.cds_hooks.services import Answer, Call, Service
from auscult.cds_hooks.store import CardStore
from auscult.cds_hooks.stored import stored
from auscult.cds_hooks.trust.gate import Caller
from auscult.pathways.services import Tools, offered
from ehr import PATIENT, Ehr, FhirServer, bundle, request

SEARCH = "Condition?patient=42"
TOKEN = {
    "access_token": "t0k",
    "token_type": "Bearer",
    "expires_in": 300,
    "scope": "patient/*.read",
    "subject": "auscult",
}


SHIPPED = (stored(CardStore("https://a")), *offered(Tools(CardStore("https://a"), cast("Any", None), "https://a")))


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    """Return a FHIR server that has the patient."""
    with FhirServer() as server:
        server.answers["Patient/42"] = PATIENT
        yield server


def counting(required: bool = True) -> Service:
    """Return a service that tells how many conditions there are."""

    async def answer(call: Call) -> Answer:
        found = await call.prefetch.resources("conditions", call.deadline)
        return Answer((msgspec.json.encode(CardJson(f"{len(found)} conditions", "info", Source("Count"))),))

    return Service(
        "count",
        ("patient-view",),
        "Count",
        "Counts",
        answer,
        prefetch={"conditions": "Condition?patient={{context.patientId}}"},
        required=frozenset({"conditions"}) if required else frozenset(),
        # That no busy machine exceeds: these tests are about what is read.
        budget=60,
    )


@pytest.fixture
def ehr(fhir: FhirServer) -> Ehr:
    """Return an EHR whose FHIR server is registered."""
    return Ehr(CardStore("https://a"), counting(), caller=Caller("north", "default", (fhir.base,)))


def said(answer: Any) -> str:
    """Return the one card's summary."""
    [card] = answer.json()["cards"]
    return str(card["summary"])


CONDITION = {"resourceType": "Condition", "id": "1"}
OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "processing"}]}


@pytest.mark.parametrize(
    ("prefetched", "count"),
    [
        (None, 0),
        (bundle(), 0),
        ({"resourceType": "Bundle", "type": "searchset", "total": 0}, 0),
        (bundle(OUTCOME), 0),
        (bundle(CONDITION, CONDITION), 2),
        ([CONDITION, CONDITION], 2),
        (CONDITION, 1),
    ],
)
def test_what_was_prefetched_is_not_read_again(ehr: Ehr, fhir: FhirServer, prefetched: Any, count: int) -> None:
    """Null, an empty Bundle, Epic's Bundle with an outcome alone, a Bundle, a list and a single resource."""
    call = request(prefetch={"conditions": prefetched}, fhirServer=fhir.base, fhirAuthorization=TOKEN)
    assert said(ehr.ask("count", call)[0]) == f"{count} conditions"
    assert fhir.asked == []


def test_what_is_absent_is_read_with_the_token_that_came_with_the_call(ehr: Ehr, fhir: FhirServer) -> None:
    """The template is filled, and asked at the registered server."""
    fhir.answers[SEARCH] = bundle(CONDITION)
    call = request(fhirServer=fhir.base + "/", fhirAuthorization=TOKEN)
    assert said(ehr.ask("count", call)[0]) == "1 conditions"
    assert fhir.asked == [(f"/r4/{SEARCH}", "Bearer t0k")]


@pytest.mark.parametrize("given", [bundle(CONDITION), (500, {}, b"t0k"), (302, {"location": "/?t0k"}, b"")])
def test_the_access_token_is_in_no_log_and_no_answer(
    ehr: Ehr, fhir: FhirServer, caplog: pytest.LogCaptureFixture, given: Any
) -> None:
    """At any level and whatever becomes of the call: it goes to the registered server, and nowhere else."""
    caplog.set_level(logging.DEBUG)
    fhir.answers[SEARCH] = given
    [answer] = ehr.ask("count", request(fhirServer=fhir.base, fhirAuthorization=TOKEN))
    assert [token for _, token in fhir.asked] == ["Bearer t0k"]
    assert "t0k" not in answer.text
    assert "t0k" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("auscult"))


@pytest.mark.parametrize("service", [counting(), *SHIPPED], ids=lambda service: service.id)
def test_templates_keep_to_the_recommended_subset(service: Service) -> None:
    """Reads and searches of a type by reference, token or date; tokens are root fields of each hook's context."""
    for template in service.prefetch.values():
        path, _, query = template.partition("?")
        assert re.fullmatch(r"[A-Z][A-Za-z]+(/\{\{context\.patientId\}\})?", path)
        assert all(
            re.fullmatch(r"(patient|code|status|_count|_sort)=[^&:]*(:[^&]*)?", each)
            for each in query.split("&")
            if each
        )
        assert set(re.findall(r"\{\{(.*?)\}\}", template)) <= {"context.patientId"}
    assert all("patientId" in HOOKS[hook].texts for hook in service.hooks)


def test_all_pages_are_read(ehr: Ehr, fhir: FhirServer) -> None:
    """A prefetched page and the pages after it count together."""
    link = [{"relation": "self", "url": f"{fhir.base}/x"}, {"relation": "next", "url": f"{fhir.base}?page=2"}]
    fhir.answers["/r4?page=2"] = bundle(CONDITION, link=[{"relation": "next", "url": "Condition?page=3"}])
    fhir.answers["Condition?page=3"] = bundle(CONDITION)
    call = request(
        prefetch={"conditions": bundle(CONDITION, link=link)}, fhirServer=fhir.base, fhirAuthorization=TOKEN
    )
    assert said(ehr.ask("count", call)[0]) == "3 conditions"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://localhost:1/r4/Condition?page=2",
        "{base}.evil.example/Condition",
        "{base}/../admin",
        "{base}/%2e%2e/admin",
        "{root}/other/Condition",
        "file:///etc/passwd",
        "//evil.example/r4",
        "http://user@{host}/r4/Condition",
    ],
)
def test_a_page_elsewhere_is_not_read(ehr: Ehr, fhir: FhirServer, url: str) -> None:
    """No connection goes to another place than the registered base, and the answer says that data is missing."""
    root = fhir.base.removesuffix("/r4")
    link = url.format(base=fhir.base, root=root, host=root.removeprefix("http://"))
    paged = bundle(CONDITION, link=[{"relation": "next", "url": link}])
    [answer] = ehr.ask(
        "count", request(prefetch={"conditions": paged}, fhirServer=fhir.base, fhirAuthorization=TOKEN)
    )
    assert answer.status_code == 412
    assert all(path.startswith("/r4/") and ".." not in path for path, _ in fhir.asked)


@pytest.mark.parametrize(
    "given",
    [
        (500, {}, b""),
        (401, {}, b""),
        (404, {}, b""),
        (302, {"location": "http://169.254.169.254/"}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[" * 100_000),
        (200, {}, json.dumps(OUTCOME).encode()),
        (200, {}, b'{"x":1}'),
        (200, {}, b" " * (4 * 2**20 + 1)),
    ],
)
def test_required_data_that_cannot_be_had_is_a_failed_precondition(ehr: Ehr, fhir: FhirServer, given: Any) -> None:
    """412 with an OperationOutcome that names the prefetch key, whatever the server does instead of answering."""
    fhir.answers[SEARCH] = given
    [answer] = ehr.ask("count", request(fhirServer=fhir.base, fhirAuthorization=TOKEN))
    assert answer.status_code == 412
    [issue] = answer.json()["issue"]
    assert "`conditions`" in issue["diagnostics"]
    assert len(fhir.asked) == 1


def test_without_a_server_the_precondition_fails_and_is_not_tried(ehr: Ehr, fhir: FhirServer) -> None:
    """Neither prefetch nor fhirServer: 412. So does a key that the EHR could not read: it is not asked again."""
    failed = request(prefetch={"conditions": OUTCOME}, fhirServer=fhir.base, fhirAuthorization=TOKEN)
    assert [answer.status_code for answer in ehr.ask("count", request(), failed)] == [412, 412]
    assert fhir.asked == []


def test_data_that_is_not_required_leaves_a_card_that_says_what_is_missing(fhir: FhirServer) -> None:
    """It is 200, and the card names the key."""
    ehr = Ehr(CardStore("https://a"), counting(required=False), caller=Caller("north", "default", (fhir.base,)))
    [answer] = ehr.ask("count", request())
    assert answer.status_code == 200
    assert "conditions" in answer.json()["cards"][0]["detail"]


CONTEXT = {"patientId": "Patient/42", "userId": "PractitionerRole/r1", "encounterId": "e 1", "odd": "..", "n": 7}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("Patient/{{context.patientId}}", "Patient/42"),
        ("{{context.userId}}", "PractitionerRole/r1"),
        ("PractitionerRole?_id={{userPractitionerRoleId}}", "PractitionerRole?_id=r1"),
        ("Practitioner/{{userPractitionerId}}", None),
        ("Encounter/{{ context.encounterId }}", "Encounter/e%201"),
        ("X?n={{context.n}}", "X?n=7"),
        ("Patient/{{context.odd}}", None),
        ("Patient/{{context.missing}}", None),
        ("Patient/{{context.patientId.id}}", None),
        ("Patient/{{patientId}}", None),
    ],
)
def test_templates_are_filled_from_context_and_user(template: str, filled: str | None) -> None:
    """Root fields of the context and the four user tokens; what has no value makes no query."""
    assert resolve(template, CONTEXT) == filled


def test_today_is_a_date() -> None:
    """`today()` is a FHIR date."""
    assert len(resolve("Observation?date=ge{{today()}}", {}) or "") == len("Observation?date=ge2026-01-31")


@given(st.text(max_size=40))
def test_no_value_leaves_its_place_in_the_query(value: str) -> None:
    """Whatever a context holds, it adds neither a parameter, a fragment nor a path."""
    filled = resolve("Patient/{{context.x}}?a=1", {"x": value})
    if filled is not None:
        middle = filled.removeprefix("Patient/").removesuffix("?a=1")
        assert not set(middle) & set("?#&\\ ")
        assert middle.strip("/") not in {"", ".", ".."}

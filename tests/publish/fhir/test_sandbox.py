"""The sandbox keeps the rules of FHIR that the product relies on."""

from __future__ import annotations

from typing import Any

import httpx

from fhir_samples import ISSUER_SYSTEM, patient, put


def bundle(kind: str, *entries: tuple[str, str, dict[str, Any]], **request: str) -> dict[str, Any]:
    """Return a Bundle of (method, url, resource)."""
    return {
        "resourceType": "Bundle",
        "type": kind,
        "entry": [
            {"resource": resource, "request": {"method": method, "url": url, **request}}
            for method, url, resource in entries
        ],
    }


def outcome(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the issue code of a refusal."""
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    return answer.status_code, body["issue"][0]["code"]


def test_put_creates_updates_and_keeps_what_is_unchanged(record: httpx.Client) -> None:
    """A version is a change."""
    statuses = [record.put("/Patient/p1", json=patient(**changes)) for changes in ({}, {}, {"active": True})]
    assert [(answer.status_code, answer.json()["meta"]["versionId"]) for answer in statuses] == [
        (201, "1"),
        (200, "1"),
        (200, "2"),
    ]
    assert record.get("/Patient/p1").json()["active"] is True


def test_search_finds_by_token_and_reference(record: httpx.Client) -> None:
    """Identifier, id, code, category, patient and subject."""
    observation = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "72166-2"}]},
        "category": [{"coding": [{"system": "urn:c", "code": "imaging"}]}],
        "subject": {"reference": "Patient/p1"},
    }
    put(record, patient(), observation)
    for query, total in {
        "Patient?identifier=MRN-4711": 1,
        f"Patient?identifier={ISSUER_SYSTEM}%7CMRN-4711": 1,
        "Patient?identifier=urn:x%7CMRN-4711": 0,
        "Patient?identifier=%7CMRN-4711": 0,
        "Patient?_id=p1,p2": 1,
        "Observation?patient=p1&code=http://loinc.org%7C72166-2": 1,
        "Observation?subject=Patient/p1&category=imaging": 1,
        "Observation?patient=p2": 0,
    }.items():
        assert record.get(f"/{query}").json()["total"] == total, query


def test_pages_are_linked(record: httpx.Client) -> None:
    """The last page has no next."""
    put(record, *(patient(f"p{number}") for number in range(5)))
    seen, url = [], "/Patient?identifier=MRN-4711&_count=2"
    while url:
        page = record.get(url).json()
        seen += [entry["resource"]["id"] for entry in page["entry"]]
        url = next((link["url"] for link in page.get("link", []) if link["relation"] == "next"), "")
    assert seen == ["p0", "p1", "p2", "p3", "p4"]


def test_refusals_are_operation_outcomes(record: httpx.Client) -> None:
    """What is missing, invalid or not known is refused as FHIR says."""
    assert outcome(record.get("/Patient/none")) == (404, "not-found")
    assert outcome(record.get("/Nonsense")) == (404, "not-supported")
    assert outcome(record.get("/Patient?name=x")) == (400, "not-supported")
    assert outcome(record.put("/Patient/p1", content=b"{")) == (400, "structure")
    assert outcome(record.put("/Patient/p1", json=[])) == (400, "structure")
    assert outcome(record.put("/Patient/p2", json=patient())) == (400, "invalid")
    assert outcome(record.put("/Observation/p1", json=patient())) == (400, "invalid")
    assert outcome(record.put("/Patient/p1", json=patient(gender=7))) == (422, "structure")
    assert outcome(record.post("", json=bundle("document"))) == (400, "not-supported")


def test_transaction_is_written_whole_or_not_at_all(record: httpx.Client) -> None:
    """One entry that is refused undoes the others; a reference must lead somewhere."""
    good = ("PUT", "Patient/p1", patient())
    wrong = ("PUT", "Patient/p2", patient("p3"))
    dangling = {**patient("p2"), "link": [{"type": "seealso", "other": {"reference": "Patient/p9"}}]}
    for second in (wrong, ("PUT", "Patient/p2", dangling), ("DELETE", "Patient/p2", patient("p2"))):
        assert record.post("", json=bundle("transaction", good, second)).status_code == 400
        assert record.get("/Patient").json()["total"] == 0
    answer = record.post("", json=bundle("transaction", good)).json()
    assert answer["type"] == "transaction-response"
    assert answer["entry"][0]["response"]["location"] == "Patient/p1/_history/1"


def test_batch_answers_each_entry_for_itself(record: httpx.Client) -> None:
    """One entry that is refused leaves the others."""
    put(record, patient())
    answer = record.post(
        "",
        json=bundle("batch", ("GET", "Patient/none", {}), ("GET", "Patient?_id=p1", {}), ("GET", "Patient/p1", {})),
    ).json()
    assert [entry["response"]["status"][:3] for entry in answer["entry"]] == ["404", "200", "200"]
    assert answer["entry"][1]["resource"]["total"] == 1


def test_conditional_create_creates_once(record: httpx.Client) -> None:
    """If-None-Exist finds what is there, and refuses where several are."""
    new = {key: value for key, value in patient().items() if key != "id"}
    condition = {"If-None-Exist": "identifier=MRN-4711"}
    statuses = [record.post("/Patient", json=new, headers=condition).status_code for _ in range(2)]
    assert statuses == [201, 200]
    entry = bundle("transaction", ("POST", "Patient", new), ifNoneExist="identifier=MRN-4711")
    assert record.post("", json=entry).json()["entry"][0]["response"]["status"] == "200"
    assert record.post("/Patient", json=new).status_code == 201
    assert outcome(record.post("/Patient", json=new, headers=condition)) == (412, "multiple-matches")


def test_metadata_says_that_it_is_a_sandbox(record: httpx.Client) -> None:
    """Nobody takes it for a server that keeps data."""
    statement = record.get("/metadata").json()
    assert statement["fhirVersion"] == "4.0.1"
    assert "not for data" in statement["implementation"]["description"]

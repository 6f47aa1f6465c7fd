"""Results are written once, whatever happens on the way."""

from __future__ import annotations

import base64
import json
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

import balp
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.platform.errors import DeadLetter, Quarantine, Retry
from auscult.publish.fhir.audit import Denial
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.consents import Refusal
from auscult.publish.fhir.resources import transaction
from auscult.publish.fhir.sink import Extra, FhirSink, Ids
from fhir_samples import BROCK, STUDY_UID, finding, patient, put, result

TYPES = ("Device", "Observation", "RiskAssessment", "DiagnosticReport", "ImagingStudy", "AuditEvent", "Provenance")
NEWER = replace(result().study, digest="cd" * 32)


class LosesReplies(httpx.BaseTransport):
    """Sends each request, and loses the answers to the first transactions: the server wrote, nobody can know."""

    def __init__(self, losses: int, *, also_reads: bool = False) -> None:
        self._inner = httpx.HTTPTransport()
        self._losses = losses
        self._also_reads = also_reads
        self._lost = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass the request on."""
        if self._lost and self._also_reads:
            raise httpx.ConnectError("down")
        response = self._inner.handle_request(request)
        if request.method == "POST" and b'"transaction"' in request.read() and self._losses:
            self._losses -= 1
            self._lost = True
            response.close()
            raise httpx.ReadError("connection reset")
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def held(record: httpx.Client) -> dict[str, str]:
    """Return the version of everything on the server but patients."""
    found = {}
    for resource_type in TYPES:
        for entry in record.get(f"/{resource_type}?_count=1000").json()["entry"]:
            found[f"{resource_type}/{entry['resource']['id']}"] = entry["resource"]["meta"]["versionId"]
    return found


def write(client: FhirClient, of: Result, *extras: Extra, ids: Ids = "client") -> bool:
    """Write a result in time."""
    return FhirSink(client, extras, ids).write(of, Deadline.after(5))


def all_of(record: httpx.Client, resource_type: str) -> list[dict[str, Any]]:
    """Return all resources of a type."""
    return [entry["resource"] for entry in record.get(f"/{resource_type}?_count=1000").json()["entry"]]


def statuses(record: httpx.Client, resource_type: str) -> list[str]:
    """Return the statuses of all resources of a type, sorted."""
    return sorted(resource["status"] for resource in all_of(record, resource_type))


def provenance(record: httpx.Client) -> dict[str, Any]:
    """Return the one Provenance on the server."""
    (entry,) = record.get("/Provenance").json()["entry"]
    resource: dict[str, Any] = entry["resource"]
    return resource


def test_result_sent_again_changes_nothing(client: FhirClient, record: httpx.Client) -> None:
    """The second and third write leave every version as it was, the Provenance's time included."""
    put(record, patient())
    of = result(finding("nodule-1"), finding("nodule-2"), finding("nodule-3"))
    assert write(client, of)
    first = held(record)
    assert len(first) == 5 + 3 * 6 + 1 + 1 + 1
    assert not write(client, of)
    assert not write(client, replace(of, recorded="2026-03-02T10:00:00Z"))
    assert held(record) == first
    assert set(first.values()) == {"1"}


@pytest.mark.parametrize("ids", ["client", "server"])
def test_lost_reply_is_looked_for_and_leaves_one_set(base: str, record: httpx.Client, ids: Ids) -> None:
    """Where the answer to a write is lost the server is asked, and says that it wrote."""
    put(record, patient())
    of = result(finding("nodule-1"))
    with FhirClient(base, 5, transport=LosesReplies(1)) as client:
        assert write(client, of, ids=ids)
        written = held(record)
        assert not write(client, of, ids=ids)
    assert held(record) == written
    assert set(written.values()) == {"1"}


@pytest.mark.parametrize("ids", ["client", "server"])
def test_server_that_writes_and_goes_away_is_a_retry(
    base: str, client: FhirClient, record: httpx.Client, ids: Ids
) -> None:
    """Where nobody can be asked it stays unknown; the next try finds that it was written."""
    put(record, patient())
    of = result(finding("nodule-1"))
    with (
        FhirClient(base, 5, transport=LosesReplies(1, also_reads=True)) as losing,
        pytest.raises(Retry, match="fhir-cut-off"),
    ):
        write(losing, of, ids=ids)
    written = held(record)
    assert not write(client, of, ids=ids)
    assert held(record) == written


def test_transaction_sent_twice_leaves_every_version(client: FhirClient, record: httpx.Client) -> None:
    """Two workers that both find nothing and both write leave one set, unchanged by the second."""
    put(record, patient())
    bundle = transaction(result(finding("nodule-1")))
    client.transaction(bundle)
    client.transaction(bundle)
    assert set(held(record).values()) == {"1"}


def test_complete_result_takes_the_place_of_a_degraded_one(client: FhirClient, record: httpx.Client) -> None:
    """What was preliminary becomes final under the same ids."""
    put(record, patient())
    assert write(client, result(finding("nodule-1", risks=()), status="degraded", reasons=("too late",)))
    before = held(record)
    assert write(client, result(finding("nodule-1")))
    after = held(record)
    assert before.keys() <= after.keys()
    assert set(statuses(record, "Observation")) == {"final"}
    assert statuses(record, "DiagnosticReport") == ["final"]
    assert len(provenance(record)["target"]) == 8


def test_degraded_result_never_takes_the_place_of_a_complete_one(client: FhirClient, record: httpx.Client) -> None:
    """A run that is repeated after its deadline does not spoil what the first one wrote."""
    put(record, patient())
    assert write(client, result(finding("nodule-1")))
    before = held(record)
    assert not write(client, result(status="degraded", reasons=("too late",)))
    assert held(record) == before


def test_degraded_result_with_more_is_written_over_one_with_less(client: FhirClient, record: httpx.Client) -> None:
    """Of two incomplete runs the one that says more stays."""
    put(record, patient())
    assert write(client, result(status="degraded", reasons=("too late",)))
    assert write(client, result(finding("nodule-1"), status="degraded", reasons=("no risk",)))
    assert not write(client, result(status="degraded", reasons=("too late",)))


@pytest.mark.parametrize("ids", ["client", "server"])
def test_newer_version_of_a_study_withdraws_the_older_result(
    client: FhirClient, record: httpx.Client, ids: Ids
) -> None:
    """The record shows one result: all statements of the older stay, withdrawn, and a Provenance says why."""
    put(record, patient())
    assert write(client, result(finding("nodule-1"), finding("nodule-2")), ids=ids)
    older = {resource["id"]: resource for kind in TYPES[1:4] for resource in all_of(record, kind)}
    assert write(client, result(finding("nodule-1"), study=NEWER), ids=ids)
    for kind in TYPES[1:4]:
        for resource in all_of(record, kind):
            before = older.get(resource["id"])
            if before is None:
                assert resource["status"] == ("amended" if kind == "DiagnosticReport" else "final")
                continue
            changed = {key for key in before.keys() | resource.keys() if before.get(key) != resource.get(key)}
            assert (resource["status"], changed) == ("entered-in-error", {"status", "meta"})
    why = [said for said in all_of(record, "Provenance") if "reason" in said]
    assert len(why) == 1
    assert {target["reference"].split("/")[1] for target in why[0]["target"]} == set(older)
    assert "Superseded" in why[0]["reason"][0]["text"]


@pytest.mark.parametrize("ids", ["client", "server"])
def test_result_that_is_taken_back_to_holds_again(client: FhirClient, record: httpx.Client, ids: Ids) -> None:
    """After a roll-back of the pathway's version the first result is written again, and the second withdrawn."""
    put(record, patient())
    first, second = (result(finding("nodule-1"), version=version) for version in ("1", "2"))
    for of in (first, second, first):
        assert write(client, of, ids=ids)
    assert statuses(record, "DiagnosticReport") == ["amended", "entered-in-error"]
    assert not write(client, first, ids=ids)
    # What the same models said has one identity in both versions; finding and assessment are the pathway's.
    assert statuses(record, "Observation") == ["entered-in-error"] * 2 + ["final"] * 6


@pytest.mark.parametrize("ids", ["client", "server"])
def test_new_version_of_a_model_withdraws_what_the_older_said(
    client: FhirClient, record: httpx.Client, ids: Ids
) -> None:
    """Another model version is another statement, also where the rest of the result is the same."""
    put(record, patient())
    assert write(client, result(finding("nodule-1")), ids=ids)
    newer = replace(finding("nodule-1").risks[0], model=replace(BROCK, version="2"))
    assert write(client, result(finding("nodule-1", risks=(newer,))), ids=ids)
    assert statuses(record, "RiskAssessment") == ["entered-in-error", "final"]
    assert not write(client, result(finding("nodule-1", risks=(newer,))), ids=ids)
    assert write(client, result(finding("nodule-1")), ids=ids)
    assert {r["status"]: r["method"]["text"] for r in all_of(record, "RiskAssessment")} == {
        "entered-in-error": "brock_full 2",
        "final": "brock_full 1",
    }
    assert set(statuses(record, "Observation")) == {"final"}
    assert statuses(record, "DiagnosticReport") == ["final"]


def test_other_pathways_and_studies_are_left_alone(client: FhirClient, record: httpx.Client) -> None:
    """Only the same pathway on the same study has one result."""
    put(record, patient())
    assert write(client, result(finding("nodule-1")))
    assert write(client, result(finding("nodule-1"), pathway="other"))
    assert write(client, result(finding("nodule-1"), study=replace(NEWER, study_uid="1.2.3")))
    assert set(statuses(record, "DiagnosticReport")) == {"final"}


def test_proposal_that_was_taken_up_is_not_withdrawn(client: FhirClient, record: httpx.Client) -> None:
    """A draft that a clinician made an order is the clinician's; one that nobody took is withdrawn."""
    put(record, patient())
    assert write(client, result(finding("nodule-1"), finding("nodule-2")), "drafts", "tasks")
    taken = all_of(record, "ServiceRequest")[0]
    put(record, {**taken, "status": "active", "intent": "order"})
    begun = all_of(record, "Task")[0]
    put(record, {**begun, "status": "in-progress"})
    assert write(client, result(finding("nodule-1"), study=NEWER), "drafts", "tasks")
    assert statuses(record, "ServiceRequest") == ["active", "draft", "entered-in-error"]
    assert statuses(record, "Task") == ["entered-in-error", "in-progress", "requested"]


def test_change_by_somebody_else_in_between_is_a_retry(base: str, record: httpx.Client) -> None:
    """What is withdrawn is withdrawn as it was read: a note that was added since is not lost."""
    put(record, patient())
    seen: list[dict[str, Any]] = []

    class Interferes(LosesReplies):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if b'"transaction"' in request.read() and b"entered-in-error" in request.read() and not seen:
                seen.append(all_of(record, "Observation")[0])
                put(record, {**seen[0], "note": [{"text": "seen by Dr. Panza"}]})
            return super().handle_request(request)

    with FhirClient(base, 5, transport=Interferes(0)) as client:
        assert write(client, result(finding("nodule-1")))
        with pytest.raises(Retry, match="fhir-precondition"):
            write(client, result(finding("nodule-1"), study=NEWER))
        assert statuses(record, "DiagnosticReport") == ["final"]
        assert write(client, result(finding("nodule-1"), study=NEWER))
    (kept,) = (r for r in all_of(record, "Observation") if r["id"] == seen[0]["id"])
    assert (kept["status"], kept["note"][0]["text"]) == ("entered-in-error", "seen by Dr. Panza")


def test_study_of_the_record_is_used(client: FhirClient, record: httpx.Client) -> None:
    """Where the record has the ImagingStudy it is referred to; else one is written, once."""
    put(record, patient())
    assert write(client, result(finding("nodule-1"), modality="CT"), "imaging-study")
    assert write(client, result(finding("nodule-1"), modality="CT", pathway="other"), "imaging-study")
    (ours,) = all_of(record, "ImagingStudy")
    assert set(held(record).values()) == {"1"}
    theirs = {**ours, "id": "theirs", "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}]}
    put(record, theirs)
    of = result(finding("nodule-1"), study=replace(NEWER, study_uid="1.2.3"))
    assert write(client, of, "imaging-study")
    used = {report["imagingStudy"][0]["reference"] for report in all_of(record, "DiagnosticReport")}
    assert used == {f"ImagingStudy/{ours['id']}", "ImagingStudy/theirs"}


def test_study_of_another_patient_is_quarantined(client: FhirClient, record: httpx.Client) -> None:
    """Where the record says that the study is somebody else's, nothing is written; unless the two were merged."""
    put(record, patient(), patient("p2"))
    study = {
        "resourceType": "ImagingStudy",
        "id": "s",
        "status": "available",
        "subject": {"reference": "Patient/p2"},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY_UID}"}],
    }
    put(record, study)
    with pytest.raises(Quarantine, match="study-other-patient"):
        write(client, result(finding("nodule-1")))
    put(record, patient("p2", link=[{"other": {"reference": "Patient/p1"}, "type": "replaced-by"}]))
    assert write(client, result(finding("nodule-1")))


def test_each_write_is_audited_in_the_shape_of_balp(client: FhirClient, record: httpx.Client) -> None:
    """A create has one AuditEvent, a withdrawal another; a resend that writes nothing has none."""
    put(record, patient())
    assert write(client, result(finding("nodule-1")), "audit")
    assert not write(client, result(finding("nodule-1")), "audit")
    (created,) = all_of(record, "AuditEvent")
    assert list(balp.written(created, "create")) == []
    whom, what = created["entity"]
    assert whom["what"] == {"reference": "Patient/p1"}
    assert what["what"]["reference"] == f"DiagnosticReport/{all_of(record, 'DiagnosticReport')[0]['id']}"
    assert write(client, result(finding("nodule-1"), study=NEWER), "audit")
    events = sorted(all_of(record, "AuditEvent"), key=lambda event: event["action"])
    assert [event["action"] for event in events] == ["C", "C", "U"]
    assert list(balp.written(events[-1], "update")) == []


@pytest.mark.parametrize("ids", ["client", "server"])
def test_a_denial_is_audited_once(base: str, record: httpx.Client, ids: Ids) -> None:
    """Whoever chooses the ids: where no answer came the next try writes the same; a later decision is another."""
    put(record, patient(), {"resourceType": "Group", "id": "out", "type": "person", "actual": True})
    refusal = Refusal("opted-out", "the patient opted out", "Group/out")
    denial = Denial(result().study, "Patient/p1", refusal, "event-1", "2026-11-25T09:00:00.000Z")
    with FhirClient(base, 5, transport=LosesReplies(1)) as client:
        sink = FhirSink(client, ("audit",), ids)
        with pytest.raises(Retry, match="fhir-cut-off"):
            sink.record_denial(denial, ["TREAT"])
        sink.record_denial(denial, ["TREAT"])
        (event,) = all_of(record, "AuditEvent")
        assert event["meta"]["versionId"] == "1"
        assert list(balp.denied(event)) == []
        assert [entity["what"].get("reference") for entity in event["entity"]] == ["Patient/p1", "Group/out", None]
        sink.record_denial(replace(denial, decision="event-2"), ["TREAT"])
        FhirSink(client, (), ids).record_denial(replace(denial, decision="event-3"), ["TREAT"])
    assert len(all_of(record, "AuditEvent")) == 2


def test_report_has_a_pdf_without_what_shadow_models_said(client: FhirClient, record: httpx.Client) -> None:
    """The PDF says what the resources say, no more."""
    put(record, patient())
    shadow = replace(finding("nodule-1").risks[0], model=replace(BROCK, stage="shadow"))
    assert write(client, result(finding("nodule-1", risks=(shadow,))), "pdf")
    (form,) = all_of(record, "DiagnosticReport")[0]["presentedForm"]
    pdf = base64.b64decode(form["data"])
    assert len(pdf) == form["size"]
    text = b"".join(
        zlib.decompressobj().decompress(part) for part in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    )
    assert b"CT at 6-12 months." in text
    assert b"Probability" not in text


def test_writers_on_one_key_leave_one(client: FhirClient, record: httpx.Client) -> None:
    """Also where the server gives the ids, and conditions do not hold against each other: one thread writes."""
    put(record, patient())
    sink = FhirSink(client, (), "server")
    of = result(finding("nodule-1"))
    with ThreadPoolExecutor(8) as threads:
        new = list(threads.map(lambda _: sink.write(of, Deadline.after(30)), range(8)))
    assert sum(new) == 1
    assert set(held(record).values()) == {"1"}
    assert len(all_of(record, "Provenance")) == 1


def test_server_that_refuses_our_ids_gives_its_own() -> None:
    """One that does not say so beforehand, and answers the first PUTs with 405, is asked to create by identity."""
    asked: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(404)
        bundle = json.loads(request.content)
        if bundle["type"] == "batch":
            empty = {"resource": {"resourceType": "Bundle", "type": "searchset"}, "response": {"status": "200"}}
            return httpx.Response(200, json={"type": "batch-response", "entry": [empty] * len(bundle["entry"])})
        asked.append(bundle)
        if bundle["entry"][0]["request"]["method"] == "PUT":
            return httpx.Response(405)
        entries = [{"response": {"status": "201"}}] * len(bundle["entry"])
        return httpx.Response(200, json={"type": "transaction-response", "entry": entries})

    with FhirClient("http://x/fhir", 5, transport=httpx.MockTransport(handler)) as client:
        assert write(client, result(finding("nodule-1")), "audit", ids="auto")
    refused, taken = asked
    assert len(refused["entry"]) == len(taken["entry"])
    places = {entry["fullUrl"] for entry in taken["entry"]}
    for entry in taken["entry"]:
        assert "id" not in entry["resource"]
        assert entry["request"]["method"] == "POST"
        assert entry["fullUrl"].removeprefix("urn:uuid:") in entry["request"]["ifNoneExist"]
        for literal in re.findall(r'"reference": "([^"]*)"', json.dumps(entry["resource"])):
            assert literal in places | {"Patient/p1"}


def test_nothing_is_written_for_a_patient_who_is_not_there(client: FhirClient, record: httpx.Client) -> None:
    """A transaction is written whole or not at all."""
    with pytest.raises(DeadLetter, match="fhir-refused"):
        write(client, result(finding("nodule-1")))
    assert held(record) == {}


def test_expired_deadline_is_a_retry(client: FhirClient) -> None:
    """Without time left nothing is sent."""
    with pytest.raises(Retry, match="fhir-timeout"):
        FhirSink(client).write(result(), Deadline.after(-1))

"""Results are written once, whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from auscult.domain.deadline import Deadline
from auscult.domain.finding import Result
from auscult.platform.errors import DeadLetter, Retry
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.resources import transaction
from auscult.publish.fhir.sink import FhirSink
from fhir_samples import BROCK, finding, patient, put, result

TYPES = ("Device", "Observation", "RiskAssessment", "Provenance")


class LosesReplies(httpx.BaseTransport):
    """Sends each request, and loses the answers to the first POSTs: the server wrote, the client cannot know."""

    def __init__(self, losses: int) -> None:
        self._inner = httpx.HTTPTransport()
        self._losses = losses

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Pass the request on."""
        response = self._inner.handle_request(request)
        if request.method == "POST" and self._losses:
            self._losses -= 1
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


def write(client: FhirClient, of: Result) -> bool:
    """Write a result in time."""
    return FhirSink(client).write(of, Deadline.after(5))


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
    assert len(first) == 5 + 3 * 6 + 1 + 1
    assert not write(client, of)
    assert not write(client, replace(of, recorded="2026-03-02T10:00:00Z"))
    assert held(record) == first
    assert set(first.values()) == {"1"}


@pytest.mark.parametrize("losses", [1, 2])
def test_lost_reply_leaves_one_set(base: str, record: httpx.Client, losses: int) -> None:
    """A write whose answer is lost is a Retry; the next try finds that it was written."""
    put(record, patient())
    of = result(finding("nodule-1"))
    with FhirClient(base, 5, transport=LosesReplies(losses)) as client:
        with pytest.raises(Retry, match="fhir-unavailable"):
            write(client, of)
        written = held(record)
        assert not write(client, of)
    assert held(record) == written
    assert set(written.values()) == {"1"}


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
    statuses = {e["resource"]["status"] for e in record.get("/Observation?_count=1000").json()["entry"]}
    assert statuses == {"final"}
    assert len(provenance(record)["target"]) == 7


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


def test_new_version_of_a_model_is_written(client: FhirClient, record: httpx.Client) -> None:
    """Another model version is another result, also where the pathway is the same."""
    put(record, patient())
    assert write(client, result(finding("nodule-1")))
    newer = replace(finding("nodule-1").risks[0], model=replace(BROCK, version="2"))
    assert write(client, result(finding("nodule-1", risks=(newer,))))
    assert len(record.get("/RiskAssessment").json()["entry"]) == 2


def test_nothing_is_written_for_a_patient_who_is_not_there(client: FhirClient, record: httpx.Client) -> None:
    """A transaction is written whole or not at all."""
    with pytest.raises(DeadLetter, match="fhir-refused"):
        write(client, result(finding("nodule-1")))
    assert held(record) == {}


def test_expired_deadline_is_a_retry(client: FhirClient) -> None:
    """Without time left nothing is sent."""
    with pytest.raises(Retry, match="fhir-timeout"):
        FhirSink(client).write(result(), Deadline.after(-1))

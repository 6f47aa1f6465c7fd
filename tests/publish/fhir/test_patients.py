"""Never on the wrong patient."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import httpx
import pytest

from auscult.domain.study import Patient, PatientIdentity
from auscult.platform.errors import Quarantine, Retry
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.patients import resolve, survivor
from fhir_samples import IDENTITY, ISSUER_SYSTEM, SYSTEMS, patient, put


def replaced_by(reference: str) -> list[dict[str, Any]]:
    """Return the links of a patient that was merged."""
    return [{"type": "replaced-by", "other": {"reference": reference}}]


def refused(client: FhirClient, identity: PatientIdentity = IDENTITY) -> str:
    """Return why `identity` is put into quarantine."""
    with pytest.raises(Quarantine) as caught:
        resolve(client, identity, SYSTEMS)
    return caught.value.reason


def test_one_patient_with_the_identifier_is_found(client: FhirClient, record: httpx.Client) -> None:
    """Identifier, birth date and sex agree."""
    put(record, patient(), patient("p2", identifier=[{"system": ISSUER_SYSTEM, "value": "MRN-47"}]))
    assert resolve(client, IDENTITY, SYSTEMS) == Patient("Patient/p1", date(1957, 3, 9), "female")


@pytest.mark.parametrize(
    "identity",
    [
        replace(IDENTITY, birth_date=None),
        replace(IDENTITY, sex=""),
        PatientIdentity(" MRN-4711 ", "HOSPITAL ", None, ""),
    ],
)
def test_what_one_side_does_not_state_is_not_compared(
    client: FhirClient, record: httpx.Client, identity: PatientIdentity
) -> None:
    """Silence is no contradiction."""
    put(record, patient())
    assert resolve(client, identity, SYSTEMS).reference == "Patient/p1"


@pytest.mark.parametrize("stated", [{"birthDate": "1957"}, {"birthDate": "1957-03"}, {"gender": "unknown"}])
def test_record_may_state_less(client: FhirClient, record: httpx.Client, stated: dict[str, str]) -> None:
    """A birth year that agrees is enough; it is no birth date to compute an age from."""
    put(record, patient(**stated))
    found = resolve(client, IDENTITY, SYSTEMS)
    assert found.birth_date == (date(1957, 3, 9) if "gender" in stated else None)


def test_issuer_may_be_missing_where_the_site_says_so(client: FhirClient, record: httpx.Client) -> None:
    """The empty key of the setting serves objects without an issuer."""
    put(record, patient())
    assert resolve(client, replace(IDENTITY, issuer=""), {"": ISSUER_SYSTEM}).reference == "Patient/p1"
    assert refused(client, replace(IDENTITY, issuer="")) == "unknown-issuer"


def test_images_without_an_id_are_nobodys(client: FhirClient) -> None:
    """There is nothing to look for."""
    assert refused(client, replace(IDENTITY, patient_id=" ")) == "no-patient-id"


def test_patient_who_is_not_in_the_record_is_quarantined(client: FhirClient, record: httpx.Client) -> None:
    """The same number of another issuer is another patient."""
    put(record, patient(identifier=[{"system": "urn:oid:1.2.3", "value": "MRN-4711"}]))
    assert refused(client) == "unknown-patient"


def test_two_patients_with_one_identifier_are_quarantined(client: FhirClient, record: httpx.Client) -> None:
    """Nobody guesses which."""
    put(record, patient(), patient("p2"))
    assert refused(client) == "several-patients"


@pytest.mark.parametrize(
    "stated",
    [
        {"birthDate": "1957-03-08"},
        {"birthDate": "1958"},
        {"birthDate": "1957-04"},
        {"gender": "male"},
        {"gender": "other"},
    ],
)
def test_contradiction_is_quarantined(client: FhirClient, record: httpx.Client, stated: dict[str, str]) -> None:
    """Images and record differ: it is not certain that they are of one person."""
    put(record, patient(**stated))
    assert refused(client) == "patient-mismatch"


def test_inactive_patient_is_quarantined(client: FhirClient, record: httpx.Client) -> None:
    """A record that is out of use takes no results."""
    put(record, patient(active=False))
    assert refused(client) == "inactive-patient"


def test_merges_are_followed(client: FhirClient, record: httpx.Client) -> None:
    """The patient that replaces is the one, and is the one that is compared."""
    successor = patient("p2", identifier=[{"system": ISSUER_SYSTEM, "value": "MRN-1"}])
    put(record, successor, patient(active=False, birthDate="1900-01-01", link=replaced_by("Patient/p2")))
    assert resolve(client, IDENTITY, SYSTEMS).reference == "Patient/p2"
    put(record, {**successor, "birthDate": "1900-01-01"})
    assert refused(client) == "patient-mismatch"


def test_merged_patients_with_one_identifier_are_one(client: FhirClient, record: httpx.Client) -> None:
    """After a merge both may bear the identifier."""
    put(record, patient("p2"), patient(link=replaced_by("Patient/p2")))
    assert resolve(client, IDENTITY, SYSTEMS).reference == "Patient/p2"


def test_merge_into_somebody_else_is_not_one_patient(client: FhirClient, record: httpx.Client) -> None:
    """Two bear the identifier, and one was merged into a third."""
    put(record, patient("p3"), patient("p2"), patient(link=replaced_by("Patient/p3")))
    put(record, patient("p3", identifier=[]))
    assert refused(client) == "several-patients"


def test_merge_upon_merge_leads_to_the_last(client: FhirClient, record: httpx.Client) -> None:
    """The one that stands for all is the end of the chain."""
    put(record, patient("p3", identifier=[]))
    put(record, patient("p2", identifier=[], link=replaced_by("Patient/p3")))
    put(record, patient(link=replaced_by("Patient/p2")))
    assert resolve(client, IDENTITY, SYSTEMS).reference == "Patient/p3"
    assert survivor(client, "Patient/p1") == "Patient/p3"
    assert survivor(client, "Patient/nobody") == "Patient/nobody"


@pytest.mark.parametrize("reference", ["Patient/p2", "https://elsewhere.example/Patient/p2", ""])
def test_merge_that_leads_nowhere_is_quarantined(client: FhirClient, record: httpx.Client, reference: str) -> None:
    """In a circle, or into a patient that another server has."""
    put(record, patient())
    put(record, patient("p2", identifier=[], link=replaced_by("Patient/p1")))
    other = {"reference": reference} if reference else {"display": "unknown"}
    put(record, patient(link=[{"type": "replaced-by", "other": other}]))
    assert refused(client) == "patient-merged"


def test_server_that_ignores_the_parameter_finds_nobody() -> None:
    """Some servers answer with every patient where they do not know a parameter."""
    page = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": patient("p9", identifier=[])}]}
    with FhirClient("http://x", 5, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=page))) as client:
        assert refused(client) == "unknown-patient"


def test_id_with_separators_asks_for_itself(client: FhirClient, record: httpx.Client) -> None:
    """A comma in a PatientID would otherwise ask for either of two patients."""
    odd = [{"system": ISSUER_SYSTEM, "value": "A,B|C$D\\E"}]
    put(record, patient(identifier=odd), patient("p2", identifier=[{"system": ISSUER_SYSTEM, "value": "A"}]))
    assert resolve(client, replace(IDENTITY, patient_id="A,B|C$D\\E"), SYSTEMS).reference == "Patient/p1"


def test_silent_server_is_a_retry() -> None:
    """That the server cannot say is no doubt about the patient."""
    with (
        FhirClient("http://x", 5, transport=httpx.MockTransport(lambda _: httpx.Response(503))) as client,
        pytest.raises(Retry),
    ):
        resolve(client, IDENTITY, SYSTEMS)

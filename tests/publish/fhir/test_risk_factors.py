"""What the record says of risk factors, and what it leaves unknown."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from auscult.domain.codes import LOINC, SNOMED
from auscult.domain.study import RiskFactors
from auscult.platform.errors import Retry
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.patients import risk_factors
from fhir_samples import patient, put

ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"


def concept(system: str, code: str) -> dict[str, Any]:
    """Return a CodeableConcept."""
    return {"coding": [{"system": system, "code": code}]}


def condition(code: tuple[str, str], clinical: str = "active", verified: str = "confirmed") -> dict[str, Any]:
    """Return a Condition of p1."""
    return {
        "resourceType": "Condition",
        "id": f"c-{code[1].lower()}-{clinical}-{verified}",
        "subject": {"reference": "Patient/p1"},
        "code": concept(*code),
        "clinicalStatus": concept(CLINICAL, clinical),
        "verificationStatus": concept(VERIFICATION, verified),
    }


def smoking(value: tuple[str, str], identity: str = "s1", status: str = "final") -> dict[str, Any]:
    """Return a smoking status of p1."""
    return {
        "resourceType": "Observation",
        "id": identity,
        "status": status,
        "subject": {"reference": "Patient/p1"},
        "code": concept(LOINC, "72166-2"),
        "valueCodeableConcept": concept(*value),
    }


def relative(code: tuple[str, str], status: str = "completed") -> dict[str, Any]:
    """Return what a relative of p1 had."""
    return {
        "resourceType": "FamilyMemberHistory",
        "id": "f1",
        "status": status,
        "patient": {"reference": "Patient/p1"},
        "relationship": {"text": "mother"},
        "condition": [{"code": concept(*code)}],
    }


def asked(client: FhirClient, record: httpx.Client, *resources: dict[str, Any]) -> RiskFactors:
    """Return what the record says when it holds `resources`."""
    put(record, patient(), *resources)
    return risk_factors(client, "Patient/p1")


def test_empty_record_says_nothing(client: FhirClient, record: httpx.Client) -> None:
    """No entry is unknown, not absent."""
    assert asked(client, record) == RiskFactors()


@pytest.mark.parametrize(
    ("code", "factor"),
    [
        ((ICD_10_CM, "J43.9"), "emphysema"),
        ((SNOMED, "87433001"), "emphysema"),
        ((ICD_10_CM, "C50.911"), "known_cancer"),
        (("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "C34.1"), "known_cancer"),
        ((SNOMED, "254637007"), "known_cancer"),
        ((ICD_10_CM, "D84.821"), "immunosuppressed"),
        ((ICD_10_CM, "Z94.0"), "immunosuppressed"),
        ((ICD_10_CM, "B20"), "immunosuppressed"),
        ((SNOMED, "370388006"), "immunosuppressed"),
        ((ICD_10_CM, "Z80.1"), "family_history_of_lung_cancer"),
    ],
)
def test_confirmed_condition_is_a_factor(
    client: FhirClient, record: httpx.Client, code: tuple[str, str], factor: str
) -> None:
    """One coded condition sets one factor; one that is refuted says that it is absent."""
    assert asked(client, record, condition(code)) == RiskFactors(**{factor: True})
    refuted = condition(code, verified="refuted")
    put(record, {**condition(code), "code": {"text": "corrected"}})
    assert asked(client, record, refuted) == RiskFactors(**{factor: False})


@pytest.mark.parametrize(
    "held",
    [
        condition((ICD_10_CM, "J44.9")),
        condition(("urn:local", "J43.9")),
        condition((ICD_10_CM, "D05.1")),
        condition((ICD_10_CM, "Z94.7")),
        condition((ICD_10_CM, "J43.9"), verified="provisional"),
        condition((ICD_10_CM, "J43.9"), verified="entered-in-error"),
        condition((ICD_10_CM, "C50.9"), clinical="resolved"),
        condition((ICD_10_CM, "D84.821"), clinical="inactive"),
        {**condition((ICD_10_CM, "J43.9")), "code": {"text": "emphysema"}},
    ],
)
def test_what_is_not_stated_stays_unknown(client: FhirClient, record: httpx.Client, held: dict[str, Any]) -> None:
    """Other codes, doubtful, erroneous and past conditions, and free text, set nothing."""
    assert asked(client, record, held) == RiskFactors()


def test_what_one_record_confirms_another_cannot_refute(client: FhirClient, record: httpx.Client) -> None:
    """The factor is present where any entry confirms it."""
    code = (ICD_10_CM, "J43.9")
    assert asked(client, record, condition(code), condition(code, verified="refuted")).emphysema is True


def test_past_emphysema_and_cancer_in_remission_count(client: FhirClient, record: httpx.Client) -> None:
    """Emphysema does not heal, and a remission is no cure."""
    found = asked(
        client,
        record,
        condition((ICD_10_CM, "J43.9"), clinical="inactive"),
        condition((ICD_10_CM, "C50.9"), clinical="remission"),
    )
    assert found == RiskFactors(emphysema=True, known_cancer=True)


def test_cancer_is_known_by_its_mcode_profile(client: FhirClient, record: httpx.Client) -> None:
    """Where the histology's own SNOMED CT code is not in our list."""
    profile = "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-primary-cancer-condition"
    held = {**condition((SNOMED, "1")), "meta": {"profile": [profile]}}
    assert asked(client, record, held) == RiskFactors(known_cancer=True)


@pytest.mark.parametrize(
    ("values", "smoker"),
    [
        ([(SNOMED, "266919005")], False),
        ([(LOINC, "LA18978-9")], False),
        ([(SNOMED, "8517006")], True),
        ([(LOINC, "LA15920-4")], True),
        ([(LOINC, "LA18979-7")], True),
        ([(SNOMED, "266927001")], None),
        ([(SNOMED, "266919005"), (SNOMED, "8517006")], True),
    ],
)
def test_smoking_status_says_who_ever_smoked(
    client: FhirClient, record: httpx.Client, values: list[tuple[str, str]], *, smoker: bool | None
) -> None:
    """Former smokers count, "unknown if ever smoked" says nothing."""
    held = [smoking(value, f"s{number}") for number, value in enumerate(values)]
    assert asked(client, record, *held) == RiskFactors(smoker=smoker)


def test_erroneous_smoking_status_is_not_read(client: FhirClient, record: httpx.Client) -> None:
    """What was entered in error says nothing."""
    assert asked(client, record, smoking((SNOMED, "8517006"), status="entered-in-error")) == RiskFactors()


@pytest.mark.parametrize(
    ("held", "known"),
    [
        (relative((SNOMED, "93880001")), True),
        (relative((ICD_10_CM, "C34.90")), True),
        (relative((ICD_10_CM, "C50.9")), None),
        (relative((ICD_10_CM, "C34.90"), status="entered-in-error"), None),
    ],
)
def test_lung_cancer_of_relatives_is_found(
    client: FhirClient, record: httpx.Client, held: dict[str, Any], *, known: bool | None
) -> None:
    """Relatives without lung cancer do not prove that no relative had it."""
    assert asked(client, record, held) == RiskFactors(family_history_of_lung_cancer=known)


def test_other_patients_say_nothing(client: FhirClient, record: httpx.Client) -> None:
    """Only the patient's own entries are read."""
    put(record, patient("p2"), {**condition((ICD_10_CM, "J43.9")), "subject": {"reference": "Patient/p2"}})
    assert asked(client, record) == RiskFactors()


def test_long_records_are_read_to_the_end(client: FhirClient, record: httpx.Client) -> None:
    """A condition on the second page counts."""
    put(record, patient())
    for number in range(210):
        put(record, {**condition((ICD_10_CM, "I10")), "id": f"c{number}"})
    assert asked(client, record, condition((ICD_10_CM, "J43.9"))).emphysema is True


def test_one_round_trip_is_enough() -> None:
    """All is asked in one batch."""
    asked_for: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked_for.append(f"{request.method} {request.url.path}")
        page = {"resource": {"resourceType": "Bundle", "type": "searchset"}, "response": {"status": "200"}}
        return httpx.Response(200, json={"resourceType": "Bundle", "type": "batch-response", "entry": [page] * 3})

    with FhirClient("http://x/fhir", 5, transport=httpx.MockTransport(handler)) as client:
        assert risk_factors(client, "Patient/p1") == RiskFactors()
    assert asked_for == ["POST /fhir"]


def test_unsupported_search_is_unknown_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not every server holds family histories; the operator is told."""
    page = {"resource": {"resourceType": "Bundle", "type": "searchset"}, "response": {"status": "200"}}
    answer = {"type": "batch-response", "entry": [page, {"response": {"status": "404"}}, page]}
    with (
        caplog.at_level(logging.WARNING, "auscult"),
        FhirClient(
            "http://x", 5, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
        ) as client,
    ):
        assert risk_factors(client, "Patient/somebody") == RiskFactors()
    assert "FamilyMemberHistory" in caplog.text
    assert "somebody" not in caplog.text


def test_failing_search_is_a_retry() -> None:
    """A server that cannot answer is not a record that says nothing."""
    answer = {"type": "batch-response", "entry": [{"response": {"status": "500"}}] * 3}
    with (
        FhirClient(
            "http://x", 5, transport=httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
        ) as client,
        pytest.raises(Retry),
    ):
        risk_factors(client, "Patient/p1")

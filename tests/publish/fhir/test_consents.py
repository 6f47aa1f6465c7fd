"""Who may be computed: Consents, labels and lists, each read on the strict side."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from auscult.platform.errors import Retry
from auscult.platform.settings import Settings
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.consents import ACT_CODE, ACT_REASON, ACTION, SCOPE, Refusal, Rules, permits, refusal
from fhir_samples import ISSUER_SYSTEM, patient, put

RULES = Rules.of(Settings())
NOW = datetime(2026, 11, 25, tzinfo=UTC)
OPT_IN, OPT_OUT = ({"coding": [{"system": ACT_CODE, "code": code}]} for code in ("OPTIN", "OPTOUT"))


def coded(system: str, *codes: str) -> dict[str, Any]:
    """Return a CodeableConcept."""
    return {"coding": [{"system": system, "code": code} for code in codes]}


def consent(provision: dict[str, Any] | None = None, **elements: Any) -> dict[str, Any]:
    """Return an active privacy Consent of Patient/p1."""
    return {
        "resourceType": "Consent",
        "id": "c1",
        "status": "active",
        "scope": coded(SCOPE, "patient-privacy"),
        "category": [coded("http://loinc.org", "59284-0")],
        "patient": {"reference": "Patient/p1"},
        **({"provision": provision} if provision else {}),
        **elements,
    }


def purpose(*codes: str) -> list[dict[str, str]]:
    """Return purposes of use."""
    return [{"system": ACT_REASON, "code": code} for code in codes]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (consent(policyRule=OPT_OUT), False),
        (consent(policyRule=OPT_IN), True),
        (consent(), None),
        (consent({"type": "deny"}), False),
        (consent({"type": "permit"}), True),
        (consent({"type": "deny"}, status="inactive"), None),
        (consent({"type": "deny"}, status="rejected"), None),
        (consent({"type": "deny"}, scope=coded(SCOPE, "research")), None),
        (consent({"type": "deny"}, scope=coded(SCOPE, "treatment")), False),
        (consent({"type": "deny", "period": {"end": "2026-11-24"}}), None),
        (consent({"type": "deny", "period": {"end": "2026-11-25"}}), False),
        (consent({"type": "deny", "period": {"start": "2026-12"}}), None),
        (consent({"type": "permit", "period": {"start": "2026", "end": "2026"}}), True),
        (consent({"type": "deny", "purpose": purpose("HRESCH")}), None),
        (consent({"type": "deny", "purpose": purpose("HRESCH", "TREAT")}), False),
        (consent({"type": "deny", "action": [coded(ACTION, "disclose")]}), None),
        (consent({"type": "deny", "action": [coded(ACTION, "use")]}), False),
        (consent({"type": "permit", "action": [coded(ACTION, "correct")]}), None),
        (consent({"type": "permit", "class": [{"code": "Condition"}]}), None),
        (consent({"type": "deny", "class": [{"code": "Condition"}]}), False),
        (consent({"provision": [{"type": "permit", "purpose": purpose("TREAT")}]}, policyRule=OPT_OUT), True),
        (consent({"provision": [{"type": "deny", "purpose": purpose("TREAT")}]}, policyRule=OPT_IN), False),
        (consent({"type": "permit", "provision": [{"type": "permit"}, {"type": "deny"}]}), False),
        (consent({"type": "deny", "provision": "wrong"}), False),
        (consent({"type": "permit", "purpose": "wrong"}), None),
    ],
)
def test_what_a_consent_says(given: dict[str, Any], said: bool | None) -> None:
    """R4: the policy rule holds where no provision applies, an exception before what it is an exception of."""
    assert permits(given, {"TREAT"}, NOW) is said


def test_nothing_said_is_the_sites_default(client: FhirClient, record: httpx.Client) -> None:
    """A site where patients opt in computes nobody without a Consent."""
    put(record, patient())
    assert refusal(client, "Patient/p1", RULES) is None
    strict = replace(RULES, permitted_by_default=False)
    missing = refusal(client, "Patient/p1", strict)
    assert missing is not None
    assert missing.reason == "consent-missing"
    put(record, consent({"type": "permit"}))
    assert refusal(client, "Patient/p1", strict) is None


def test_one_denial_outweighs_each_permission(client: FhirClient, record: httpx.Client) -> None:
    """Whichever is newer: a withdrawn Consent is inactive."""
    put(record, patient(), consent({"type": "permit"}), consent({"type": "deny"}, id="c2"))
    denied = refusal(client, "Patient/p1", RULES)
    assert denied is not None
    assert (denied.reason, denied.basis) == ("consent-denied", "Consent/c2")


@pytest.mark.parametrize(("code", "refused"), [("R", True), ("V", True), ("N", False)])
def test_a_labelled_patient_is_not_computed(
    client: FhirClient, record: httpx.Client, code: str, refused: bool
) -> None:
    """Restricted and very restricted, unless the site says otherwise."""
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": code}
    put(record, patient(meta={"security": [label]}))
    assert (refusal(client, "Patient/p1", RULES) is not None) == refused
    assert refusal(client, "Patient/p1", replace(RULES, labels=frozenset())) is None


def test_who_is_on_a_list_is_not_computed(client: FhirClient, record: httpx.Client, tmp_path: Path) -> None:
    """By id or identifier in a file, as a Group's member, by a Flag; a list that is not there stops everybody."""
    put(record, patient())
    file = tmp_path / "opted-out"
    for line, refused in (("Patient/p1", True), (f"{ISSUER_SYSTEM}|MRN-4711", True), ("Patient/p10", False)):
        file.write_text(f"{line}\n")
        assert (refusal(client, "Patient/p1", replace(RULES, file=file)) is not None) == refused
    with pytest.raises(Retry, match="opt-out-unreadable"):
        refusal(client, "Patient/p1", replace(RULES, file=tmp_path / "none"))
    with pytest.raises(Retry, match="opt-out-unreadable"):
        refusal(client, "Patient/p1", replace(RULES, group="Group/none"))
    members = [{"entity": {"reference": "Patient/p1"}}]
    put(record, {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "member": members})
    member = refusal(client, "Patient/p1", replace(RULES, group="Group/g"))
    assert member == Refusal("opted-out", "the patient opted out", "Group/g")
    put(record, {"resourceType": "Group", "id": "g", "type": "person", "actual": True})
    assert refusal(client, "Patient/p1", replace(RULES, group="Group/g")) is None
    flag = {"resourceType": "Flag", "id": "f", "status": "active", "code": coded("urn:site", "no-ai")}
    put(record, {**flag, "subject": {"reference": "Patient/p1"}})
    flagged = refusal(client, "Patient/p1", replace(RULES, flags=frozenset({("urn:site", "no-ai")})))
    assert flagged == Refusal("opted-out", "the patient opted out", "Flag/f")


def test_a_patient_who_cannot_be_read_is_not_computed(client: FhirClient) -> None:
    """That is a Retry: it may be a matter of access rules."""
    with pytest.raises(Retry, match="patient-unreadable"):
        refusal(client, "Patient/p1", RULES)

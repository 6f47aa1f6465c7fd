"""HAPI FHIR's own CDS Hooks objects, told to refuse unknown fields, as the client of every service and hook."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hooks_site import NODULE_CT, hooks_site, nodule
from stack.servers import STACK

from ehr import CONTEXTS, PATIENT, bundle

CLASSPATH = f"{STACK / 'cdshooks/classes'}:{STACK / 'cdshooks/lib'}/*:{STACK / 'hapi/lib'}/*"
CONDITION = {
    "resourceType": "Condition",
    "subject": {"reference": "Patient/42"},
    "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "R91.1"}]},
}
ORDERS = {"draftOrders": bundle(NODULE_CT)}
GIVEN = {
    "order-select": ORDERS | {"selections": ["ServiceRequest/ct1"]},
    "order-sign": ORDERS,
    "problem-list-item-create": {"conditions": bundle(CONDITION)},
}


@pytest.mark.timeout(180)
def test_a_strict_java_client_reads_every_answer(tmp_path: Path) -> None:
    """Discovery, each service at each of its hooks, and feedback: no field is unknown, null or missing."""
    if not (STACK / "cdshooks/classes").exists():
        pytest.fail("the Java client is not built; integration/stack/prepare.sh does")
    contexts = {
        hook: {"userId": "Practitioner/abc", "patientId": "42"} | least | GIVEN.get(hook, {})
        for hook, least in CONTEXTS.items()
    }
    told = {"context": contexts, "prefetch": {"patient": PATIENT, "sizes": bundle(), "orders": bundle()}}
    with hooks_site(tmp_path, nodule()) as site:
        client = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", CLASSPATH, "StrictClient", site.base]
        done = subprocess.run(
            client, input=json.dumps(told), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        outcomes = site.feedback()
    calls = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("auscult-")]
    assert {hook for _, hook, *_ in calls} == set(CONTEXTS)
    assert all(cards == "1" for _, _, cards, *_ in calls), calls
    suggested = [(service, hook) for service, hook, _, _, suggestions in calls if suggestions != "0"]
    assert ("auscult-lung-nodule-follow-up", "order-select") in suggested
    assert {each.outcome for each in outcomes} == {"accepted"}

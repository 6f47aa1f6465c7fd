"""Events from a real HAPI FHIR server and a real Kafka: subscriptions fire, runs wait, merges and consents count."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from hospital import ROOT
from stack.servers import Kafka, hapi, validated

import balp
from auscult.bus import events, topics
from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.processes import Services, demo_settings, environment, free_port, running
from auscult.entrypoints.demo.study import write_phantom
from auscult.listen.mllp import framed
from auscult.models.build import build_repository
from product import Product, eventually

HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(400)  # the first test starts all servers
SERVICES = ("inference", "cds-hooks", "listen")
CREATININE = {"system": "http://loinc.org", "code": "2160-0"}
SMOKING = {"system": "http://loinc.org", "code": "72166-2"}
BORN = "1958-02-14"
TODAY = datetime.now(UTC).date().isoformat()


@dataclass(frozen=True)
class Site:
    """The product, with a worker that knows a pathway that waits."""

    product: Product
    services: Services
    hl7_port: int

    def put(self, resource: dict[str, Any]) -> None:
        """Write a resource into the record."""
        place = f"{self.product.fhir}/{resource['resourceType']}/{resource['id']}"
        httpx.put(place, json=resource, timeout=30).raise_for_status()

    def laboratory(self, patient: str, day: str = TODAY) -> None:
        """Report a creatinine."""
        self.put(
            _observation(f"crea-{patient}", patient, CREATININE, day) | {"valueQuantity": _quantity(88, "umol/L")}
        )

    def smoking(self, patient: str) -> None:
        """Record a smoking status."""
        concept = {"coding": [{"system": "http://snomed.info/sct", "code": "8517006"}]}
        self.put(_observation(f"smoke-{patient}", patient, SMOKING, TODAY) | {"valueCodeableConcept": concept})

    def statuses(self, study: str, pathway: str = "renal_safety") -> list[str]:
        """Return what operators see of one pathway's run."""
        return [one.status for one in self.product.outcomes(study) if one.reason == pathway]

    def published(self, study: str, pathway: str = "renal_safety") -> list[str]:
        """Wait until the pathway's result is out."""
        return eventually(
            lambda: told if "published" in (told := self.statuses(study, pathway)) else None, f"{pathway}'s result"
        )

    def send(self, message: str) -> str:
        """Send an HL7 v2 message and return its answer."""
        with socket.create_connection(("127.0.0.1", self.hl7_port), 10) as line:
            line.sendall(framed(message.encode()))
            return line.recv(65536).decode()


def _observation(identity: str, patient: str, code: dict[str, str], day: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": identity,
        "status": "final",
        "code": {"coding": [code]},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": day,
    }


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, broker: Kafka) -> Iterator[Site]:
    """Run the product on a HAPI of its own, which notifies it, and on a Kafka."""
    home = tmp_path_factory.mktemp("fhir-in")
    models = ROOT / ".auscult" / "models"
    build_repository(models, if_changed=True)
    secret = home / "secret"
    secret.write_text("a-secret-of-the-record\n")
    with ExitStack() as ending:
        fhir = ending.enter_context(hapi(home / "hapi"))
        notify, hl7 = free_port(), free_port()
        settings = demo_settings(home, models, {"": SYSTEM, "HOSPITAL": SYSTEM, "AUSCULT": SYSTEM}).model_copy(
            update={
                "bus_url": f"kafka://{broker.address}",
                "tenant": "fhir-in",
                "fhir_base": fhir,
                "fhir_subscriptions": ("Observation?code=http://loinc.org|2160-0", "Patient?"),
                "fhir_poll": ("Observation?code=http://loinc.org|72166-2",),
                "fhir_poll_seconds": 1.0,
                "fhir_notify_port": notify,
                "fhir_notify_url": f"http://127.0.0.1:{notify}",
                "fhir_notify_secret_file": secret,
                "hl7_port": hl7,
                "join_recheck_seconds": 3600.0,
            }
        )
        services = ending.enter_context(running(settings, SERVICES))
        assert sorted(services.wait_ready(SERVICES)) == sorted(SERVICES)
        log = (home / "logs" / "pathways.log").open("ab")
        ending.callback(log.close)
        worker = subprocess.Popen(
            [sys.executable, str(HERE / "worker_that_waits.py")], env=environment(settings), stdout=log, stderr=log
        )
        ending.callback(worker.wait)
        ending.callback(worker.terminate)
        product = Product(settings)
        ending.callback(product.close)
        eventually(lambda: (home / "run" / "pathways.ready").exists() or None, "the worker")
        eventually(lambda: _active(fhir, 2), "the subscriptions")
        yield Site(product, services, hl7)


def _active(fhir: str, count: int) -> bool | None:
    found = httpx.get(f"{fhir}/Subscription?status=active", headers={"Cache-Control": "no-cache"}).json()
    return len(found.get("entry", [])) == count or None


@pytest.fixture
def study(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Path], str, str, str]:
    """Return a phantom's files, its study, the id its patient has in the record, and the images' PatientID."""
    write_phantom(tmp_path, seed=request.param, seg=True)
    files = sorted(tmp_path.rglob("*.dcm"))
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    return files, str(header.StudyInstanceUID), f"p{request.param}", str(header.PatientID)


PARTS = ("images", "creatinine", "smoking")
ORDERS = [
    ("images", "creatinine", "smoking"),
    ("images", "smoking", "creatinine"),
    ("creatinine", "images", "smoking"),
    ("smoking", "images", "creatinine"),
    ("creatinine", "smoking", "images"),
    ("smoking", "creatinine", "images"),
]


@pytest.mark.parametrize(
    ("study", "order"), [(41 + number, order) for number, order in enumerate(ORDERS)], indirect=["study"]
)
def test_a_run_starts_in_each_order_its_parts_can_arrive_in(
    site: Site, study: tuple[list[Path], str, str, str], order: tuple[str, ...]
) -> None:
    """Once, with what the record says; before that it waits where an operator sees for what."""
    files, uid, patient, identifier = study
    site.product.register(patient, identifier, birthDate=BORN)
    bring: dict[str, Callable[[], object]] = {
        "images": lambda: site.product.send(files),
        "creatinine": lambda: site.laboratory(patient),
        "smoking": lambda: site.smoking(patient),
    }
    for number, part in enumerate(order):
        bring[part]()
        come = set(order[: number + 1])
        if "images" in come and come != set(PARTS):
            missing = {"creatinine": "creatinine", "smoking": "smoking history"}
            wanted = {missing[one] for one in set(PARTS) - come}
            eventually(lambda wanted=wanted: _waits_for(site, uid) == wanted or None, f"a wait for {wanted}")
    assert site.published(uid) == (["waiting", "published"] if order[-1] != "images" else ["published"])
    (result,) = [one for one in site.product.results(uid) if one.pathway == "renal_safety"]
    assert result.card.detail == "creatinine 88.0 umol/L; smoking history 8517006"
    assert _waits_for(site, uid) == set()


def _waits_for(site: Site, study: str) -> set[str]:
    newest: dict[str, events.RunWaits] = {}
    for delivery in site.product.bus.read(topics.WAITING):
        run = delivery.event.payload(events.RunWaits)
        if run.study_uid == study:
            newest[run.key] = run
    return {name for run in newest.values() if run.state == "waiting" for name in run.missing}


@pytest.mark.parametrize("study", [51], indirect=True)
def test_an_old_creatinine_is_none_and_a_restart_forgets_no_wait(
    site: Site, study: tuple[list[Path], str, str, str]
) -> None:
    """Older than 30 days it does not count; the listener may restart meanwhile."""
    files, uid, patient, identifier = study
    site.product.register(patient, identifier, birthDate=BORN)
    site.smoking(patient)
    site.laboratory(patient, "2020-01-01")
    site.product.send(files)
    eventually(lambda: _waits_for(site, uid) == {"creatinine"} or None, "the wait")
    site.services.processes["listen"].stop()
    site.laboratory(patient)
    site.services.start("listen")
    assert site.published(uid) == ["waiting", "published"]


@pytest.mark.parametrize("study", [52], indirect=True)
def test_a_denied_consent_computes_nothing(site: Site, study: tuple[list[Path], str, str, str]) -> None:
    """It is audited in the record, valid and in the shape of BALP's AuthZconsent; it is told, and that is all."""
    files, uid, patient, identifier = study
    site.product.register(patient, identifier, birthDate=BORN)
    site.put(
        {
            "resourceType": "Consent",
            "id": f"no-{patient}",
            "status": "active",
            "scope": _coded("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
            "category": [_coded("http://loinc.org", "59284-0")],
            "patient": {"reference": f"Patient/{patient}"},
            "policyRule": _coded("http://terminology.hl7.org/CodeSystem/v3-ActCode", "OPTOUT"),
        }
    )
    site.product.send(files)
    outcome = site.product.outcome(uid)
    assert (outcome.status, outcome.reason) == ("denied", "consent-denied")
    assert site.product.results(uid) == []
    found = httpx.get(f"{site.product.fhir}/AuditEvent?patient=Patient/{patient}").raise_for_status().json()
    (event,) = [entry["resource"] for entry in found["entry"]]
    assert list(balp.denied(event)) == []
    assert [entity["what"].get("reference") for entity in event["entity"]][:2] == [
        f"Patient/{patient}",
        f"Consent/no-{patient}",
    ]
    assert validated([json.dumps(event).encode()]) == [[]]


def _coded(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


@pytest.mark.parametrize("study", [53], indirect=True)
def test_a_merge_in_the_record_takes_the_card_to_the_survivor(
    site: Site, study: tuple[list[Path], str, str, str]
) -> None:
    """HAPI tells of the Patient that was linked, an A40 of both; the card is the survivor's alone."""
    files, uid, patient, identifier = study
    site.product.register(patient, identifier, birthDate=BORN)
    site.laboratory(patient)
    site.smoking(patient)
    site.product.send(files)
    site.published(uid)
    site.published(uid, "lung_nodule")
    survivor = f"{patient}-survivor"
    site.product.register(survivor, f"{identifier}-NEW", birthDate=BORN)
    link = [{"type": "replaced-by", "other": {"reference": f"Patient/{survivor}"}}]
    site.product.register(patient, identifier, birthDate=BORN, active=False, link=link)
    eventually(lambda: len(site.product.cards(survivor)) == 2 or None, "both cards at the survivor")
    assert site.product.cards(patient) == []
    message = (
        f"MSH|^~\\&|ADT|WARD|AUSCULT|SITE|20261125||ADT^A40|M{uid[-8:]}|P|2.5.1\rEVN|A40\r"
        f"PID|1||{identifier}-NEW^^^HOSPITAL\rMRG|{identifier}^^^HOSPITAL\r"
    )
    assert "MSA|AA|" in site.send(message)


def test_a_patient_in_doubt_is_quarantined_and_released_with_a_note(site: Site) -> None:
    """An A40 that the record does not know waits for an operator, who says why it goes on."""
    site.product.register("q1", "Q-1")
    site.product.register("q2", "Q-2")
    message = (
        "MSH|^~\\&|ADT|WARD|AUSCULT|SITE|20261125||ADT^A40|QUARANTINE|P|2.5.1\rEVN|A40\r"
        "PID|1||Q-2^^^HOSPITAL\rMRG|Q-1^^^HOSPITAL\r"
    )
    assert "MSA|AA|" in site.send(message)

    def told(status: str) -> list[events.Outcome]:
        return [
            one for one in site.product.outcomes() if one.status == status and one.reason == "merge-not-in-record"
        ]

    eventually(lambda: told("quarantined") or None, "the quarantine")
    link = [{"type": "replaced-by", "other": {"reference": "Patient/q2"}}]
    site.product.register("q1", "Q-1", active=False, link=link)
    command = [
        sys.executable,
        "-m",
        "auscult.entrypoints.cli",
        "replay",
        "quarantine",
        "--note",
        "merged by the registry",
    ]
    released = subprocess.run(
        command, env=environment(site.product.settings), capture_output=True, text=True, check=True
    )
    assert released.stdout.strip() == "1 sent again"
    assert told("released")[0].detail.endswith("merged by the registry")

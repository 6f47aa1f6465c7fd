"""The running product, as the end-to-end and integration tests drive it: from outside, over its protocols."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx

from auscult.bus import events, topics
from auscult.bus.contract import Bus
from auscult.bus.factory import open_bus
from auscult.domain.finding import Result
from auscult.domain.identity import pseudonym
from auscult.entrypoints.demo.patient import SYSTEM
from auscult.entrypoints.demo.study import Sent, send
from auscult.entrypoints.timeline import SpanRecord, spans
from auscult.platform.settings import Settings

T = TypeVar("T")
PATIENCE = 90.0
"""Seconds to wait for what must come; nothing is asserted about how long it took."""


def eventually(ask: Callable[[], T | None], what: str) -> T:
    """Ask until there is an answer."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if (answer := ask()) is not None:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE:.0f} s for {what}")


@dataclass(frozen=True)
class Product:
    """The services run with `settings`; `fhir` is the FHIR server's base URL."""

    settings: Settings

    @cached_property
    def bus(self) -> Bus:
        """The bus, to look at what happened; closed by `close`."""
        return open_bus(self.settings)

    def close(self) -> None:
        """Leave the bus."""
        self.bus.close()

    @property
    def fhir(self) -> str:
        """The FHIR server's base URL."""
        return self.settings.fhir_base

    def register(self, patient: str, identifier: str, **elements: Any) -> None:
        """Put a Patient with the DICOM `identifier` into the record."""
        resource = {
            "resourceType": "Patient",
            "id": patient,
            "identifier": [{"system": SYSTEM, "value": identifier}],
            **elements,
        }
        httpx.put(f"{self.fhir}/Patient/{patient}", json=resource).raise_for_status()

    def send(self, files: list[Path]) -> list[Sent]:
        """C-STORE `files` in one association."""
        return list(send(files, self.settings.dicom_host, self.settings.dicom_port, self.settings.ae_title))

    def outcomes(self, study_uid: str | None = None) -> list[events.Outcome]:
        """Return what operators see, of one study or of all."""
        wanted = study_uid and pseudonym(self.settings.tenant, study_uid)
        told = [delivery.event.payload(events.Outcome) for delivery in self.bus.read(topics.OUTCOMES)]
        return [outcome for outcome in told if wanted is None or outcome.study == wanted]

    def outcome(self, study_uid: str, *, after: int = 0) -> events.Outcome:
        """Wait for the study's next outcome beyond the first `after`."""
        return eventually(
            lambda: next(iter(self.outcomes(study_uid)[after:]), None), f"an outcome of the study after {after}"
        )

    def results(self, study_uid: str) -> list[Result]:
        """Return the study's results on the findings topic, the newest last."""
        results = [delivery.event.payload(Result) for delivery in self.bus.read(topics.FINDINGS)]
        return [result for result in results if result.study.study_uid == study_uid]

    def result(self, study_uid: str) -> Result:
        """Return the study's newest result."""
        return self.results(study_uid)[-1]

    def parked(self, topic: topics.Topic) -> int:
        """Count what waits in the dead-letter or quarantine topic."""
        return sum(1 for _ in self.bus.read(topic))

    def traceparent(self, study_uid: str) -> str:
        """Return the traceparent with which the study's newest result was published."""
        events_told = [delivery.event for delivery in self.bus.read(topics.FINDINGS)]
        return [event.traceparent for event in events_told if event.payload(Result).study.study_uid == study_uid][-1]

    def trace(self, traceparent: str) -> list[SpanRecord]:
        """Return a trace's spans, once the hook's, the last one, is exported."""
        folder, trace = self.settings.home / "traces", traceparent.split("-")[1]

        def exported() -> list[SpanRecord] | None:
            records = spans(folder, trace)
            return records if any(record.name.startswith("hook ") for record in records) else None

        return eventually(exported, "the hook's span")

    def cards(self, patient: str, *, traceparent: str = "") -> list[dict[str, Any]]:
        """Ask the patient-view hook as an EHR does."""
        request = {
            "hook": "patient-view",
            "hookInstance": str(uuid.uuid4()),
            "context": {"userId": "Practitioner/1", "patientId": patient},
        }
        url = f"http://{self.settings.hooks_host}:{self.settings.hooks_port}/cds-services/auscult-patient-view"
        answer = httpx.post(url, json=request, headers={"traceparent": traceparent} if traceparent else {})
        answer.raise_for_status()
        cards: list[dict[str, Any]] = answer.json()["cards"]
        return cards

    def card(self, patient: str) -> dict[str, Any]:
        """Wait until the hook answers with a result for the patient; other cards say that one is on its way."""

        def result() -> dict[str, Any] | None:
            return next((card for card in self.cards(patient) if "topic" in card["source"]), None)

        return eventually(result, "a card")

    def resources(self, patient: str) -> dict[str, str]:
        """Return `Type/id` and version of all that was written about the patient, and of its Provenance."""
        found = {}
        for kind in ("Observation", "RiskAssessment"):
            for resource in self._search(f"{kind}?subject=Patient/{patient}&_count=200"):
                found[f"{kind}/{resource['id']}"] = resource["meta"]["versionId"]
        for resource in self._search("Provenance?_count=500"):
            targets = {target["reference"].split("/_history")[0] for target in resource["target"]}
            if targets & found.keys():
                found[f"Provenance/{resource['id']}"] = resource["meta"]["versionId"]
        return found

    def observations(self, patient: str) -> list[dict[str, Any]]:
        """Return the patient's Observations."""
        return list(self._search(f"Observation?subject=Patient/{patient}&_count=200"))

    def _search(self, query: str) -> Iterator[dict[str, Any]]:
        answer = httpx.get(f"{self.fhir}/{query}", headers={"Cache-Control": "no-cache"}, timeout=30)
        answer.raise_for_status()
        for entry in json.loads(answer.text).get("entry", []):
            yield entry["resource"]

"""The hooks service with all its services and one patient's results, for clients that others wrote."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from auscult.bus import events
from auscult.bus.cloudevents import CloudEvent
from auscult.bus.events import CardFeedback
from auscult.bus.sqlite import SqliteBus
from auscult.bus.topics import FEEDBACK, FINDINGS
from auscult.cds_hooks.server import run
from auscult.domain import codes
from auscult.domain.codes import DIAMETER
from auscult.domain.finding import Measurement, MeasurementGroup, Recommendation, Result
from auscult.inference.client import InferenceClient
from auscult.pathways.lung_nodule import PATHWAY, fleischner
from auscult.pathways.pathway import Found
from auscult.pathways.services import Tools, offered
from auscult.platform.settings import Settings
from fhir_samples import MEASURES, finding, result


class Site:
    """A running hooks service. `base`: its address."""

    def __init__(self, base: str, bus: SqliteBus) -> None:
        self.base = base
        self._bus = bus

    def feedback(self) -> list[CardFeedback]:
        """Return the outcomes that are on the bus."""
        return [each.event.payload(CardFeedback) for each in self._bus.read(FEEDBACK)]


NODULE_CT = {
    "resourceType": "ServiceRequest",
    "id": "ct1",
    "status": "draft",
    "intent": "order",
    "code": {"coding": [{"system": codes.LOINC_CT_CHEST.system, "code": codes.LOINC_CT_CHEST.code}]},
    "subject": {"reference": "Patient/42"},
    "reasonCode": [{"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "R91.1"}]}],
}
"""A chest CT that is being ordered for a nodule."""


def nodule() -> Result:
    """Return the result of a nodule of patient 42 for which the guideline advises a CT at 6 to 12 months."""
    rule = "CT_6_12M_THEN_18_24M"
    mean = MeasurementGroup("mean-diameter", DIAMETER, MEASURES, (Measurement("mean-diameter", DIAMETER, 7.3, "mm"),))
    advice = Recommendation(fleischner.GUIDELINE, rule, fleischner.TEXTS[rule])
    found = finding("nodule-1", groups=(*finding("nodule-1").groups, mean), recommendations=(advice,))
    return result(found, card=PATHWAY.card(Found((found,))), patient="Patient/42", acquired="2026-01-31T10:00:00Z")


@contextmanager
def hooks_site(home: Path, *results: Result, **settings: Any) -> Iterator[Site]:
    """Run the service until the end of the block. No model answers; `results` are in its store."""
    stop, ports = threading.Event(), queue.Queue[int]()
    chosen = Settings(**{"home": home, "hooks_port": 0} | settings)
    with closing(SqliteBus(home / "bus.sqlite")) as bus, InferenceClient("127.0.0.1:1", None) as models:
        for each in results:
            bus.publish(FINDINGS, CloudEvent.of(events.RESULT, "/test", each), key=f"{each.study.key}|{each.pathway}")
        server = threading.Thread(
            target=run,
            args=(chosen, bus, stop, ports.put),
            kwargs={"services": lambda store: offered(Tools(store, models, chosen.hooks_public_url))},
        )
        server.start()
        try:
            base = f"http://127.0.0.1:{ports.get(timeout=30)}"
            with httpx.Client() as http:
                while http.get(f"{base}/readyz").status_code != httpx.codes.OK:
                    pass
            yield Site(base, bus)
        finally:
            stop.set()
            server.join(30)

"""A FHIR server over real HTTP on loopback, and patients and results to put on it."""

from __future__ import annotations

import socket
import threading
from datetime import date
from typing import Any, Self

import httpx
import uvicorn

from auscult.domain import codes
from auscult.domain.codes import IBSI, Code
from auscult.domain.finding import (
    Card,
    Contribution,
    Finding,
    Measurement,
    MeasurementGroup,
    ModelReference,
    Outline,
    Recommendation,
    Result,
    Risk,
)
from auscult.domain.study import PatientIdentity, StudyRef

ISSUER_SYSTEM = "urn:oid:1.2.36.146.595.217.0.1"
STUDY_UID = "1.2.826.0.1.3680043.10.543.77"
SEGMENTATION = ModelReference("lung_nodule_seg", "1", "https://example.org/segmentation")
MEASURES = ModelReference("measure", "1", "RECIST 1.1, Eisenhauer et al. 2009")
BROCK = ModelReference("brock_full", "1", "https://doi.org/10.1056/NEJMoa1214726")
FLEISCHNER = ModelReference("fleischner-2017", "2017", "MacMahon et al., Radiology 2017;284:228")
IDENTITY = PatientIdentity("MRN-4711", "HOSPITAL", date(1957, 3, 9), "F")
SYSTEMS = {"HOSPITAL": ISSUER_SYSTEM}


class Server:
    """A server in a thread; `with` ends it. The socket listens before the thread starts, so no one waits for it.

    `app`: the ASGI application that answers; it can be replaced while the server runs.
    """

    app: Any = None

    def __init__(self) -> None:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

        # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer takes 40 ms more.
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen()
        self.base = f"http://127.0.0.1:{self.socket.getsockname()[1]}/fhir"
        self._server = uvicorn.Server(
            uvicorn.Config(answer, lifespan="off", ws="none", log_config=None, access_log=False)
        )
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self.socket.close()
        assert not self._thread.is_alive()


def patient(identity: str = "p1", **changes: Any) -> dict[str, Any]:
    """Return a Patient that fits IDENTITY."""
    return {
        "resourceType": "Patient",
        "id": identity,
        "identifier": [{"system": ISSUER_SYSTEM, "value": "MRN-4711"}],
        "name": [{"family": "Quixote"}],
        "gender": "female",
        "birthDate": "1957-03-09",
        **changes,
    }


def put(record: httpx.Client, *resources: dict[str, Any]) -> None:
    """Put resources on the server."""
    for resource in resources:
        answer = record.put(f"/{resource['resourceType']}/{resource['id']}", json=resource)
        assert answer.status_code in {200, 201}, answer.text


def finding(label: str, **changes: Any) -> Finding:
    """Return a nodule with all that a finding can have."""
    values: dict[str, Any] = {
        "label": label,
        "kind": codes.NODULE,
        "site": codes.LUNG,
        "location": "right lung, upper third",
        "appearance": "solid",
        "outline": Outline("1.2.3.4", "1.2.3", 7, (), "model", "lung_nodule_seg", SEGMENTATION),
        "groups": (
            MeasurementGroup(
                "size",
                codes.TUMOR_SIZE,
                MEASURES,
                (
                    Measurement("longest-diameter", codes.LONGEST_DIAMETER, 8.4231234567, "mm", (8.0, 9.0)),
                    Measurement("perpendicular-diameter", codes.OTHER_DIAMETER, 6.1, "mm"),
                ),
            ),
            MeasurementGroup("volume", codes.VOLUME, MEASURES, (Measurement("volume", codes.VOLUME, 301.5, "mm3"),)),
            MeasurementGroup(
                "radiomics",
                codes.RADIOMICS,
                ModelReference("radiomics_region", "1", "https://arxiv.org/abs/1612.07003"),
                tuple(Measurement(f"f{n}", Code(IBSI, f"C{n:03}", f"Feature {n}"), n / 7, "1") for n in range(30)),
            ),
        ),
        "risks": (
            Risk(
                "malignancy",
                codes.PROBABILITY_OF_CANCER,
                codes.LUNG_CANCER,
                BROCK,
                0.0412345,
                (Contribution("age", "69 years", 0.2), Contribution("baseline", "", -6.8)),
                (0.0412345, 0.0912345),
                ("emphysema",),
            ),
        ),
        "recommendations": (Recommendation(FLEISCHNER, "solid-6-8", "CT at 6-12 months."),),
        "notes": ("the solid part measures 3.0 mm",),
    }
    return Finding(**{**values, **changes})


def result(*findings: Finding, **changes: Any) -> Result:
    """Return a final result with `findings`."""
    values: dict[str, Any] = {
        "study": StudyRef("default", STUDY_UID, "ab" * 32),
        "pathway": "lung_nodule",
        "version": "1",
        "patient": "Patient/p1",
        "status": "final",
        "findings": findings,
        "card": Card("Lung nodule 7.3 mm", "info", "detail", "Auscult"),
        "recorded": "2026-03-01T10:00:00.123Z",
        "acquired": "2026-03-01T09:58:00+01:00",
    }
    return Result(**{**values, **changes})

"""Results into a real HAPI FHIR: valid, once, whatever is lost on the way, and one that holds at a time."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from stack.servers import hapi, validated

import balp
from auscult.domain.deadline import Deadline
from auscult.domain.finding import Outline, Result
from auscult.domain.study import StudyRef
from auscult.domain.volume import Geometry, Volume
from auscult.platform.errors import Retry
from auscult.publish.fhir.client import FhirClient
from auscult.publish.fhir.elements import RESULT_LINE, line
from auscult.publish.fhir.sink import Extra, FhirSink, Ids
from fhir_samples import SEGMENTATION, finding, patient, put, result

RESULTS = 1000
WRITERS = 8
LOST = 0.2
"""Part of the answers that never come."""
SHAPE = (8, 64, 64)
SLICES = tuple(f"2.25.{number + 1000}" for number in range(SHAPE[0]))
MODES: dict[Ids, str] = {"client": "2.25.601", "server": "2.25.602"}
"""Who gives the ids, and the beginning of the studies' UIDs."""
KINDS = (
    "AuditEvent",
    "Device",
    "DiagnosticReport",
    "ImagingStudy",
    "Observation",
    "Provenance",
    "RiskAssessment",
    "ServiceRequest",
    "Task",
)
EVERYTHING: tuple[Extra, ...] = ("imaging-study", "audit", "pdf", "drafts", "tasks")


class LosesReplies(httpx.BaseTransport):
    """Passes requests on, and loses some of the answers to transactions after the server wrote."""

    def __init__(self, seed: int) -> None:
        self._inner = httpx.HTTPTransport(limits=httpx.Limits(max_connections=WRITERS))
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._lock = threading.Lock()
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send; then perhaps reset, perhaps hand on half of the answer."""
        response = self._inner.handle_request(request)
        if b'"type":"transaction"' not in request.read():
            return response
        with self._lock:
            draw = self._chance.random()
            self.lost += draw < LOST
        if draw >= LOST:
            return response
        text = response.read()
        response.close()
        if draw < LOST / 2:
            raise httpx.ReadError("connection reset")
        return httpx.Response(response.status_code, content=text[: len(text) // 2])

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a HAPI of this module's own, so that its counts are this module's."""
    with hapi(tmp_path_factory.mktemp("hapi")) as address:
        yield address


@pytest.fixture(scope="module")
def record(base: str) -> Iterator[httpx.Client]:
    """Return a plain client, with a patient in the record."""
    with httpx.Client(base_url=base, timeout=60, headers={"Cache-Control": "no-cache"}) as http:
        put(http, patient())
        yield http


def count(record: httpx.Client, resource_type: str) -> int:
    """Return how many resources of a type the record holds."""
    answer = record.get(f"/{resource_type}?_summary=count").json()
    return int(answer["total"])


def everything(record: httpx.Client, resource_type: str, **query: str) -> list[dict[str, Any]]:
    """Return all resources that a search finds."""
    answer = record.get(f"/{resource_type}", params={"_count": "500", **query})
    found = answer.raise_for_status().json()
    return [entry["resource"] for entry in found.get("entry", ())]


def insist(write: Callable[[], bool]) -> bool:
    """Write again as the consumer loop does, until it is known what became of it."""
    for _ in range(60):
        try:
            return write()
        except Retry:
            continue
    raise AssertionError("sixty tries failed")


def full(study: str, **changes: Any) -> tuple[Result, Volume]:
    """Return a result with an outline on an image, and the image."""
    corners = ((20.0, 20.0), (40.0, 20.0), (40.0, 44.0), (20.0, 44.0))
    outline = Outline(SLICES[3], "2.25.999", 3, (corners,), "model", "lung_nodule_seg", SEGMENTATION)
    geometry = Geometry(np.zeros(3), np.eye(3), np.array([2.5, 0.7, 0.7]), SHAPE)
    volume = Volume(np.full(SHAPE, -800, np.int16), geometry, "2.25.999", SLICES)
    of = result(
        finding("nodule-1", outline=outline),
        finding("nodule-2", outline=outline, risks=()),
        study=StudyRef("default", study, "ab" * 32),
        modality="CT",
        **changes,
    )
    return of, volume


@pytest.mark.timeout(300)
def test_all_that_is_written_validates(base: str, record: httpx.Client) -> None:
    """What the record holds after a result and its successor has no error in HAPI's R4 validator."""
    for ids, uid in MODES.items():
        of, volume = full(f"{uid}.1")
        newer = replace(of, study=replace(of.study, digest="cd" * 32))
        degraded = replace(newer, pathway="other", status="degraded", reasons=("late",))
        with FhirClient(base, 60) as client:
            sink = FhirSink(client, EVERYTHING, ids)
            assert sink.write(of, Deadline.after(60), volume)
            assert sink.write(newer, Deadline.after(60), volume)
            assert sink.write(degraded, Deadline.after(60), volume)
    written = [resource for kind in KINDS for resource in everything(record, kind)]
    assert {resource["resourceType"] for resource in written} == set(KINDS)
    for event in (resource for resource in written if resource["resourceType"] == "AuditEvent"):
        assert list(balp.written(event, event["subtype"][0]["code"])) == []
    problems = validated(json.dumps(resource).encode() for resource in written)
    assert len(problems) == len(written)
    assert [(r["resourceType"], said) for r, said in zip(written, problems, strict=True) if said] == []


@pytest.mark.parametrize("ids", MODES)
def test_newer_result_withdraws_the_older(base: str, record: httpx.Client, ids: Ids) -> None:
    """At once, without waiting for the server's cache of searches; the server keeps the version before."""
    study = f"{MODES[ids]}.2"
    of, _ = full(study)
    with FhirClient(base, 60) as client:
        sink = FhirSink(client, EVERYTHING, ids)
        versions = [replace(of, study=replace(of.study, digest=digest * 32)) for digest in ("ab", "cd", "ef")]
        assert [sink.write(version, Deadline.after(60)) for version in versions] == [True, True, True]
        assert not sink.write(versions[-1], Deadline.after(60))
    (imaging,) = everything(record, "ImagingStudy", identifier=f"urn:dicom:uid|urn:oid:{study}")
    place = f"ImagingStudy/{imaging['id']}"
    reports = everything(record, "DiagnosticReport", identifier=f"{RESULT_LINE}|{line(of)}")
    assert Counter(report["status"] for report in reports) == {"entered-in-error": 2, "amended": 1}
    withdrawn = next(report for report in reports if report["status"] == "entered-in-error")
    before = record.get(f"/DiagnosticReport/{withdrawn['id']}/_history/1").json()
    assert before["status"] in {"final", "amended"}
    observed = everything(record, "Observation", **{"derived-from": place})
    valid = [observation for observation in observed if observation["status"] == "final"]
    assert len(valid) * 3 == len(observed)


@pytest.mark.timeout(240)
def test_a_thousand_results_with_lost_replies_leave_a_thousand(base: str, record: httpx.Client) -> None:
    """A reply may be lost or cut in half after the server wrote: each result is there once, in its first version."""
    before = count(record, "Provenance"), count(record, "DiagnosticReport")
    transport = LosesReplies(seed=1)
    with FhirClient(base, 60, transport=transport) as client:
        sink = FhirSink(client, (), "client")

        def write(number: int) -> bool:
            of = result(study=StudyRef("default", f"2.25.7{number:05}", "ab" * 32))
            return insist(lambda: sink.write(of, Deadline.after(60)))

        write(0)
        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(write, range(1, RESULTS)))
    assert transport.lost > RESULTS * LOST / 2
    after = count(record, "Provenance"), count(record, "DiagnosticReport")
    assert [now - then for now, then in zip(after, before, strict=True)] == [RESULTS, RESULTS]


@pytest.mark.parametrize("ids", MODES)
def test_eight_writers_on_one_key_leave_one(base: str, record: httpx.Client, ids: Ids) -> None:
    """All write the same result at once, with replies lost; the record holds it once, in one version."""
    study = f"{MODES[ids]}.3"
    of, _ = full(study)
    before = count(record, "Provenance")
    with FhirClient(base, 60, transport=LosesReplies(seed=2)) as client:
        sinks = (
            [FhirSink(client, (), ids) for _ in range(WRITERS)] if ids == "client" else [FhirSink(client, (), ids)]
        )
        start = threading.Barrier(WRITERS)

        def write(number: int) -> bool:
            start.wait()
            return insist(lambda: sinks[number % len(sinks)].write(of, Deadline.after(60)))

        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(write, range(WRITERS)))
    assert count(record, "Provenance") - before == 1
    reports = everything(record, "DiagnosticReport", identifier=f"{RESULT_LINE}|{line(of)}")
    assert [report["meta"]["versionId"] for report in reports] == ["1"]

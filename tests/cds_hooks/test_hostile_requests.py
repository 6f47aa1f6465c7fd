"""Requests that are too deep, too slow or too large cost an answer, not the service."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from auscult.cds_hooks import endpoints
from auscult.cds_hooks.app import create_app
from auscult.cds_hooks.store import CardStore
from auscult.platform.settings import Settings

if TYPE_CHECKING:
    from conftest import Call

PATH = "/cds-services/auscult-patient-view"
BODY = {
    "hook": "patient-view",
    "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
    "context": {"userId": "Practitioner/abc", "patientId": "42", "other": "@"},
    "prefetch": {"patient": {"resourceType": "Patient", "id": "42", "name": "@"}},
    "extension": "@",
}


@pytest.mark.parametrize(("depth", "statuses"), [(500, {200}), (5000, {200, 400}), (100_000, {400})])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_read_or_refused(call: Call, depth: int, statuses: set[int], opening: str, closing: str) -> None:
    """However deep, in whatever part: an answer or 400, and the service goes on. The limit is Python's."""
    nested = opening * depth + "1" + closing * depth
    for part in ("context", "prefetch", "extension"):
        text = json.dumps(BODY)
        whole = json.dumps(BODY[part])
        body = text.replace(whole, whole.replace('"@"', nested))
        answer = call("POST", PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in statuses


@pytest.mark.parametrize("message", [None, {"type": "http.disconnect"}])
def test_a_request_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, message: dict[str, Any] | None
) -> None:
    """A client that stops in the middle gets 408 after some seconds, and one that goes away makes no error."""
    monkeypatch.setattr(endpoints, "BODY_SECONDS", 0.01)
    app = create_app(CardStore("https://a.org"), Settings(), Path())
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"10")],
    }
    sent: list[dict[str, Any]] = []
    given = iter([{"type": "http.request", "body": b"{", "more_body": True}, message])

    async def receive() -> dict[str, Any]:
        following = next(given)
        if following is None:
            await asyncio.Event().wait()
        assert following
        return following

    async def send(each: Any) -> None:
        sent.append(each)

    asyncio.run(app(scope, receive, send))
    assert [each["status"] for each in sent if "status" in each] == ([408] if message is None else [])

"""A real browser, with a page of another origin as the EHR: preflights, tokens, cards, suggestions and feedback."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hooks_site import NODULE_CT, hooks_site, nodule

from auscult.cds_hooks.trust import keys
from auscult.entrypoints.demo.processes import free_port
from ehr import CONTEXTS, bundle

PAGE = Path(__file__).parent / "stack/browser/ehr.html"
HOSTILE = '<img src="x"> <script>document.title=1</script> <iframe></iframe> A nodule'
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
GIVEN: dict[str, dict[str, Any]] = {
    "order-select": {"selections": ["ServiceRequest/ct1"], "draftOrders": bundle(NODULE_CT)},
    "order-sign": {"draftOrders": bundle(NODULE_CT)},
}


class Page:
    """The origin of the page: it serves the page, its task and its keys, and takes what became of it."""

    def __init__(self) -> None:
        self.task: dict[str, Any] = {}
        self.jwks: dict[str, Any] = {"keys": []}
        self.done: queue.Queue[dict[str, Any]] = queue.Queue()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/":
                    self._answer(PAGE.read_bytes(), "text/html")
                else:
                    self._answer(json.dumps(page.jwks if self.path == "/jwks.json" else page.task).encode())

            def do_PUT(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == "/jwks.json":
                    page.jwks = {"keys": [content | {"kid": "browser", "key_ops": ["verify"]}]}
                else:
                    page.done.put(content)
                self._answer(b"{}")

            def _answer(self, body: bytes, kind: str = "application/json") -> None:
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.http.server_address[1]}"


@contextmanager
def page() -> Iterator[Page]:
    """Serve the page until the end of the block."""
    served = Page()
    thread = threading.Thread(target=served.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.http.shutdown()
        thread.join()
        served.http.server_close()


def opened(ehr: Page, profile: Path) -> dict[str, Any]:
    """Open the page in a browser, and return what became of it."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.fail("chromium is not installed; integration/stack/prepare.sh does")
    with subprocess.Popen(
        [browser, *OPTIONS, f"--user-data-dir={profile}", f"{ehr.origin}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            return ehr.done.get(timeout=60)
        finally:
            process.terminate()


@pytest.mark.timeout(180)
def test_an_ehr_in_a_browser_works_and_a_page_that_is_not_named_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All services, each button of their cards; no HTML of a card is shown; replay and cookies are refused."""
    # A first call waits for its client's keys, which a busy machine fetches later than a clinician would wait.
    monkeypatch.setattr(keys, "PATIENCE", 30.0)
    monkeypatch.setattr(keys, "TIMEOUT", 30.0)
    found = nodule()
    found = replace(found, card=replace(found.card, summary=HOSTILE, detail=f"{HOSTILE}\n\n{found.card.detail}"))
    port = free_port()
    with page() as ehr, page() as stranger:
        clients = [
            {"name": name, "iss": each.origin, "jku": [f"{each.origin}/jwks.json"], "fhir_bases": []}
            for name, each in (("ehr", ehr), ("stranger", stranger))
        ]
        (tmp_path / "clients.yaml").write_text(yaml.safe_dump({"clients": clients}))
        settings = {
            "hooks_port": port,
            "hooks_public_url": f"http://127.0.0.1:{port}",
            "hooks_origins": (ehr.origin,),
            "hooks_clients": tmp_path / "clients.yaml",
        }
        with hooks_site(tmp_path, found, **settings) as site:
            contexts = {
                hook: {"userId": "Practitioner/abc", "patientId": "42"} | least | GIVEN.get(hook, {})
                for hook, least in CONTEXTS.items()
            }
            ehr.task = stranger.task = {"base": site.base, "contexts": contexts}
            told = opened(ehr, tmp_path / "browser")
            refused = opened(stranger, tmp_path / "another")
            outcomes = site.feedback()
    assert "problem" not in told, told
    assert {each["hook"] for each in told["shown"]} == set(CONTEXTS)
    assert told["failed"] == []
    assert all("A nodule" in each["text"] for each in told["shown"])
    assert told["html"] == 0
    assert {status for each in told["shown"] for status in each["clicked"]} == {200}
    assert {each.outcome for each in outcomes} == {"accepted", "overridden"}
    assert (told["first"], told["again"], told["cookies"]) == (200, 401, True)
    assert "hook" in told["wrong"]
    assert "TypeError" in refused["problem"]

"""Schemathesis, as it is, over the hooks' own OpenAPI description: no call of thousands gets a 5xx."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from auscult.bus.sqlite import SqliteBus
from auscult.cds_hooks.server import run
from auscult.inference.client import InferenceClient
from auscult.pathways.services import Tools, offered
from auscult.platform.settings import Settings

SCHEMATHESIS = Path(__file__).parents[1] / ".cache/schemathesis/bin/st"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """Return the address of the hooks with all their services; no model answers."""
    stop, ports = threading.Event(), queue.Queue[int]()
    settings = Settings(home=tmp_path, hooks_port=0)
    with closing(SqliteBus(tmp_path / "bus.sqlite")) as bus, InferenceClient("127.0.0.1:1", None) as models:
        server = threading.Thread(
            target=run,
            args=(settings, bus, stop, ports.put),
            kwargs={"services": lambda store: offered(Tools(store, models, settings.hooks_public_url))},
        )
        server.start()
        try:
            yield f"http://127.0.0.1:{ports.get(timeout=30)}"
        finally:
            stop.set()
            server.join(30)


@pytest.mark.timeout(330)
def test_no_call_fails(base: str, tmp_path: Path) -> None:
    """Right and wrong calls of every operation are answered as described."""
    if not SCHEMATHESIS.exists():
        pytest.skip("schemathesis is not installed; integration/stack/prepare.sh makes its environment")
    command = [SCHEMATHESIS, "run", f"{base}/openapi.json", "--url", base, "--checks", CHECKS]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "7/7" in done.stdout

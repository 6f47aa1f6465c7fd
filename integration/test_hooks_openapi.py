"""Schemathesis, as it is, over the hooks' own OpenAPI description: no call of thousands gets a 5xx."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hooks_site import hooks_site

SCHEMATHESIS = Path(__file__).parents[1] / ".cache/schemathesis/bin/st"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """Return the address of the hooks with all their services; no model answers."""
    with hooks_site(tmp_path) as site:
        yield site.base


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

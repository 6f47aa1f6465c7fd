"""Models of the frameworks themselves, in a process and an environment of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.golden

HERE = Path(__file__).parent
PYTHON = HERE.parents[2] / ".cache/converters/bin/python"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", ["tabular", "networks"])
def test_models_answer_after_importing_as_before(suite: str) -> None:
    """Each source, imported by the command line and compared with its framework: `conversions/convert_*.py`."""
    if not PYTHON.exists():
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("the frameworks are not installed; integration/stack/prepare.sh makes their environment")
    command = [PYTHON, "-m", "pytest", "--confcutdir=.", "-c", "pytest.ini", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"convert_{suite}.py"],
        cwd=HERE / "conversions",
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout

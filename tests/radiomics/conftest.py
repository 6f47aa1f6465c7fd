"""The radiomics models in this process, and the reference data of the IBSI."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from auscult.models.build import MODELS, write
from auscult.radiomics import native
from auscult.radiomics.measure import MODELS as NEEDED
from auscult.radiomics.measure import Infer

DATA = Path(__file__).resolve().parents[2].parent / "shared/data"
REFERENCES = (DATA / "ibsi_digital_phantom", DATA / "ibsi_ct_reference", Path(__file__).parent / "reference")
"""Tables of consensus values (IBSI reference manual, arXiv:1612.07003)."""
Reference = Callable[[str], dict[str, tuple[float, float]]]


class Verdict(NamedTuple):
    """A line of the conformance table."""

    phantom: str
    feature: str
    value: float
    reference: float
    tolerance: float
    met: bool


TABLE = pytest.StashKey[list[Verdict]]()
STORED = Path(__file__).resolve().parents[2] / ".cache/conformance.csv"


@pytest.fixture(scope="session")
def conformance(pytestconfig: pytest.Config) -> list[Verdict]:
    """Return the table that tests of conformance add to."""
    return pytestconfig.stash.setdefault(TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the conformance table, and store it."""
    table = config.stash.get(TABLE, [])
    if not table:
        return
    terminalreporter.section("IBSI conformance: value, reference, tolerance, verdict")
    for phantom, feature, value, reference, tolerance, met in table:
        verdict = "met" if met else "NOT MET"
        terminalreporter.line(f"{phantom:17}{feature:34}{value:16.6g}{reference:14.6g} ± {tolerance:<10.3g}{verdict}")
    for phantom in dict.fromkeys(line.phantom for line in table):
        met = [line.met for line in table if line.phantom == phantom]
        terminalreporter.line(f"{phantom}: {sum(met)} of {len(met)} met")
    terminalreporter.line(
        f"together: {sum(line.met for line in table)} of {len(table)} met; stored in .cache/{STORED.name}"
    )
    STORED.parent.mkdir(exist_ok=True)
    with STORED.open("w", newline="") as file:
        csv.writer(file).writerows([Verdict._fields, *table])


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the radiomics models."""
    root = tmp_path_factory.mktemp("radiomics")
    for model in MODELS:
        if model.name in NEEDED:
            write(model, root / model.name)
    return root


@pytest.fixture(scope="session")
def infer(repository: Path) -> Infer:
    """Return a function that runs the radiomics models, on one thread."""
    sessions = {}
    for name in NEEDED:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        sessions[name] = ort.InferenceSession(repository / name / "1" / "model.onnx", options)

    def run(name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"features": sessions[name].run(["features"], inputs)[0]}

    return run


@pytest.fixture(params=["models", "numpy", "kernels"])
def way(request: pytest.FixtureRequest) -> Infer | None:
    """Return each way to compute features: by the models, by numpy, and by the compiled kernels."""
    if request.param == "models":
        infer: Infer = request.getfixturevalue("infer")
        return infer
    if request.param == "numpy":
        request.getfixturevalue("monkeypatch").setattr(native, "available", lambda: False)
    elif not native.available():
        pytest.skip("the package was built without a C compiler")
    return None


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Return a function that reads a table of consensus values: value and tolerance by tag."""

    def read(path: str) -> dict[str, tuple[float, float]]:
        found = [folder / path for folder in REFERENCES if (folder / path).exists()]
        if not found:
            pytest.skip(f"the reference values {path} are not beside the repository")
        with found[0].open() as file:
            return {
                row["feature"]: (float(row["reference"]), float(row["tolerance"])) for row in csv.DictReader(file)
            }

    return read


@pytest.fixture(scope="session")
def digital_phantom() -> tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.float64]]:
    """Return the IBSI digital phantom: image, mask and spacing, (z, y, x)."""
    path = DATA / "ibsi_digital_phantom/digital_phantom.npz"
    if not path.exists():
        pytest.skip("the IBSI digital phantom is not beside the repository")
    with np.load(path) as data:
        return data["image"], data["mask"] > 0, data["spacing"]

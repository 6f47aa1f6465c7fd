"""The reference models, built once, and ONNX Runtime sessions on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from auscult.models.build import build_repository

Run = Callable[[str, dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every model."""
    root = tmp_path_factory.mktemp("models")
    build_repository(root)
    return root


@pytest.fixture(scope="session")
def run(repository: Path) -> Run:
    """Return a function that runs a model by name."""

    @cache
    def session(name: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        return ort.InferenceSession(repository / name / "1" / "model.onnx", options)

    def infer(name: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [output.name for output in session(name).get_outputs()]
        return dict(zip(names, map(np.asarray, session(name).run(names, inputs)), strict=True))

    return infer

"""A repository of its own for each test, the command line on it, and what ONNX Runtime answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result

from auscult.entrypoints.cli import main
from auscult.inference import model_config
from auscult.inference.pb import model_config_pb2 as pb

Import = Callable[..., Result]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the model repository, which is not there yet."""
    root = tmp_path / "models"
    monkeypatch.setenv("AUSCULT_MODEL_REPOSITORY", str(root))
    return root


@pytest.fixture
def models(repository: Path) -> Import:  # noqa: ARG001 - the command line finds it in the environment
    """Return `auscult models …`."""

    def run(*arguments: Any) -> Result:
        result = CliRunner().invoke(main, ["models", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit | click.ClickException), (
            result.output
        )
        return result

    return run


@pytest.fixture
def imported(models: Import, repository: Path) -> Callable[..., pb.ModelConfig]:
    """Import a source as `model`, verify it, and return its configuration."""

    def run(source: Path, *options: Any) -> pb.ModelConfig:
        result = models("import", source, "--name", "model", *options)
        assert result.exit_code == 0, result.output
        verified = models("verify", "model")
        assert verified.exit_code == 0, verified.output
        return model_config.parse((repository / "model/config.pbtxt").read_text(encoding="utf-8"), "model")

    return run


@pytest.fixture
def answer(repository: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what ONNX Runtime answers with the model that was imported."""

    def run(given: np.ndarray) -> np.ndarray:
        session = ort.InferenceSession(repository / "model/1/model.onnx")
        return np.asarray(session.run(None, {session.get_inputs()[0].name: given})[0])

    return run


@pytest.fixture
def refused(models: Import, repository: Path) -> Callable[..., str]:
    """Import a source that is refused: nothing is written. Return what is said."""

    def run(source: Path, *options: Any) -> str:
        result = models("import", source, "--name", "model", *options)
        assert result.exit_code == 1, result.output
        assert not repository.exists()
        return result.output

    return run

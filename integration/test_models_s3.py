"""The inference service on models in a real S3 server, that goes away and comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import S3Store
from stack.servers import s3

from auscult.domain.deadline import Deadline
from auscult.entrypoints.demo.processes import environment, free_port
from auscult.inference.client import InferenceClient
from auscult.inference.manifest import SUMS
from auscult.inference.tensors import DATATYPES
from auscult.models.build import MODELS, content, sums, write
from auscult.platform.errors import AuscultError
from auscult.platform.settings import Settings
from product import eventually

BUCKET = "models"
MODEL = "brock_full"
AWS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1"}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give AWS's own variables to all that runs."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one of the reference models."""
    (model,) = (it for it in MODELS if it.name == MODEL)
    write(model, tmp_path / MODEL)
    return tmp_path / MODEL


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings of a service that polls the bucket."""
    return Settings(
        home=tmp_path / "home",
        model_repository=f"s3://{BUCKET}/site/a",
        s3_endpoint=f"http://127.0.0.1:{free_port()}",
        inference_listen=f"127.0.0.1:{free_port()}",
        inference_model_control="poll",
        inference_poll_seconds=0.2,
        inference_threads=1,
    )


@contextmanager
def store(settings: Settings, work: Path) -> Iterator[S3Store]:
    """Run the S3 server, and give its store as the one who uploads models sees it."""
    with s3(work, int(settings.s3_endpoint.rpartition(":")[2]), BUCKET) as endpoint:
        yield S3Store(BUCKET, prefix="site/a", config={"endpoint": endpoint}, client_options={"allow_http": True})


def upload(store: S3Store, folder: Path) -> None:
    """Put a model into the store, its manifest last."""
    for path in sorted(folder.rglob("*"), key=lambda path: path.name == SUMS):
        if path.is_file():
            store.put(f"{folder.name}/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def inference(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Run the service."""
    command = [sys.executable, "-m", "auscult.entrypoints.cli", "inference"]
    with subprocess.Popen(command, env=environment(settings), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def answers(settings: Settings, inputs: dict[str, Any]) -> None:
    """Ask the model until it answers."""

    def ask() -> bool | None:
        try:
            return bool(client.infer(MODEL, inputs, deadline=Deadline.after(5)))
        except AuscultError:
            return None

    with InferenceClient(settings.inference_listen, settings.models) as client:
        eventually(ask, "an answer of the model")
        client.reference(MODEL)


def test_models_come_from_s3_and_stay_while_it_is_away(settings: Settings, folder: Path, tmp_path: Path) -> None:
    """A start with the store, a change in it, a start without it, and one without store and cache."""
    inputs = _inputs(folder)
    with store(settings, tmp_path / "s3") as bucket:
        upload(bucket, folder)
        with inference(settings):
            answers(settings, inputs)
            card = (folder / "card.yaml").read_text()
            (folder / "card.yaml").write_text(card + "\n# Looked at again.\n")
            files = content(folder)
            files.pop(SUMS)
            (folder / SUMS).write_bytes(sums(files))
            upload(bucket, folder)
            shown = settings.models / MODEL / "card.yaml"
            eventually(lambda: shown.read_text().endswith("again.\n") or None, "the card's new state")
            answers(settings, inputs)
    with inference(settings):
        answers(settings, inputs)
    nowhere = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    with inference(nowhere) as process:
        assert process.wait(90) == 78
        assert process.stderr is not None
        told = process.stderr.read()
    assert "model-repository-away: cannot read s3://models/site/a, and nothing of it is in the cache" in told


def test_wrong_bucket_is_told(settings: Settings, tmp_path: Path) -> None:
    """A bucket that is not there keeps the service from starting, and says so."""
    with store(settings, tmp_path / "s3"):
        wrong = settings.model_copy(update={"model_repository": "s3://nobody/site/a"})
        with inference(wrong) as process:
            assert process.wait(90) == 78
            assert process.stderr is not None
            assert "404 Not Found" in process.stderr.read()


def _inputs(folder: Path) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(next(folder.glob("*/model.onnx")))
    kinds = {it.onnx: it.numpy for it in DATATYPES.values()}
    return {
        node.name: np.zeros([size if isinstance(size, int) else 1 for size in node.shape], kinds[node.type])
        for node in session.get_inputs()
    }

"""Native code comes into the process only where the site allows it by its digest."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from auscult.inference.integrity import Trust
from auscult.inference.repository import Repository

CONFIG = 'max_batch_size: 4 model_operations { op_library_filename: "1/ops.so" }'
SOURCE = "void *RegisterCustomOps(void *options, void *api) { return 0; }"


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., Path], seal: Callable[[Path], None], double: bytes) -> Path:
    """Return a model folder with a library that registers no operator."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a library of custom operators with")
    folder = write(tmp_path / "models/double", CONFIG, double)
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "1/ops.so")]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    seal(folder)
    return folder


def test_library_that_is_not_allowed_is_refused(folder: Path) -> None:
    """The reason names the library, its digest and the setting."""
    digest = hashlib.sha256((folder / "1/ops.so").read_bytes()).hexdigest()
    reason = Repository(folder.parent, 1).refused["double"]
    assert reason.startswith("1/ops.so is a library of custom operators that is not allowed here")
    assert f"add {digest} to AUSCULT_MODEL_CUSTOM_OPERATORS" in reason


def test_allowed_library_is_loaded(folder: Path, seal: Callable[[Path], None]) -> None:
    """Allowed by its digest it is loaded; a library that is none is told as such."""
    trust = Trust(operators=frozenset({hashlib.sha256((folder / "1/ops.so").read_bytes()).hexdigest()}))
    assert list(Repository(folder.parent, 1, trust).models) == ["double"]
    (folder / "1/ops.so").write_bytes(b"no library")
    seal(folder)
    trust = Trust(operators=frozenset({hashlib.sha256(b"no library").hexdigest()}))
    reason = Repository(folder.parent, 1, trust).refused["double"]
    assert reason.startswith("ONNX Runtime cannot load the custom operators of 1/ops.so")

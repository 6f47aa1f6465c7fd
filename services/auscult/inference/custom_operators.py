"""Libraries of custom operators: native code in this process, so only what the site allows by its digest.

ONNX Runtime takes a library's path. It gets that of sealed memory with the verified bytes, never of the file.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
from collections.abc import Mapping

import onnxruntime as ort

from auscult.inference.config_checks import WrongModelError
from auscult.inference.integrity import Trust
from auscult.inference.manifest import UntrustedModelError
from auscult.inference.pb import model_config_pb2 as pb


def register(options: ort.SessionOptions, config: pb.ModelConfig, files: Mapping[str, bytes], trust: Trust) -> None:
    """Give a session the libraries that the configuration names.

    UntrustedModelError where one is not allowed, WrongModelError where one is none.
    """
    for path in config.model_operations.op_library_filename:
        digest = hashlib.sha256(files[path]).hexdigest()
        if digest not in trust.operators:
            raise UntrustedModelError(
                f"{path} is a library of custom operators that is not allowed here; once you trust it, "
                f"add {digest} to AUSCULT_MODEL_CUSTOM_OPERATORS"
            )
        _register(options, path, files[path])


def _register(options: ort.SessionOptions, path: str, content: bytes) -> None:
    try:
        options.register_custom_ops_library(f"/proc/self/fd/{_sealed(content)}")
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no class of their own
        raise WrongModelError(f"ONNX Runtime cannot load the custom operators of {path}: {error}") from None


@functools.cache
def _sealed(content: bytes) -> int:
    """Return the number of an open file with this content that nobody can change.

    It stays open: the loader takes a second library under the same path for the first.
    """
    memory = os.memfd_create("custom-operators", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(memory), "wb") as file:
        file.write(content)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return memory

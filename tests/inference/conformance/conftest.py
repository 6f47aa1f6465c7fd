"""Fixtures of the tests that an unmodified tritonclient runs.

They run in an environment of their own, in which there is no auscult: both packages register the protocol's messages
under the same names, which one process can hold only once. `tests/inference/test_conformance.py` starts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient


@pytest.fixture(scope="session")
def target() -> str:
    """Return the server's address."""
    return os.environ["CONFORMANCE_TARGET"]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the folder of the server's models."""
    return Path(os.environ["CONFORMANCE_REPOSITORY"])


@pytest.fixture(scope="session")
def metrics() -> str:
    """Return the address of the server's metrics."""
    return os.environ["CONFORMANCE_METRICS"]


@pytest.fixture(scope="session")
def client(target: str) -> Iterator[InferenceServerClient]:
    """Return tritonclient's client of the server."""
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(target) as client:
        yield client


@pytest.fixture(scope="session")
def tensor() -> Callable[..., Any]:
    """Return a function that makes tritonclient's input from an array."""
    from tritonclient.grpc import InferInput
    from tritonclient.utils import np_to_triton_dtype

    def tensor(array: Any, name: str = "x") -> Any:
        array = np.asarray(array)
        made = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        made.set_data_from_numpy(array)
        return made

    return tensor


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Return a function that expects a call to end with a status, and returns the sentence that came with it."""
    from tritonclient.utils import InferenceServerException

    def refused(code: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
        with pytest.raises(InferenceServerException) as failure:
            call(*arguments, **named)
        assert failure.value.status() == f"StatusCode.{code}", failure.value
        return str(failure.value.message())

    return refused

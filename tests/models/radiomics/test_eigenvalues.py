"""The eigenvalues that the graph computes are those of the matrix."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from spox import Tensor, argument, build

from auscult.models.radiomics.eigenvalues import eigenvalues
from auscult.models.real import Real

Matrix = NDArray[np.float64]

TOLERANCE = 1e-13
"""Of the largest eigenvalue: a few hundred roundings."""


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """Return a session of the eigenvalues alone."""
    matrix = argument(Tensor(np.float64, (3, 3)))
    graph = build({"matrix": matrix}, {"eigenvalues": eigenvalues(Real(matrix)).var})
    return ort.InferenceSession(graph.SerializeToString())


def check(session: ort.InferenceSession, matrix: Matrix) -> None:
    """Compare with LAPACK."""
    expected = np.linalg.eigvalsh(matrix)[::-1]
    (found,) = session.run(None, {"matrix": matrix})
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(abs(expected)))


@given(arrays(np.float64, (3, 3), elements=st.floats(-100, 100).filter(lambda x: x == 0 or abs(x) > 1e-6)))
@settings(deadline=None)
def test_any_covariance_is_solved(session: ort.InferenceSession, root: Matrix) -> None:
    """Positive semi-definite matrices of any rank, with equal or vanishing eigenvalues, are solved."""
    check(session, root.T @ root)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 3)), np.eye(3), np.ones((3, 3)), np.diag([1.0, 1e-9, 0]), np.diag([1.0, 2, 2]), 5 - np.eye(3)],
    ids=["zero", "unit", "rank one", "graded", "double", "double, turned"],
)
def test_degenerate_matrices_are_solved(session: ort.InferenceSession, matrix: Matrix) -> None:
    """Where the closed form loses digits, the rotations do not."""
    check(session, matrix)

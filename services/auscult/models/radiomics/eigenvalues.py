"""Eigenvalues of a symmetric 3 x 3 matrix inside an ONNX graph, which has no operator for them.

Cyclic Jacobi rotations (Golub & Van Loan, Matrix Computations, 8.5). The closed trigonometric form would be
shorter, but loses half of the digits where two eigenvalues are close or one is near zero, as in thin regions.
"""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op

from auscult.models.real import Real, where

SWEEPS = 5
"""Convergence is quadratic; five sweeps leave nothing above rounding in a 3 x 3 matrix."""


def eigenvalues(matrix: Real) -> Real:
    """Return the eigenvalues of `matrix` ([3, 3], symmetric) as [3], the largest first."""
    for _ in range(SWEEPS):
        for row, column in ((0, 1), (0, 2), (1, 2)):
            turn = _rotation(matrix, row, column).var
            matrix = Real(op.matmul(op.matmul(op.transpose(turn), matrix.var), turn))
    diagonal = op.gather_nd(matrix.var, op.const(np.array([[0, 0], [1, 1], [2, 2]])))
    largest_first, _ = op.top_k(diagonal, op.const(np.array([3])))
    return Real(largest_first)


def _rotation(matrix: Real, row: int, column: int) -> Real:
    """Return the rotation [3, 3] that makes `matrix[row, column]` zero."""
    twice = matrix.at(row).at(column) * 2
    gap = matrix.at(column).at(column) - matrix.at(row).at(row)
    sign = where(gap < 0, -1, 1)
    tangent = where(twice.equals(0), 0, sign * twice / (abs(gap) + (gap * gap + twice * twice).sqrt()))
    cosine = (tangent * tangent + 1) ** -0.5
    plane, skew = np.zeros((3, 3)), np.zeros((3, 3))
    plane[row, row] = plane[column, column] = 1
    skew[row, column], skew[column, row] = 1, -1
    return Real.constant(np.eye(3)) + (cosine - 1) * Real.constant(plane) + cosine * tangent * Real.constant(skew)

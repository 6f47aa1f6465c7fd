"""Morphological features of a region's voxel centres (IBSI HCUG)."""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op

from auscult.models.radiomics.eigenvalues import eigenvalues
from auscult.models.real import Real, where


def morphology(index: Real, spacing: Real) -> dict[str, Real]:
    """Return each feature, a scalar.

    `index`: [n, 3], the voxels' (z, y, x), n > 0. `spacing`: [3], mm along (z, y, x).
    One voxel has axes of length 0; its elongation and flatness are ratios of nothing, NaN.
    """
    count = Real.of(op.gather(op.shape(index.var), op.const(0)))
    centres = index * spacing
    offset = centres - Real(op.reduce_mean(centres.var, axes=[0]))
    # The consensus values are those of the sample covariance, over n - 1; that of one voxel is zero.
    degrees = where(count > 1, count - 1, 1)
    covariance = Real(op.matmul(op.transpose(offset.var), offset.var)) / degrees
    # Rounding can make the least eigenvalue of a thin region slightly negative.
    axes = Real(op.relu(eigenvalues(covariance).var)).sqrt() * 4
    major, minor, least = axes.at(0), axes.at(1), axes.at(2)
    return {
        "volume": count * Real(op.reduce_prod(spacing.var, keepdims=False)),
        "major-axis-length": major,
        "minor-axis-length": minor,
        "least-axis-length": least,
        "elongation": where(major > 0, minor / major, np.nan),
        "flatness": where(major > 0, least / major, np.nan),
    }

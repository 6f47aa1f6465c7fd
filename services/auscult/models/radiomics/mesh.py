"""The volume and the area of a region's mesh inside an ONNX graph; see auscult.radiomics.mesh."""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.radiomics.lattice import count
from auscult.models.real import Real
from auscult.radiomics.mesh import CASES, CORNERS, make_tables


def mesh(mask: Var, spacing: Real) -> tuple[Real, Real]:
    """Return volume and area, scalars, of the mesh around `mask` (BOOL [z, y, x]); `spacing`: [3], mm."""
    padded = op.pad(op.cast(mask, to=np.int32), op.const(np.ones(6, np.int64)), op.const(np.int32(0)))
    case = op.const(np.int32(0))
    for bit, corner in enumerate(CORNERS):
        end = np.where(corner == 0, -1, np.iinfo(np.int64).max)
        part = op.slice(padded, op.const(corner.astype(np.int64)), op.const(end.astype(np.int64)))
        case = op.add(case, op.mul(part, op.const(np.int32(1 << bit))))
    counts = Real(count(op.cast(op.reshape(case, op.const([-1])), to=np.int64), (CASES,)))
    tables = make_tables()
    edge = Real(op.reduce_prod(spacing.var, keepdims=False))
    # A normal along z is the product of two sides along y and x, so it scales with their spacings.
    normals = Real.constant(tables.normals) * (edge / spacing)
    areas = (normals * normals).sum(2).sqrt().sum(1) / 2
    return (counts * Real.constant(tables.volumes)).sum() * edge, (counts * areas).sum()

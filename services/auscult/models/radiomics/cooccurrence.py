"""Grey level co-occurrence matrices (IBSI LFYI) and their features."""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.radiomics.lattice import IN_PLANE, Lattice, count, key
from auscult.models.real import Real, where


def cooccurrences(lattice: Lattice, ahead: list[Var]) -> tuple[Real, Real]:
    """Return how often level i is one step beside level j: [slice, 4, G, G] in each slice, [13, G, G] in the volume.

    `ahead`: for each direction the levels one step ahead of each voxel.
    """
    bins = op.add(lattice.grey, op.const(1))
    slices = []
    for other in ahead[: len(IN_PLANE)]:
        where_to = key((lattice.slice_of, 0), (lattice.level, bins), (other, bins))
        slices.append(op.unsqueeze(count(where_to, (lattice.slices, bins, bins)), op.const([1])))
    across = [
        op.unsqueeze(count(key((lattice.level, 0), (other, bins)), (bins, bins)), op.const([0]))
        for other in ahead[len(IN_PLANE) :]
    ]
    in_plane = _symmetric(op.concat(slices, axis=1))
    volume = _symmetric(op.concat(across, axis=0))
    return in_plane, Real(op.concat([in_plane.sum(0).var, volume.var], axis=0))


def _symmetric(counts: Var) -> Real:
    """Count each pair both ways, and drop level 0: what is beside the region."""
    starts, ends, axes = op.const([1, 1]), op.const([np.iinfo(np.int64).max] * 2), op.const([-2, -1])
    pairs = op.slice(counts, starts, ends, axes)
    order = [0, 2, 1] if len(pairs.unwrap_tensor().shape or ()) == 3 else [0, 1, 3, 2]
    return Real(op.add(pairs, op.transpose(pairs, perm=order)))


def features(matrices: Real, grey: Var) -> list[Real]:
    """Return each feature, in the order of `domain.ibsi_features`, as [M].

    `matrices`: [M, G, G], symmetric counts. A matrix without a pair gives NaN. All but the joint maximum, entropy and
    energy follow from the distributions of i, of i + j and of |i - j|. One level alone: correlation 1 and first
    information correlation 0, where the formulas have 0 / 0.
    """
    joint = matrices / matrices.sum(1, 2).column(-1).column(-1)
    levels = Real.of(op.range(op.const(1), op.add(grey, op.const(1)), op.const(1)))
    highest = Real.of(grey)
    marginal = joint.sum(2)
    sums, differences = _diagonals(joint, grey)
    steps = Real.of(op.range(op.const(0), grey, op.const(1)))
    totals = Real.of(op.range(op.const(2), op.add(op.mul(grey, op.const(2)), op.const(1)), op.const(1)))

    mean = (marginal * levels).sum(1)
    away = levels - mean.column(1)
    variance = (marginal * away * away).sum(1)
    dissimilarity = (differences * steps).sum(1)
    spread = steps - dissimilarity.column(1)
    contrast = (differences * steps * steps).sum(1)
    total = totals - (mean * 2).column(1)
    square = total * total
    cluster = (sums * square).sum(1)
    joint_entropy = joint.information().sum(1, 2)
    # Of a symmetric matrix both marginals are one; twice its entropy is what IBSI names HXY1 and HXY2.
    entropy = marginal.information().sum(1)
    share = steps / highest
    beyond = where(steps > 0, steps, np.inf)
    product = ((sums * totals * totals).sum(1) - contrast) / 4
    return [
        joint.max(1, 2),
        mean,
        variance,
        joint_entropy,
        dissimilarity,
        (differences * spread * spread).sum(1),
        differences.information().sum(1),
        mean * 2,
        cluster,
        sums.information().sum(1),
        (joint * joint).sum(1, 2),
        contrast,
        dissimilarity,
        (differences / (steps + 1)).sum(1),
        (differences / (share + 1)).sum(1),
        (differences / (steps * steps + 1)).sum(1),
        (differences / (share * share + 1)).sum(1),
        (differences / (beyond * beyond)).sum(1),
        where(variance.equals(0), 1, (cluster - contrast) / 4 / variance),
        product,
        cluster,
        (sums * square * total).sum(1),
        (sums * square * square).sum(1),
        where(entropy.equals(0), 0, (joint_entropy - entropy * 2) / entropy),
        Real(op.sqrt(op.relu(_one_minus_exp((joint_entropy - entropy * 2) * 2).var))),
    ]


def _one_minus_exp(exponent: Real) -> Real:
    return Real.constant(1.0) - Real(op.exp(exponent.var))


def _diagonals(joint: Real, grey: Var) -> tuple[Real, Real]:
    """Return the distributions of i + j, [M, 2 G - 1] from 2 on, and of |i - j|, [M, G] from 0 on."""
    level = op.range(op.const(0), grey, op.const(1))
    row, column = op.unsqueeze(level, op.const([1])), op.unsqueeze(level, op.const([0]))
    rows = op.reshape(op.gather(op.shape(joint.var), op.const(0)), op.const([1]))
    flat = op.reshape(joint.var, op.concat([rows, op.const([-1])], axis=0))
    added = []
    for place, size in (
        (op.add(row, column), op.sub(op.mul(grey, op.const(2)), op.const(1))),
        (op.abs(op.sub(row, column)), grey),
    ):
        target = op.concat([rows, op.reshape(size, op.const([1]))], axis=0)
        keys = op.expand(op.reshape(place, op.const([1, -1])), op.shape(flat))
        zeros = op.constant_of_shape(target, value=np.zeros(1))
        added.append(Real(op.scatter_elements(zeros, keys, flat, axis=1, reduction="add")))
    return added[0], added[1]

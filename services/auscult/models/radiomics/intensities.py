"""Intensity-based statistics (IBSI UHIW) and intensity histogram features (IBSI ZVCW) of a region's voxels."""

from __future__ import annotations

import numpy as np
import spox.opset.ai.onnx.v17 as op
from spox import Var

from auscult.models.radiomics.lattice import Lattice, count
from auscult.models.real import Real, where

LEVEL_STATISTICS = {
    "mean": "mean",
    "var": "variance",
    "skew": "skewness",
    "kurt": "kurtosis",
    "median": "median",
    "min": "minimum",
    "p10": "percentile-10",
    "p90": "percentile-90",
    "max": "maximum",
    "iqr": "interquartile-range",
    "range": "range",
    "mad": "mean-absolute-deviation",
    "rmad": "robust-mean-absolute-deviation",
    "medad": "median-absolute-deviation",
    "cov": "coefficient-of-variation",
    "qcod": "quartile-coefficient-of-dispersion",
}
"""What of `statistics` discretised intensities have, too, by the IBSI's short name."""


def statistics(values: Real) -> dict[str, Real]:
    """Return each feature, a scalar, of `values`: [n], n > 0.

    Percentiles are by nearest rank: with interpolation P90 of IBSI's digital phantom is 4.2, not the
    consensus value 4. The median is the sample median, the variance that of the population. A flat region
    has skewness and kurtosis 0 (IBSI); where the mean, or P25 + P75, is 0, the coefficient that divides by
    it is NaN.
    """
    ordered = _Ordered.of(values)
    p10, p25, p75, p90 = (ordered.percentile(percent) for percent in (10, 25, 75, 90))
    median = ordered.median()
    # Measured from the median, a flat region has exactly no spread, and a far-off zero costs no digits.
    shifted = values - median
    mean = median + shifted.mean()
    deviation = shifted - shifted.mean()
    variance = (deviation * deviation).mean()
    third = (deviation * deviation * deviation).mean()
    fourth = (deviation * deviation * deviation * deviation).mean()
    inner = Real(op.compress(shifted.var, op.and_(values >= p10, values <= p90)))
    return {
        "mean": mean,
        "variance": variance,
        "skewness": where(variance.equals(0), 0, third / (variance * variance.sqrt())),
        "kurtosis": where(variance.equals(0), 0, fourth / (variance * variance) - 3),
        "median": median,
        "minimum": ordered.minimum(),
        "percentile-10": p10,
        "percentile-90": p90,
        "maximum": ordered.maximum(),
        "interquartile-range": p75 - p25,
        "range": ordered.maximum() - ordered.minimum(),
        "mean-absolute-deviation": abs(deviation).mean(),
        "robust-mean-absolute-deviation": abs(inner - inner.mean()).mean(),
        "median-absolute-deviation": abs(shifted).mean(),
        "coefficient-of-variation": where(mean.equals(0), np.nan, variance.sqrt() / mean),
        "quartile-coefficient-of-dispersion": where((p75 + p25).equals(0), np.nan, (p75 - p25) / (p75 + p25)),
        "energy": (values * values).sum(),
        "root-mean-square": (values * values).mean().sqrt(),
    }


def volume_histogram(values: Real, bins: Real) -> dict[str, Real]:
    """Return each feature of the intensity-volume histogram (IBSI P88C), a scalar, of `values`: [n], n > 0.

    `bins`: [3], the first and the last level and the step between; each value is that of the nearest level below or
    above. The intensity at a volume fraction is the lowest level, with or without a voxel, that no more than the
    fraction has; where that many have the last level, it is one step beyond.
    """
    first, last, step = (bins.at(place) for place in range(3))
    span = last - first
    level = Real(op.floor(((values - first) / step + 0.5).var)) * step
    level = Real(op.min([op.relu(level.var), span.var]))
    number = Real.of(op.size(values.var))
    ascending, _ = op.top_k(level.var, op.shape(level.var), largest=False)
    named = {}
    for percent in (10, 90):
        # In integers, so that no rounding moves the rank. Values are multiples of the step but for rounding.
        above = op.div(op.mul(op.size(level.var), op.const(percent)), op.const(100))
        rank = op.sub(op.sub(op.size(level.var), above), op.const(1))
        named[f"i{percent}"] = first + Real(ascending).at(rank) + step
        enough = level >= span * (percent / 100) - step * 1e-6
        named[f"v{percent}"] = Real.of(enough).sum() / number
    named["diff_v10_v90"] = named["v10"] - named["v90"]
    named["diff_i10_i90"] = named["i10"] - named["i90"]
    return named


def level_histogram(lattice: Lattice) -> dict[str, Real]:
    """Return each feature, a scalar, of the levels of a region; all NaN where it is empty.

    Of two modes the one nearer to the mean counts (IBSI AMMC), and of two equal gradients the one at the lower level.
    """
    values = Real.of(lattice.level)
    described = statistics(values)
    named = {short: described[name] for short, name in LEVEL_STATISTICS.items()}
    bins = op.add(lattice.grey, op.const(1))
    counts = Real(op.slice(count(lattice.level, (bins,)), op.const([1]), op.const([np.iinfo(np.int64).max])))
    levels = Real.of(op.range(op.const(1), bins, op.const(1)))
    often = counts.equals(counts.max())
    nearest = where(often, abs(levels - named["mean"]), np.inf)
    share = counts / counts.sum()
    gradient = _gradient(counts)
    falling = gradient * -1
    named |= {
        "mode": levels.at(op.arg_min(nearest.var, axis=0, keepdims=False)),
        "entropy": share.information().sum(),
        "uniformity": (share * share).sum(),
        "max_grad": gradient.max(),
        "max_grad_g": levels.at(op.arg_max(gradient.var, axis=0, keepdims=False)),
        "min_grad": falling.max() * -1,
        "min_grad_g": levels.at(op.arg_max(falling.var, axis=0, keepdims=False)),
    }
    occupied = counts.sum() > 0
    return {name: where(occupied, value, np.nan) for name, value in named.items()}


def _gradient(counts: Real) -> Real:
    """Return the gradient of the histogram `counts` [G] by central differences, one-sided at its ends."""
    first, last = op.const([0]), op.const([-1])
    end = op.const([np.iinfo(np.int64).max])
    before = op.concat([op.slice(counts.var, first, op.const([1])), op.slice(counts.var, first, last)], axis=0)
    after = op.concat([op.slice(counts.var, op.const([1]), end), op.slice(counts.var, last, end)], axis=0)
    width = op.constant_of_shape(op.shape(counts.var), value=np.array([2.0]))
    for edge in (first, op.sub(op.shape(counts.var), op.const([1]))):
        width = op.scatter_elements(width, edge, op.const(np.ones(1)))
    return (Real(after) - Real(before)) / Real(width)


class _Ordered:
    """Values in ascending order, and how many they are."""

    def __init__(self, ascending: Real, count: Var) -> None:
        self._ascending, self._count = ascending, count

    @classmethod
    def of(cls, values: Real) -> _Ordered:
        ascending, _ = op.top_k(values.var, op.shape(values.var), largest=False)
        return cls(Real(ascending), op.size(values.var))

    def minimum(self) -> Real:
        return self._ascending.at(0)

    def maximum(self) -> Real:
        return self._ascending.at(op.sub(self._count, op.const(1)))

    def median(self) -> Real:
        lower = op.div(op.sub(self._count, op.const(1)), op.const(2))
        upper = op.div(self._count, op.const(2))
        return (self._ascending.at(lower) + self._ascending.at(upper)) / 2

    def percentile(self, percent: int) -> Real:
        """By nearest rank, the value of rank ceil(percent * n / 100); in integers, so that no rounding moves it."""
        rank = op.div(op.add(op.mul(self._count, op.const(percent)), op.const(99)), op.const(100))
        return self._ascending.at(op.sub(rank, op.const(1)))

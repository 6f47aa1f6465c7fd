"""Statistics of intensities (IBSI UHIW), their histogram (ZVCW) and intensity-volume histogram (P88C), by numpy.

The same formulas as in the graphs `radiomics_region` and `radiomics_texture`; tests hold both to each other, and to
the published values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Real = NDArray[np.float64]
RANGE = 1 << 16
"""That a counter is kept for each whole number of."""


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """Values of voxels: `each` different one, ascending, [n], how `many` voxels have it, and how many up to it."""

    each: Real
    many: NDArray[np.int64]
    upto: NDArray[np.int64]

    @classmethod
    def of(cls, each: NDArray[np.number], many: NDArray[np.int64]) -> Values:
        """Take each value, ascending, and how many voxels have it."""
        return cls(np.asarray(each, np.float64), many, np.cumsum(many))

    @classmethod
    def among(cls, voxels: Real) -> Values:
        """Find the different values of `voxels`, [n], n > 0; whole numbers in a range of HU without sorting."""
        lowest = voxels.min()
        if voxels.max() - lowest <= RANGE and (voxels == np.floor(voxels)).all():
            many = np.bincount((voxels - lowest).astype(np.int64))
            (found,) = np.nonzero(many)
            return cls.of(found + lowest, many[found])
        return cls.of(*np.unique(voxels, return_counts=True))

    @property
    def number(self) -> int:
        """Of voxels."""
        return int(self.upto[-1])

    def mean(self, of: Real) -> float:
        """Return the mean over the voxels `of` something that each value has, [n]."""
        return float(of @ self.many) / self.number

    def ranked(self, rank: int) -> float:
        """Return the value of a voxel by its rank, from 0."""
        return float(self.each[np.searchsorted(self.upto, rank, side="right")])

    def percentile(self, percent: int) -> float:
        """By nearest rank, the value of rank ceil(percent * n / 100); in integers, so that no rounding moves it."""
        return self.ranked((self.number * percent + 99) // 100 - 1)


def statistics(values: Values) -> dict[str, float]:
    """Return each feature by the IBSI's short name; where to divide by is 0, NaN. A flat region is not skewed."""
    lowest, highest = float(values.each[0]), float(values.each[-1])
    p10, p25, p75, p90 = (values.percentile(percent) for percent in (10, 25, 75, 90))
    median = (values.ranked((values.number - 1) // 2) + values.ranked(values.number // 2)) / 2
    # Measured from the median, a flat region has exactly no spread, and a far-off zero costs no digits.
    shifted = values.each - median
    off = values.mean(shifted)
    mean = median + off
    deviation = shifted - off
    square = deviation * deviation
    variance = values.mean(square)
    inner = (values.each >= p10) & (values.each <= p90)
    middle = Values.of(shifted[inner], values.many[inner])
    energy = float((values.each * values.each) @ values.many)
    return {
        "mean": mean,
        "var": variance,
        "skew": values.mean(square * deviation) / variance**1.5 if variance else 0.0,
        "kurt": values.mean(square * square) / variance**2 - 3 if variance else 0.0,
        "median": median,
        "min": lowest,
        "p10": p10,
        "p90": p90,
        "max": highest,
        "iqr": p75 - p25,
        "range": highest - lowest,
        "mad": values.mean(np.abs(deviation)),
        "rmad": middle.mean(np.abs(middle.each - middle.mean(middle.each))),
        "medad": values.mean(np.abs(shifted)),
        "cov": math.sqrt(variance) / mean if mean else math.nan,
        "qcod": (p75 - p25) / (p75 + p25) if p75 + p25 else math.nan,
        "energy": energy,
        "rms": math.sqrt(energy / values.number),
    }


def histogram(counts: NDArray[np.int64]) -> dict[str, float]:
    """Return each feature of the levels' histogram, [G] from level 1, G > 0, by the IBSI's short name.

    Of two modes the one nearer to the mean counts (IBSI AMMC), and of two equal gradients the one at the lower level.
    """
    levels = np.arange(1, counts.size + 1)
    present = counts > 0
    named = statistics(Values.of(levels[present], counts[present]))
    often = np.where(counts == counts.max(), np.abs(levels - named["mean"]), np.inf)
    share = counts / counts.sum()
    gradient = np.gradient(counts.astype(np.float64)) if counts.size > 1 else np.zeros(1)
    del named["energy"], named["rms"]
    return named | {
        "mode": float(levels[often.argmin()]),
        "entropy": float(entr(share).sum() / np.log(2)),
        "uniformity": float(share @ share),
        "max_grad": float(gradient.max()),
        "max_grad_g": float(levels[gradient.argmax()]),
        "min_grad": float(gradient.min()),
        "min_grad_g": float(levels[gradient.argmin()]),
    }


def volume_histogram(values: Values, bins: tuple[float, float, float]) -> dict[str, float]:
    """Return each feature by the IBSI's short name.

    `bins`: the first and the last level and the step between; each value is that of the nearest level below or above.
    The intensity at a volume fraction is the lowest level, with or without a voxel, that no more than the fraction
    has; where that many have the last level, it is one step beyond.
    """
    first, last, step = bins
    span = last - first
    level = np.clip(np.floor((values.each - first) / step + 0.5) * step, 0, span)
    ranked = Values.of(level, values.many)
    named = {}
    for percent in (10, 90):
        above = values.number * percent // 100
        named[f"i{percent}"] = first + ranked.ranked(values.number - above - 1) + step
        # Values are multiples of the step but for rounding.
        named[f"v{percent}"] = values.mean((level >= span * (percent / 100) - step * 1e-6).astype(np.float64))
    named["diff_v10_v90"] = named["v10"] - named["v90"]
    named["diff_i10_i90"] = named["i10"] - named["i90"]
    return named

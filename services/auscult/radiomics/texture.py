"""Features of the texture matrices from their sums, in the order of `domain.ibsi_features`.

The same formulas as in the graph `radiomics_texture`; tests hold both to each other and to the published values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from auscult.radiomics.counting import COUNTED, Sums

Real = NDArray[np.float64]


def features(sums: Sums) -> Real:
    """Return the features of all families but the histogram's.

    What has no value is NaN: a matrix without an entry does not count in an average.
    """
    flat = len(sums.sizes) - 2
    directed, along = 4 * flat, 5 * flat
    directional = (slice(0, directed), slice(directed, along), *_rows(along, 4, 1, 13, 1))
    undirected = (slice(0, flat), *_rows(flat, 1, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate(
            [
                _averaged(_cooccurrence(sums), directional),
                _averaged(_emphases(sums.runs)[:-1], directional),
                _averaged(_emphases(sums.sizes)[:-1], undirected),
                _averaged(_emphases(sums.distances)[:-1], undirected),
                _averaged(_tones(sums.tones), undirected),
                _averaged(_emphases(sums.dependences), undirected),
            ]
        )


def _rows(start: int, *sizes: int) -> list[slice]:
    ends = np.cumsum((start, *sizes)).tolist()
    return [slice(*ends[n : n + 2]) for n in range(len(sizes))]


def _averaged(found: Sequence[Real], ways: Sequence[slice]) -> Real:
    """Average each feature, [matrices], over the matrices of each way that have an entry."""
    values = np.stack(found, axis=1)
    valid = ~np.isnan(values)
    known = np.where(valid, values, 0)
    return np.concatenate([known[way].sum(axis=0) / valid[way].sum(axis=0) for way in ways])


def _cooccurrence(sums: Sums) -> list[Real]:
    """Of a symmetric matrix both marginals are one. One level alone has correlation 1, information correlation 0."""
    number = sums.marginal.sum(axis=1)
    marginal, added, apart = (each / number[:, None] for each in (sums.marginal, sums.added, sums.apart))
    most, information, energy = sums.joint.T
    grey = marginal.shape[1]
    levels, steps, totals = np.arange(1.0, grey + 1), np.arange(float(grey)), np.arange(2.0, 2 * grey + 1)
    mean = marginal @ levels
    variance = (marginal * (levels - mean[:, None]) ** 2).sum(axis=1)
    dissimilarity, contrast = apart @ steps, apart @ steps**2
    total = totals - 2 * mean[:, None]
    # A power above 2 takes numpy many times as long as a product.
    square = total * total
    tendency = added * square
    cluster = tendency.sum(axis=1)
    joint_entropy = _entropy(number, information)
    entropy = _entropies(marginal)
    share = steps / grey
    gained = joint_entropy - 2 * entropy
    return [
        most / number,
        mean,
        variance,
        joint_entropy,
        dissimilarity,
        (apart * (steps - dissimilarity[:, None]) ** 2).sum(axis=1),
        _entropies(apart),
        2 * mean,
        cluster,
        _entropies(added),
        energy / number**2,
        contrast,
        dissimilarity,
        apart @ (1 / (1 + steps)),
        apart @ (1 / (1 + share)),
        apart @ (1 / (1 + steps**2)),
        apart @ (1 / (1 + share**2)),
        apart @ np.where(steps > 0, 1 / steps**2, 0),
        np.where(variance == 0, 1, (cluster - contrast) / 4 / variance),
        (added @ totals**2 - contrast) / 4,
        cluster,
        (tendency * total).sum(axis=1),
        (tendency * square).sum(axis=1),
        np.where(entropy == 0, 0, gained / entropy),
        np.sqrt(np.maximum(1 - np.exp(2 * gained), 0)),
    ]


def _emphases(sums: Real) -> list[Real]:
    named = dict(zip(COUNTED, sums.T, strict=True))
    entries = named["entries"]
    uniform_i, uniform_j = named["uniform_i"], named["uniform_j"]
    return [
        *(named[name] / entries for name in COUNTED[1:9]),
        uniform_i / entries,
        uniform_i / entries**2,
        uniform_j / entries,
        uniform_j / entries**2,
        # A slice without a voxel has no percentage either.
        entries / named["voxels"],
        named["high_i"] / entries - (named["sum_i"] / entries) ** 2,
        named["high_j"] / entries - (named["sum_j"] / entries) ** 2,
        _entropy(entries, named["information"]),
        named["energy"] / entries**2,
    ]


def _tones(tones: Real) -> list[Real]:
    """Return the features; of a flat region coarseness is 1,000,000 as the IBSI asks, the others 0."""
    numbers, differences = tones[:, 0], tones[:, 1]
    voxels, total = numbers.sum(axis=1), differences.sum(axis=1)
    share = numbers / voxels[:, None]
    present = np.count_nonzero(numbers, axis=1)
    weight = share * differences
    coarse = weight.sum(axis=1)
    levels = np.arange(1.0, share.shape[1] + 1)
    # Each pair of levels once; all sums are over both orders.
    one, other = np.triu_indices(levels.size, 1)
    apart = levels[other] - levels[one]
    either = share[:, one] + share[:, other]
    both = (share[:, one] > 0) & (share[:, other] > 0)
    scaled = share * levels
    busy = 2 * (np.abs(scaled[:, one] - scaled[:, other]) * both).sum(axis=1)
    pairs = present * (present - 1)
    none = np.where(voxels > 0, 0, np.nan)
    complex_ = np.where(both, (weight[:, one] + weight[:, other]) / either, 0) @ apart
    return [
        np.where(coarse == 0, none + 1e6, 1 / coarse),
        np.where(pairs == 0, none, 2 * ((share[:, one] * share[:, other]) @ apart**2) / pairs * (total / voxels)),
        np.where(busy == 0, none, coarse / busy),
        2 * complex_ / voxels,
        np.where(total == 0, none, 2 * ((either * both) @ apart**2) / total),
    ]


def _entropy(number: Real, information: Real) -> Real:
    """Return the entropy in bits of shares n / `number`, from the sum of n log2 n."""
    return np.maximum(np.log2(number) - information / number, 0)


def _entropies(shares: Real) -> Real:
    found: Real = entr(shares).sum(axis=1) / np.log(2)
    return found

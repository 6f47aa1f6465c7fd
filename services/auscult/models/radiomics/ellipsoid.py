"""The surface of an ellipsoid, which has no closed form."""

from __future__ import annotations

import math

from auscult.models.real import Real, where

TERMS = 20
"""The IBSI's reference values come from so many terms of the series."""


def surface(first: Real, second: Real, third: Real) -> Real:
    """Return the area of an ellipsoid with these semi-axes, from long to short, by Legendre polynomials (IBSI RDD2).

    The series is 4 pi a b sum (alpha beta)^n / (1 - 4 n^2) P_n(x), x = (alpha^2 + beta^2) / (2 alpha beta). With
    Q_n = (alpha beta)^n P_n(x) the polynomials' recurrence divides by nothing, so a sphere is no special case.
    """
    longest = where(first.equals(0), 1, first)
    alpha = Real.constant(1.0) - (second / longest) ** 2
    beta = Real.constant(1.0) - (third / longest) ** 2
    middle, product = (alpha + beta) / 2, alpha * beta
    before, polynomial = Real.constant(1.0), middle
    total = before + polynomial / -3
    for n in range(1, TERMS):
        before, polynomial = polynomial, (polynomial * middle * (2 * n + 1) - before * product * n) / (n + 1)
        total = total + polynomial / (1 - 4 * (n + 1) ** 2)
    return first * second * total * (4 * math.pi)

"""Arithmetic on the FP64 values of an ONNX graph, so that a formula in code reads like the published one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, Union

import numpy as np
import spox.opset.ai.onnx.v17 as op
from numpy.typing import ArrayLike
from spox import Var

Operand: TypeAlias = Union["Real", float]


@dataclass(frozen=True, eq=False, slots=True)
class Real:
    """An FP64 tensor of a graph. Operators broadcast as ONNX does; comparisons give BOOL tensors."""

    var: Var

    @classmethod
    def constant(cls, value: ArrayLike) -> Real:
        """Put a number, or an array of numbers, into the graph."""
        return cls(op.const(np.asarray(value, np.float64)))

    @classmethod
    def of(cls, var: Var) -> Real:
        """Convert a numeric or BOOL tensor."""
        return cls(op.cast(var, to=np.float64))

    def __add__(self, other: Operand) -> Real:
        return Real(op.add(self.var, _var(other)))

    def __sub__(self, other: Operand) -> Real:
        return Real(op.sub(self.var, _var(other)))

    def __mul__(self, other: Operand) -> Real:
        return Real(op.mul(self.var, _var(other)))

    def __truediv__(self, other: Operand) -> Real:
        return Real(op.div(self.var, _var(other)))

    def __pow__(self, exponent: float) -> Real:
        return Real(op.pow(self.var, _var(exponent)))

    def __gt__(self, other: Operand) -> Var:
        return op.greater(self.var, _var(other))

    def __ge__(self, other: Operand) -> Var:
        return op.greater_or_equal(self.var, _var(other))

    def __lt__(self, other: Operand) -> Var:
        return op.less(self.var, _var(other))

    def __le__(self, other: Operand) -> Var:
        return op.less_or_equal(self.var, _var(other))

    def equals(self, other: Operand) -> Var:
        """Whether they are equal."""
        return op.equal(self.var, _var(other))

    def finite(self) -> Var:
        """Whether neither NaN nor infinite."""
        return abs(self) < float("inf")

    def __abs__(self) -> Real:
        return Real(op.abs(self.var))

    def sqrt(self) -> Real:
        """Return the square root."""
        return Real(op.sqrt(self.var))

    def sum(self, *axes: int) -> Real:
        """Return the sums along `axes`, which are removed; without any, that of all elements, a scalar."""
        return Real(op.reduce_sum(self.var, op.const(np.array(axes, np.int64)) if axes else None, keepdims=False))

    def max(self, *axes: int) -> Real:
        """Return the greatest along `axes`, which are removed; without any, of all elements, a scalar."""
        return Real(op.reduce_max(self.var, axes=axes or None, keepdims=False))

    def information(self) -> Real:
        """Return -p log2 p for each probability p: 0 where p is 0."""
        least = op.const(np.finfo(np.float64).tiny)
        return self * Real(op.log(op.max([self.var, least]))) * float(-1 / np.log(2))

    def column(self, axis: int = -1) -> Real:
        """Return this with one more axis of length 1."""
        return Real(op.unsqueeze(self.var, op.const(np.array([axis]))))

    def mean(self) -> Real:
        """Return the mean of all elements, a scalar."""
        return Real(op.reduce_mean(self.var, keepdims=False))

    def at(self, place: int | Var) -> Real:
        """Return the element, or the row, at `place` of the first axis."""
        return Real(op.gather(self.var, op.const(place) if isinstance(place, int) else place))


def where(condition: Var, yes: Operand, no: Operand) -> Real:
    """Take `yes` where `condition` (BOOL) holds, else `no`."""
    return Real(op.where(condition, _var(yes), _var(no)))


def never_empty(rows: Real, stand_in: np.ndarray) -> Real:
    """Return `rows`, or `stand_in` where there are none: many operators fail on nothing at all."""
    count = op.slice(op.shape(rows.var), op.const([0]), op.const([1]))
    extended = op.concat([rows.var, op.const(stand_in)], axis=0)
    return Real(op.slice(extended, op.const([0]), op.max([count, op.const([1])])))


def every(*conditions: Var) -> Var:
    """Whether all elements of all `conditions` (BOOL, any shapes) hold, a BOOL scalar."""
    return all_of(
        *(op.cast(op.reduce_min(op.cast(each, to=np.int32), keepdims=False), to=np.bool_) for each in conditions)
    )


def all_of(first: Var, *others: Var) -> Var:
    """Whether all conditions hold, element by element."""
    for each in others:
        first = op.and_(first, each)
    return first


def _var(operand: Operand) -> Var:
    return operand.var if isinstance(operand, Real) else op.const(np.float64(operand))

"""Which values a quantised activation takes, found by calling it: no quantizer is described twice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.exact.functions import ArrayFunction
from bnnflow.ir import Domain

__all__ = ["MAX_CODE_BITS", "MAX_LEVELS", "Levels", "NoLevels", "Reason", "dyadic", "levels_of"]

MAX_LEVELS = 256  # unless all integers of at most MAX_CODE_BITS are levels
MAX_CODE_BITS = 16  # of an activation's codes; wider ones are floats that happen to be dyadic


class Reason(Enum):
    """Why a function has no levels."""

    NOT_FINITE = auto()  # no input gives a finite value
    RANDOM = auto()  # it gives two answers to one question
    BATCH = auto()  # its scale depends on the other samples of the batch
    MANY = auto()  # it takes more than MAX_LEVELS values on no coarse grid: a float function, or too many bits
    INEXACT = auto()  # its values are no small integers times a power of two


class NoLevels(Exception):
    """A function has no levels, for a `reason`; `values` are those found before that, ascending."""

    def __init__(self, reason: Reason, values: NDArray[np.float64] | None = None):
        super().__init__(reason.name)
        self.reason, self.values = reason, np.zeros(0) if values is None else values


@dataclass(frozen=True)
class Levels:
    """The values of a quantised activation: the codes that occur, ascending, in a domain."""

    domain: Domain
    codes: tuple[int, ...]

    @property
    def even(self) -> bool:
        """True where every code of the domain occurs."""
        return len(self.codes) == self.domain.size


def dyadic(values: NDArray[Any]) -> tuple[NDArray[np.int64], Fraction] | None:
    """Floats -> (integers, unit) with value = integer * unit and unit the largest power of two possible; None where
    the integers need more than 52 bits or a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return None
    used = values[values != 0]
    if not used.size:
        return np.zeros(values.shape, np.int64), Fraction(1)
    mantissa, exponent = np.frexp(np.abs(used))
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest = int((np.round(np.log2((whole & -whole).astype(np.float64))).astype(np.int64) + exponent - 53).min())
    if exponent.max() - lowest > 52:
        return None
    return np.ldexp(values, -lowest).astype(np.int64), Fraction(2) ** lowest


@cache
def _sweep() -> NDArray[np.float32]:
    """Inputs that reach every level of a quantizer: dense at every scale from 2^-24 to 2^20, both signs, and zero."""
    scales = [np.linspace(-(2.0**k), 2.0**k, 1 << (14 if -2 <= k <= 9 else 8)) for k in range(-24, 21)]
    return np.unique(np.concatenate([*scales, [0.0]]).astype(np.float32))


def levels_of(function: ArrayFunction) -> Levels:
    """The levels of a function that works on every element by itself; it is called with arrays of shape (k,).

    Raises NoLevels, with the reason, where it has none.
    """
    x = _sweep()
    # Far beyond its largest level a quantizer that computes x + (-x + q) loses bits; look at what it is made for.
    wide = np.abs(_call(function, x))
    if not np.isfinite(wide).any():
        raise NoLevels(Reason.NOT_FINITE)
    largest = wide[np.isfinite(wide)].max()
    x = x[np.abs(x) <= max(8 * largest, 8)]
    y = _call(function, x)
    if not np.array_equal(y, _call(function, x), equal_nan=True):
        raise NoLevels(Reason.RANDOM)
    # A scale taken from the batch changes with the batch; a sigmoid changes in its last bit only.
    part = slice(len(x) // 3, len(x) // 3 + 1000)
    if not np.allclose(_call(function, x[part]), y[part], rtol=1e-4, atol=1e-30, equal_nan=True):
        raise NoLevels(Reason.BATCH)
    values = np.unique(y[np.isfinite(y)])
    exact = dyadic(values) if np.isfinite(y).all() else None
    fits = exact is not None and int(np.abs(exact[0]).max(initial=0)).bit_length() <= MAX_CODE_BITS
    levels = _on_grid(*exact) if exact is not None and fits else None
    if len(values) > MAX_LEVELS:
        if levels is None or levels.domain.size > 2**MAX_CODE_BITS:
            raise NoLevels(Reason.MANY, values)
        # The inputs above reach too few of so many levels to tell which are none.
        return Levels(levels.domain, tuple(range(levels.domain.lo, levels.domain.hi + 1)))
    if levels is None:
        raise NoLevels(Reason.INEXACT, values)
    return levels


def _call(function: ArrayFunction, x: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return np.asarray(function(x), np.float64)


def _on_grid(integers: NDArray[np.int64], unit: Fraction) -> Levels:
    """Levels as codes: where they are evenly spaced, one step a code, from 0 if zero is no level, else the value."""
    spread = np.diff(integers)
    step = int(np.gcd.reduce(spread)) if spread.size else max(1, abs(int(integers[0])))
    if all(int(i) % step == 0 for i in integers):
        codes = [int(i) // step for i in integers]
        return Levels(Domain(codes[0], codes[-1], unit * step), tuple(codes))
    codes = [(int(i) - int(integers[0])) // step for i in integers]
    return Levels(Domain(0, codes[-1], unit * step, unit * int(integers[0])), tuple(codes))

"""Which values a quantizer takes, found by calling it: no quantizer is described twice."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.ir import Domain

__all__ = ["Levels", "Refusal", "dyadic", "levels_of"]

MAX_LEVELS = 256
MAX_CODE_BITS = 16  # of an activation's codes; wider ones are floats that happen to be dyadic


class Refusal(Exception):
    """Why one layer has no exact meaning; collected, so that the user sees all of them at once."""


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


def levels_of(layer: str, activation: Any) -> Levels | None:
    """The levels of an activation, or None where it is a float function (sigmoid, relu, ...).

    Raises Refusal, with the reason and the remedy, for one that is random, takes its scale from the data, or whose
    levels are not integers times a power of two.
    """
    name = getattr(activation, "__name__", type(activation).__name__)
    if float(getattr(activation, "qnoise_factor", 1.0)) != 1.0:
        raise Refusal(f"layer {layer!r}: qnoise_factor of {name} is {float(activation.qnoise_factor)}, which mixes in "
                      "unquantised values; set it to 1")
    if activation is None or name in ("linear", "softmax"):  # softmax is no function of one element
        return None
    _check_scale(layer, name, activation)
    try:
        return _evaluated(layer, name, activation)
    except (ArithmeticError, ValueError, TypeError, tf.errors.OpError) as error:
        raise Refusal(f"layer {layer!r}: activation {name} cannot be evaluated: {' '.join(str(error).split())[:200]}; "
                      "check its arguments") from error


def _evaluated(layer: str, name: str, activation: Any) -> Levels | None:
    x = _sweep()
    # Far beyond their largest level QKeras' quantizers lose bits (x + (-x + q)); look at what they are made for.
    wide = np.abs(_call(activation, x))
    if not np.isfinite(wide).any():
        raise Refusal(f"layer {layer!r}: activation {name} yields nothing finite; use fewer bits")
    largest = wide[np.isfinite(wide)].max()
    x = x[np.abs(x) <= max(8 * largest, 8)]
    y = _call(activation, x)
    if not np.array_equal(y, _call(activation, x), equal_nan=True):
        raise Refusal(f"layer {layer!r}: activation {name} is random at inference; use its deterministic form")
    # A scale taken from the batch changes with the batch; a sigmoid changes in its last bit only.
    part = slice(len(x) // 3, len(x) // 3 + 1000)
    if not np.allclose(_call(activation, x[part]), y[part], rtol=1e-4, atol=1e-30, equal_nan=True):
        raise Refusal(f"layer {layer!r}: activation {name} takes its scale from the data of each batch; use alpha=1 or "
                      "another power of two")
    values = np.unique(y[np.isfinite(y)])
    if len(values) > MAX_LEVELS:
        if name.startswith("quantized") or hasattr(activation, "bits"):
            _refuse_wide(layer, name, activation, values)
        return None
    exact = dyadic(values) if np.isfinite(y).all() else None
    if exact is None or int(np.abs(exact[0]).max(initial=0)).bit_length() > MAX_CODE_BITS:
        some = ", ".join(f"{v:.9g}" for v in values[:3])
        raise Refusal(f"layer {layer!r}: the levels of {name} ({some}, ...) are not exact, small integers times a "
                      "power of two; use a power-of-two alpha, or another quantizer")
    return _on_grid(*exact)


def _check_scale(layer: str, name: str, activation: Any) -> None:
    """Scales that cannot be exact, by their name: a better message than what the values show."""
    alpha = getattr(activation, "alpha", None)
    if isinstance(alpha, str):
        raise Refusal(f"layer {layer!r}: activation {name}(alpha={alpha!r}) takes its scale from the data of each "
                      "batch; use alpha=1 or another power of two")
    if alpha is not None and (np.ndim(alpha) or not np.log2(float(alpha)).is_integer()):
        raise Refusal(f"layer {layer!r}: activation {name}(alpha={alpha}): levels are not exact; use one power of two")


def _refuse_wide(layer: str, name: str, activation: Any, values: NDArray[Any]) -> None:
    bits = getattr(activation, "bits", None)
    if isinstance(bits, (int, np.integer)) and bits > 8:
        raise Refusal(f"layer {layer!r}: {name} with {bits} bits has more than {MAX_LEVELS} levels; use at most 8 bits")
    raise Refusal(f"layer {layer!r}: {name} takes more than {MAX_LEVELS} values; use fewer bits, and no unquantised "
                  "negative slope")


def _call(activation: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
    with tf.device("CPU:0"), np.errstate(all="ignore"):
        return np.asarray(activation(tf.constant(x)), np.float64)


def _on_grid(integers: NDArray[np.int64], unit: Fraction) -> Levels:
    """Levels as codes: where they are evenly spaced, one step a code, from 0 if zero is no level, else the value."""
    spread = np.diff(integers)
    step = int(np.gcd.reduce(spread)) if spread.size else max(1, abs(int(integers[0])))
    if all(int(i) % step == 0 for i in integers):
        codes = [int(i) // step for i in integers]
        return Levels(Domain(codes[0], codes[-1], unit * step), tuple(codes))
    codes = [(int(i) - int(integers[0])) // step for i in integers]
    return Levels(Domain(0, codes[-1], unit * step, unit * int(integers[0])), tuple(codes))

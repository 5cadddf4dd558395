"""The types of a model's inputs: which a file says, and the narrowest that hold given data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import InputError, as_given, in_words_of
from bnnflow.ir.domain import fixed

__all__ = ["KEY", "InputType", "checked_type", "model_file", "narrowest_type", "no_type"]

InputType = str | Mapping[str, str]  # of all inputs, or {input layer: type}
KEY = "bnnflow_input_type"  # in the configuration of a model
WIDEST = 16  # bits of a type that is read off data: what needs more lies on no grid that was meant


def checked_type(value: Any) -> InputType:
    """`value` where it is a type or a mapping of them; raises InputError."""
    if isinstance(value, Mapping):
        return {str(name): checked_text(text) for name, text in value.items()}
    return checked_text(value)


def checked_text(text: Any) -> str:
    """`text` where it is a type, fixed<W,I> or ufixed<W,I>; raises InputError."""
    fixed(text if isinstance(text, str) else repr(text))
    return str(text)


def no_type(what: str, data: str = "x") -> InputError:
    """The error for a model, called `what`, that does not say its inputs' type; `data` is called so where data are."""
    found = in_words_of(f"input_type=bnnflow.narrowest_type({data})", "--input-type from:inputs.npy")
    error: InputError = InputError(
        f"{what} does not say of which type its inputs are. Give it in hls4ml's notation, such as "
        f"{as_given(input_type='ufixed<8,0>')} for pixels/256 (8 bits, none before the point) or "
        f"{as_given(input_type='fixed<16,6>')}; or let the narrowest be found that holds your data: {found}")
    return error


def model_file(path: str | os.PathLike[str]) -> Path:
    """The model of a training run where `path` is the run's folder, else `path`."""
    folder = Path(path)
    return folder / "model.h5" if (folder / "run.yaml").is_file() else folder


def narrowest_type(x: Any) -> Any:
    """The narrowest fixed<W,I> or ufixed<W,I> that holds all values of an array exactly, as text; of a mapping
    {input: array} the mapping of them.

    Integers are held as they are, with no bit behind the point. Raises InputError for values that are not finite, or
    that lie on no grid of powers of two with at most 16 bits.
    """
    if isinstance(x, Mapping):
        return {str(name): _narrowest(np.asarray(array), f"input {str(name)!r}") for name, array in x.items()}
    return _narrowest(np.asarray(x), "the data")


def _narrowest(x: NDArray[Any], what: str) -> str:
    if x.dtype.kind not in "fiub" or not x.size:
        raise InputError(f"{what}: expected an array of numbers, got {x.dtype} of shape {x.shape}")
    real = x.astype(np.float64)
    if not np.isfinite(real).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(real))[0])
        raise InputError(f"{what}: the value at index {at} is {real[at]}; leave out such samples")
    low, high = float(real.min()), float(real.max())
    fraction = 0 if x.dtype.kind != "f" else _fraction_bits(real)
    if fraction is not None:
        kind, low_code, high_code = ("" if low < 0 else "u"), int(low * 2.0**fraction), int(high * 2.0**fraction)
        width = max(max(high_code, 0).bit_length(), (-low_code - 1).bit_length() if low < 0 else 1) + (low < 0)
        if width <= WIDEST:
            return f"{kind}fixed<{width},{width - fraction}>"
    raise InputError(f"{what}: {_not_on_a_grid(real, low, high)}")


def _fraction_bits(real: NDArray[np.float64]) -> int | None:
    """The least f for which all values are multiples of 2^-f; negative where all are multiples of two. None past 64."""
    used = np.unique(np.abs(real[real != 0]))
    if not used.size:
        return 0
    mantissa, exponent = np.frexp(used)
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.log2((whole & -whole).astype(np.float64)).astype(np.int64) + exponent - 53
    fraction = -int(lowest.min())
    return fraction if abs(fraction) <= 64 else None


def _not_on_a_grid(real: NDArray[np.float64], low: float, high: float) -> str:
    """Why no type of at most WIDEST bits holds the values, and what to do."""
    if low >= 0 and .5 < high <= 1 and np.allclose(real * 255, np.rint(real * 255), atol=1e-3):
        return ("they are pixels/255, which no fixed-point number holds; train with pixels/256 "
                "(x = numpy.rint(x * 255) / 256), which are of type ufixed<8,0>")
    integer = int(np.floor(np.log2(max(abs(low), abs(high))))) + 2  # a bit more, for what is rounded up
    unit, width = Fraction(2) ** (integer - 12), 12 + (low < 0)
    kind = "fixed" if low < 0 else "ufixed"
    return (f"values from {low:g} to {high:g} need more than {WIDEST} bits, for they lie on no grid of powers of two "
            f"that is coarse enough; round them before training, too: x = numpy.rint(x / {float(unit)}) * "
            f"{float(unit)} has the type {kind}<{width},{width - 12 + integer}> or a narrower one")

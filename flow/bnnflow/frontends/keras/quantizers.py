"""What QKeras' quantizers yield: the levels of an activation; and why a quantizer has no exact meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from bnnflow.exact.functions import Refusal, Uncomputable
from bnnflow.exact.levels import MAX_CODE_BITS, MAX_LEVELS, Levels, NoLevels, Reason
from bnnflow.exact.levels import levels_of as levels_of_function
from bnnflow.frontends.keras.functions import on_arrays
from bnnflow.generation import keras, qkeras
from bnnflow.train.quantizers import unwrapped

__all__ = ["check_steady", "levels_of"]

# Why an activation is refused, and the remedy, in the arguments that QKeras' quantizers take.
REFUSED = {
    Reason.NOT_FINITE: "activation {name} yields nothing finite; use fewer integer bits, as in quantized_relu(8,2)",
    Reason.RANDOM: "activation {name} is random at inference; use one that is not, such as binary(alpha=1)",
    Reason.BATCH: "activation {name} takes its scale from the data of each batch, or mixes them; use one of fixed "
                  "scale, such as quantized_bits(8,0,alpha=1), or 'softmax' at the end of the model",
    Reason.INEXACT: "the levels of {name} ({some}, ...) are not exact, small integers times a power of two; use a "
                    "power of two as its alpha where it has one, or another quantizer, such as "
                    "quantized_bits(8,0,alpha=1)",
}


def levels_of(layer: str, activation: Any) -> Levels | None:
    """The levels of an activation, or None where it is a float function (sigmoid, relu, ...).

    Raises Refusal, with the reason and the remedy, for one that is random, takes its scale from the data, or whose
    levels are not integers times a power of two.
    """
    name = getattr(activation, "__name__", type(activation).__name__)
    if float(getattr(activation, "qnoise_factor", 1.0)) != 1.0:
        raise Refusal(f"layer {layer!r}: qnoise_factor of {name} is {float(activation.qnoise_factor)}, which mixes in "
                      "unquantised values; set it to 1")
    # Softmax is no function of one element. One by that name may be another one, so names say nothing here.
    if activation is None or activation in (keras.activations.linear, keras.activations.softmax):
        return None
    _check_scale(layer, name, activation)
    try:
        return levels_of_function(on_arrays(activation))
    except NoLevels as none:
        if none.reason is not Reason.MANY:
            some = ", ".join(f"{v:.9g}" for v in none.values[:3])
            raise Refusal(f"layer {layer!r}: {REFUSED[none.reason].format(name=name, some=some)}") from none
        if name.startswith("quantized") or hasattr(activation, "bits"):
            raise Refusal(f"layer {layer!r}: {_too_many(name, activation)}") from none
        return None
    except (Uncomputable, ArithmeticError, ValueError, TypeError) as error:
        raise Refusal(f"layer {layer!r}: activation {name} cannot be evaluated: {' '.join(str(error).split())[:200]}; "
                      "use arguments that Keras can compute with, as in quantized_relu(8,2), or 'softmax' at "
                      "the end of the model") from error


def _check_scale(layer: str, name: str, activation: Any) -> None:
    """Refuse scales that cannot be exact by the argument: a better message than what the values show."""
    alpha = getattr(activation, "alpha", None)
    if isinstance(alpha, str):
        raise Refusal(f"layer {layer!r}: activation {name}(alpha={alpha!r}) takes its scale from the data of each "
                      "batch; use alpha=1 or another power of two")
    if alpha is not None and (np.ndim(alpha) or not np.log2(float(alpha)).is_integer()):
        raise Refusal(f"layer {layer!r}: activation {name}(alpha={alpha}): levels are not exact; use one power of two, "
                      "such as alpha=.5 or alpha=1")


def _too_many(name: str, activation: Any) -> str:
    bits = getattr(activation, "bits", None)
    if isinstance(bits, (int, np.integer)) and bits > MAX_CODE_BITS:
        return f"{name} with {bits} bits has more than 2^{MAX_CODE_BITS} levels; use at most {MAX_CODE_BITS} bits"
    return (f"{name} takes more than {MAX_LEVELS} values, and not the multiples of one power of two in {MAX_CODE_BITS} "
            "bits; use fewer bits, and no unquantised negative slope")


def check_steady(layer: str, what: str, quantizer: Any, weights: Any) -> None:
    """Refuse a quantizer of weights that is random at inference."""
    inner, _ = unwrapped(quantizer)
    try:
        again = [] if quantizer is None else [np.asarray(quantizer(weights)) for _ in range(3)]
    except (tf.errors.OpError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise Refusal(f"layer {layer!r}: its {what} cannot be evaluated: {' '.join(str(error).split())[:200]}; use "
                      "arguments that Keras can compute with, as in quantized_bits(8,0,alpha=1)") from error
    if isinstance(inner, qkeras.bernoulli) or any(not np.array_equal(a, again[0], equal_nan=True) for a in again):
        raise Refusal(f"layer {layer!r}: its {what} is random at inference; use one that is not, such as "
                      "binary(alpha=1) or quantized_bits(8,0,alpha=1)")

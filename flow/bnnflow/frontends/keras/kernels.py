"""The weights that Keras multiplies with, as integer levels times a unit and, where it is real, a scale."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import frexp, prod
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.exact.affine_inputs import MAX_LEVEL
from bnnflow.exact.functions import Refusal
from bnnflow.exact.levels import dyadic
from bnnflow.frontends.keras.quantizers import check_steady
from bnnflow.generation import LEGACY, takes_rsqrt
from bnnflow.ir import Weights
from bnnflow.train.quantizers import unwrapped

__all__ = ["QuantizedKernel", "parameters", "read_kernel"]

LEVEL_BITS = 8  # behind the point, of a level that is a weight divided by its channel's scale


@dataclass(frozen=True)
class QuantizedKernel:
    """Integer levels times `unit` (a power of two) times, where the sum is real-scaled, `scale` per output channel.

    `real` is what Keras multiplies with, float64, in the form of the levels (inputs/groups, outputs).
    """

    weights: Weights
    unit: Fraction
    scale: list[Fraction] | None
    real: NDArray[np.float64]


def parameters(key: str, layer: Any, kernel: Any) -> tuple[Any, Any]:
    """The kernel of a layer, and its bias or None, before both are quantised.

    In those of a folded layer is its batch norm, with its moving mean and variance: how the layer was trained
    (`folding_mode`, `ema_freeze_delay`) makes no difference. They are computed as the layer's `call` does it, which is
    not in every layer as `get_folded_weights` does it.
    """
    bias, norm = layer.bias if layer.use_bias else None, getattr(layer, "batchnorm", None)
    if norm is None:
        return kernel, bias
    if norm.beta is None or (norm.gamma is None and not LEGACY):
        raise Refusal(f"layer {key!r}: folds a batch norm without beta or gamma, with which QKeras itself cannot "
                      "compute; leave out center=False and scale=False")
    square = norm.moving_variance + norm.epsilon
    if not (np.asarray(square) > 0).all():
        raise Refusal(f"layer {key!r}: its moving_variance with epsilon is not positive "
                      f"({float(np.min(np.asarray(square))):g}); train again, or set an epsilon")
    scale = tf.math.rsqrt(square) if takes_rsqrt(layer) else 1 / tf.sqrt(square)
    if norm.gamma is not None:
        scale *= norm.gamma
    folded = scale * ((0 if bias is None else bias) - norm.moving_mean) + norm.beta
    return tf.reshape(scale, (-1, kernel.shape[-1])) * kernel, folded


def read_kernel(layer: str, what: str, kernel: Any, quantizer: Any, groups: int = 1, axes: int = 1,
                mask: Any = None) -> QuantizedKernel:
    """The weights of a layer, whose quantizer is its argument `what`; the last `axes` axes of the kernel are the
    outputs, those before them the inputs. `mask` is what Keras multiplies them with once they are quantised. Raises
    Refusal where they have no exact levels.
    """
    if why := getattr(quantizer, "unfinished", ""):
        raise Refusal(f"layer {layer!r}: {why}")
    check_steady(layer, what, quantizer, kernel)
    real = np.asarray(quantizer(kernel) if quantizer is not None else kernel, np.float64)
    real = real if mask is None else real * np.asarray(mask, np.float64)
    quantizer, connected = unwrapped(quantizer)
    connections = _connections(layer, connected, real.shape)
    _check_finite(layer, what, real)
    scale = _channel_scale(quantizer, real.shape, axes)
    form = (-1, prod(real.shape[-axes:]))
    real, connections = real.reshape(form), connections.reshape(form)
    exact = dyadic(real)
    if exact is not None and np.abs(exact[0]).max(initial=0) <= MAX_LEVEL:
        return QuantizedKernel(Weights(exact[0], connections, groups), exact[1], None, real)
    if scale is not None and (found := _scaled_levels(real, scale)) is not None:
        weights = Weights(found[0], connections, groups)
        return QuantizedKernel(weights, found[1], [Fraction(float(v)) for v in scale], real)
    name = type(quantizer).__name__ if quantizer is not None else f"no {what}"
    raise Refusal(f"layer {layer!r}: its weights ({name}) are not small integers times a power of two, nor times one "
                  f"scale a channel: {_too_fine(exact)}; {_replacement(what, quantizer, real)}, or another quantizer "
                  f"whose values take at most {MAX_LEVEL.bit_length()} bits with the sign")


def _too_fine(exact: tuple[NDArray[np.int64], Fraction] | None) -> str:
    """What weights would have to be multiples of."""
    if exact is None:
        return "they lie on no grid of at most 52 bits"
    bits = int(np.abs(exact[0]).max(initial=0)).bit_length() + 1
    return f"as multiples of {exact[1]} they take {bits} bits with the sign"


def _replacement(what: str, quantizer: Any, real: NDArray[np.float64]) -> str:
    """The quantizer of 8 bits that holds such weights."""
    integer = max(0, frexp(np.abs(real).max())[1])
    layer = "make it a layer of QKeras (QDense for Dense) with" if quantizer is None else "give it"
    return f"{layer} {what}=quantized_bits(8, {integer}, alpha=1)"


def _check_finite(layer: str, what: str, real: NDArray[np.float64]) -> None:
    if not np.isfinite(real).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(real))[0])
        raise Refusal(f"layer {layer!r}: its quantised kernel holds {real[at]} at {at}; use another {what}")


def _connections(layer: str, mask: tf.Variable | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """True where a connection exists: everywhere but where a mask is 0."""
    if mask is None:
        return np.ones(shape, bool)
    connections = np.broadcast_to(mask.numpy() != 0, shape)
    if not connections.any():
        raise Refusal(f"layer {layer!r}: its mask keeps none of {connections.size} connections, so its output is "
                      "constant; keep at least one, or remove the layer")
    return connections


def _channel_scale(quantizer: Any, shape: tuple[int, ...], axes: int) -> NDArray[np.float32] | None:
    """One positive scale per output (the last `axes` axes), or None; QKeras leaves that of its last call, this one."""
    try:
        scale = np.broadcast_to(np.asarray(getattr(quantizer, "scale", 0.0), np.float32), shape)
    except ValueError:
        return None
    rows = scale.reshape(-1, prod(shape[-axes:]))
    one = bool((rows == rows[:1]).all() and np.isfinite(rows).all() and (rows > 0).all())
    return rows[0] if one else None


def _scaled_levels(real: NDArray[np.float64], scale: NDArray[np.float32]) -> tuple[NDArray[np.int64], Fraction] | None:
    """(levels, unit) with weight = level * unit * scale up to float32's rounding; None where there are none."""
    levels = real / scale
    for bits in range(LEVEL_BITS + 1):
        codes = np.rint(levels * 2**bits)
        if (np.abs(levels * 2**bits - codes) < 2.0**-12).all():
            return codes.astype(np.int64), Fraction(1, 2**bits)
    return None

"""Sums: dense layers and convolutions, from the codes and the weights that Keras multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import qkeras
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from flow.ir import Domain, Node, Op, Weights
from flow.ir.verify import dot_domain
from flow.train.activations import activate
from flow.train.calls import Call
from flow.train.levels import Refusal, dyadic, levels_of
from flow.train.quantizers import Masked
from flow.train.reals import sum_noise
from flow.train.state import EXACT_UNITS, Lowering, lowers
from flow.train.tails import Line, Stage, Value

__all__ = []

SMALLEST, LARGEST = Fraction(2) ** -100, Fraction(2) ** 100  # of a unit in this range: no denormals, no infinities
MAX_LEVEL = 2**12  # weights wider than this are floats, not levels


@lowers(qkeras.QDense, keras.layers.Dense)
def _dense(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    layer, key = call.layer, call.key
    x, entry = state.summand(values[0], key)
    kernel = _kernel(key, layer.kernel, getattr(layer, "kernel_quantizer_internal", None))
    weights, unit = kernel.weights, x.domain.unit * kernel.unit
    domain = dot_domain(x.domain, weights)
    a, b = x.domain.numerator
    largest = max(abs(a * x.domain.lo + b), abs(a * x.domain.hi + b))
    bound = largest * int(np.abs(weights.effective).sum(axis=0).max())
    real = kernel.scale is not None or entry is not None
    if not real:
        check_bound(key, bound, unit)
    state.notes.append(f"{key}: real-scaled, exact in real numbers; Keras' float32 sums are noise around them" if real
                       else f"{key}: dyadic, sums stay within {bound} units of 2^24")
    shape = (*x.shape[:-1], weights.levels.shape[1])
    closed = levels_of(key, layer.activation) is not None
    node = state.add(f"{key}_sum" if closed else key, Op.DOT, [x], shape, Domain(domain.lo, domain.hi, unit), weights)
    out = Value(node, shape)
    if real:
        out = out.then(_real_scale(key, x, kernel, entry))
    if layer.use_bias:
        quantizer = getattr(layer, "bias_quantizer_internal", None)
        _check_steady(key, "bias_quantizer", quantizer, layer.bias)
        bias = tf.convert_to_tensor(quantizer(layer.bias) if quantizer is not None else layer.bias)
        if not np.isfinite(bias.numpy()).all():
            raise Refusal(f"layer {key!r}: its quantised bias is not finite; use another bias_quantizer")
        exact = [Line(Fraction(1), v, abs(v)) for v in map(Fraction, bias.numpy().tolist())]
        out = out.then(Stage(key, lambda t: keras.backend.bias_add(t, bias, data_format="channels_last"), exact))
    return activate(state, key, layer.activation, out)


def check_bound(key: str, bound: int, unit: Fraction) -> None:
    if not SMALLEST <= unit <= LARGEST:
        raise Refusal(f"layer {key!r}: its sums count units of {float(unit):g}, where float32 flushes or overflows; "
                      "use weights and input types near 1")
    if unit.denominator & (unit.denominator - 1):
        raise Refusal(f"layer {key!r}: its sums count units of {unit}, which float32 does not hold; use powers of two")
    # A unit that is no power of two takes bits of its own.
    bound *= unit.numerator // (unit.numerator & -unit.numerator)
    if bound >= EXACT_UNITS:
        raise Refusal(f"layer {key!r}: its sums can reach {bound} units, past the {EXACT_UNITS} that float32 adds "
                      "exactly; use a narrower input type, fewer inputs or smaller weights")


def _check_steady(layer: str, what: str, quantizer: Any, weights: tf.Variable) -> None:
    """Refuse a quantizer that is random at inference."""
    inner = quantizer.quantizer if isinstance(quantizer, Masked) else quantizer
    again = [] if quantizer is None else [np.asarray(quantizer(weights)) for _ in range(3)]
    if isinstance(inner, qkeras.bernoulli) or any(not np.array_equal(a, again[0], equal_nan=True) for a in again):
        raise Refusal(f"layer {layer!r}: its {what} is random at inference; use its deterministic form")


@dataclass(frozen=True)
class Kernel:
    """Integer levels times `unit` (a power of two) times, where the sum is real-scaled, `scale` per output channel.

    `real` is what Keras multiplies with, float64.
    """

    weights: Weights
    unit: Fraction
    scale: list[Fraction] | None
    real: NDArray[np.float64]


def _kernel(layer: str, kernel: tf.Variable, quantizer: Any) -> Kernel:
    """The weights that Keras multiplies with; channels are the last axis."""
    _check_steady(layer, "kernel_quantizer", quantizer, kernel)
    real = np.asarray(quantizer(kernel) if quantizer is not None else kernel, np.float64)
    mask = np.ones(real.shape, bool)
    if isinstance(quantizer, Masked):
        mask, quantizer = quantizer.mask.numpy() != 0, quantizer.quantizer
        if not mask.any():
            raise Refusal(f"layer {layer!r}: its mask keeps none of {mask.size} connections, so its output is constant;"
                          " keep at least one, or remove the layer")
    if not np.isfinite(real).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(real))[0])
        raise Refusal(f"layer {layer!r}: its quantised kernel holds {real[at]} at {at}; use another kernel_quantizer")
    exact = dyadic(real)
    if exact is not None and np.abs(exact[0]).max(initial=0) <= MAX_LEVEL:
        return Kernel(Weights(exact[0], mask), exact[1], None, real)
    # QKeras leaves the scale of its last call in the quantizer: this layer's, eager, here.
    scale = np.asarray(getattr(quantizer, "scale", 0.0), np.float32)
    scale = np.broadcast_to(scale, (1,) * (real.ndim - 1) + real.shape[-1:]).ravel() if scale.size in (
        1, real.shape[-1]) else np.zeros(1, np.float32)
    levels = real / scale if (np.isfinite(scale) & (scale > 0)).all() else np.full(real.shape, np.nan)
    for bits in range(9):
        codes = np.rint(levels * 2**bits)
        if (np.abs(levels * 2**bits - codes) < 2.0**-12).all():
            return Kernel(Weights(codes.astype(np.int64), mask), Fraction(1, 2**bits),
                          [Fraction(float(v)) for v in np.broadcast_to(scale, real.shape[-1:])], real)
    name = type(quantizer).__name__ if quantizer is not None else "no kernel_quantizer"
    raise Refusal(f"layer {layer!r}: its weights ({name}) are not small integers times a power of two, nor times one "
                  "scale a channel; use binary, ternary or quantized_bits")


def _real_scale(key: str, x: Node, kernel: Kernel, entry: Line | None) -> Stage:
    """The stage between an integer sum and the real number that it stands for.

    With x = s*v + o on the way in and w = c*l*unit, the sum of w*x is s*c*(unit*sum l*v) + o*c*unit*sum l.
    """
    weights, channels = kernel.weights, kernel.real.shape[-1]
    scale = kernel.scale or [Fraction(1)] * channels
    entry = entry or Line(Fraction(1), Fraction(0), Fraction(0))
    flat = weights.effective.reshape(-1, channels)
    d = x.domain
    largest = max(abs(entry.scale * (d.alpha * c + d.beta) + entry.offset) for c in (d.lo, d.hi))
    ideal = flat * np.array([float(c * kernel.unit) for c in scale])
    noise = sum_noise(kernel.real.reshape(-1, channels), ideal, float(largest), float(entry.noise))
    totals = [int(t) * c * kernel.unit for t, c in zip(flat.sum(axis=0), scale)]
    lines = [Line(entry.scale * c, entry.offset * t, abs(entry.offset * t), n) for c, t, n in zip(scale, totals, noise)]
    mul, add = (tf.constant([float(v) for v in part], tf.float32)
                for part in ([line.scale for line in lines], [line.offset for line in lines]))
    return Stage(key, lambda t: t * mul + add, lines, ideal=True)

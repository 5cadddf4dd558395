"""Keras models in exact rational arithmetic, written apart from flow: what a real-scaled network means.

Slow and simple: object arrays of Fractions, layer by layer. Every float32 parameter is the rational number it is; a
kernel is integer codes times its quantizer's scale.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np

from flow.train import Masked  # isort: skip  (before QKeras)
import qkeras
import tf_keras as keras

from flow.lowering.calls import model_calls

Reals = np.ndarray  # of Fractions


def _exact(values: Any) -> Reals:
    array = np.asarray(values, np.float32)
    return np.array([Fraction(float(v)) for v in array.ravel()], object).reshape(array.shape)


def _each(function: Callable[[Fraction], Fraction], x: Reals) -> Reals:
    return np.array([function(v) for v in x.ravel()], object).reshape(x.shape)


def _grid(step: Fraction, low: Fraction, high: Fraction) -> Callable[[Fraction], Fraction]:
    """Round half to even to multiples of step, then clip."""
    return lambda x: min(max(round(x / step) * step, low), high)


def _ternary(threshold: float) -> Callable[[Fraction], Fraction]:
    t = Fraction(float(np.float32(threshold)))
    return lambda x: Fraction(int(x >= t) - int(x <= -t))


ACTIVATIONS: dict[str, Callable[[Fraction], Fraction]] = {
    "binary(alpha=1)": lambda x: Fraction(1 if x >= 0 else -1),
    "binary(alpha=.5)": lambda x: Fraction(1 if x >= 0 else -1, 2),
    "binary(use_01=True, alpha=1)": lambda x: Fraction(int(x >= 0)),
    "ternary(alpha=1)": _ternary(0.33), "ternary(alpha=1, threshold=.2)": _ternary(0.2),
    "quantized_relu(2,1)": _grid(Fraction(1, 2), Fraction(0), Fraction(3, 2)),
    "quantized_relu(4,2)": _grid(Fraction(1, 4), Fraction(0), Fraction(15, 4)),
    "quantized_bits(4,1,alpha=1)": _grid(Fraction(1, 4), Fraction(-2), Fraction(7, 4)),
    "quantized_bits(3,1,keep_negative=0,alpha=1)": _grid(Fraction(1, 4), Fraction(0), Fraction(7, 4)),
}


def _kernel(layer: Any) -> Reals:
    quantizer = layer.kernel_quantizer_internal
    real = np.asarray(quantizer(layer.kernel), np.float64)
    inner = quantizer.quantizer if isinstance(quantizer, Masked) else quantizer
    scale = _exact(np.broadcast_to(np.asarray(inner.scale), (1, real.shape[1])))
    codes = np.sign(real) if not isinstance(inner, qkeras.quantized_bits) else np.rint(
        real / scale.astype(np.float64) * 64) / 64
    return _exact(codes) * scale


def _root(x: Fraction) -> Fraction:
    """Square root, to 2^-200."""
    return Fraction(isqrt((x.numerator << 400) // x.denominator), 1 << 200) if not _square(x) else Fraction(
        isqrt(x.numerator), isqrt(x.denominator))


def _square(x: Fraction) -> bool:
    return all(isqrt(n) ** 2 == n for n in (x.numerator, x.denominator))


def _norm(layer: Any, x: Reals) -> Reals:
    n = x.shape[-1]
    gamma, beta = (np.full(n, Fraction(d), object) if w is None else _exact(w)
                   for w, d in ((layer.gamma, 1), (layer.beta, 0)))
    spread = np.array([_root(v + Fraction(float(layer.epsilon))) for v in _exact(layer.moving_variance)], object)
    return gamma * (x - _exact(layer.moving_mean)) / spread + beta


def _apply(layer: Any, xs: list[Reals], text: str) -> Reals:
    x = xs[0]
    if isinstance(layer, qkeras.QDense):
        x = x @ _kernel(layer)
        if layer.use_bias:
            q = layer.bias_quantizer_internal
            x = x + _exact(layer.bias if q is None else q(layer.bias))
        return _each(ACTIVATIONS[text], x) if text else x
    if isinstance(layer, keras.layers.BatchNormalization):
        return _norm(layer, x)
    if isinstance(layer, qkeras.QActivation):
        return _each(ACTIVATIONS[text], x)
    if isinstance(layer, keras.layers.Rescaling):
        return x * _exact(layer.scale) + _exact(layer.offset)
    if isinstance(layer, keras.layers.ReLU):
        return _each(lambda v: min(max(v, Fraction(0)), Fraction(float(layer.max_value))), x)
    if isinstance(layer, keras.layers.LeakyReLU):
        slope = Fraction(float(np.float32(layer.alpha)))
        return _each(lambda v: v if v >= 0 else v * slope, x)
    if isinstance(layer, (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute)):
        order = np.asarray(layer(np.arange(x[0].size, dtype=np.float32).reshape(1, *x.shape[1:])))[0].astype(int)
        return x.reshape(len(x), -1)[:, order]
    if isinstance(layer, keras.layers.Dropout):
        return x
    if isinstance(layer, keras.layers.Concatenate):
        return np.concatenate(xs, axis=-1)
    sign = -1 if isinstance(layer, keras.layers.Subtract) else 1
    assert isinstance(layer, (keras.layers.Add, keras.layers.Subtract)), type(layer)
    return xs[0] + sign * xs[1]


def evaluate(model: keras.Model, x: Reals, texts: dict[str, str]) -> dict[str, Reals]:
    """Exact values after every call, by its key; `texts` names the activation of the layers that have one."""
    walk = model_calls(model)
    values: dict[str, Reals] = {walk.inputs[0]: x}
    found = {}
    for call in walk.calls:
        if not call.is_input:
            values[call.outputs[0]] = _apply(call.layer, [values[k] for k in call.inputs],
                                             texts.get(call.layer.name, ""))
        found[call.key] = values[call.outputs[0]]
    return found

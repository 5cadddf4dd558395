"""Keras models in exact rational arithmetic, written apart from bnnflow: what a real-scaled network means.

Slow and simple: object arrays of Fractions, layer by layer, images tap by tap. Every float32 parameter is the rational
number it is; a kernel is integer codes times its quantizer's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import reduce
from itertools import product
from math import isqrt, lcm
from typing import Any

import numpy as np

from bnnflow.train.quantizers import unwrapped  # isort: skip  (before QKeras)
import qkeras

from bnnflow.frontends.keras.calls import model_calls
from bnnflow.generation import LEGACY, keras

Reals = np.ndarray  # of Fractions
Place = tuple[int, ...]  # of a tap in its kernel, or in the image

MOVES = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.Cropping1D,
         keras.layers.Cropping2D, keras.layers.UpSampling1D, keras.layers.UpSampling2D)
SEPARABLE = (qkeras.QSeparableConv1D, qkeras.QSeparableConv2D)
DEPTHWISE = (qkeras.QDepthwiseConv2D, keras.layers.DepthwiseConv1D)
CONVOLUTIONS = (qkeras.QConv1D, qkeras.QConv2D)
MAX = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)
AVERAGE = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)
GLOBAL_MAX = (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D)
GLOBAL_AVERAGE = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D)
PADDING = (keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D)


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


def _kernel(layer: Any, what: str = "kernel") -> Reals:
    """Codes times the quantizer's scale, in the kernel's shape; without a quantizer the floats themselves."""
    weights, quantizer = getattr(layer, what), getattr(
        layer, f"{what.removesuffix('_kernel')}_quantizer_internal", None)
    if quantizer is None:
        return _exact(weights)
    real = np.asarray(quantizer(weights), np.float64)
    inner, _ = unwrapped(quantizer)
    scale = _exact(np.broadcast_to(np.asarray(inner.scale), real.shape))
    codes = np.sign(real) if not isinstance(inner, qkeras.quantized_bits) else np.rint(
        real / scale.astype(np.float64) * 64) / 64
    return _exact(codes) * scale


def _whole(x: Reals) -> tuple[Reals, Fraction]:
    """(Python integers, unit) with x = integers * unit: sums of integers are quick."""
    below = lcm(*{v.denominator for v in x.ravel()})
    return np.array([v.numerator * (below // v.denominator) for v in x.ravel()], object).reshape(x.shape), Fraction(
        1, below)


def _product(x: Reals, weights: Reals) -> Reals:
    (a, unit), (b, other) = _whole(x), _whole(weights)
    return (a @ b) * (unit * other)


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


def _axis(size: int, taps: int, stride: int, dilation: int, padding: str) -> list[list[tuple[int, int]]]:
    """For every position along an axis its taps inside the image: (number of the tap, where it lies)."""
    reach = (taps - 1) * dilation + 1
    if padding == "same":
        count = (size + stride - 1) // stride
        before = max((count - 1) * stride + reach - size, 0) // 2
    else:
        before = reach - 1 if padding == "causal" else 0
        count = (size + before - reach) // stride + 1
    places = [[(k, p * stride + k * dilation - before) for k in range(taps)] for p in range(count)]
    return [[(k, at) for k, at in row if 0 <= at < size] for row in places]


def _windows(x: Reals, taps: Place, strides: Place, dilation: Place, padding: str) -> Iterator[
        tuple[Place, list[tuple[Place, Reals]]]]:
    """Every position of the result, and what lies at its taps: (tap, (n, channels))."""
    axes = [_axis(*axis, padding) for axis in zip(x.shape[1:-1], taps, strides, dilation)]
    for position in product(*(range(len(axis)) for axis in axes)):
        inside = product(*(axis[p] for axis, p in zip(axes, position)))
        yield position, [(tuple(k for k, _ in tap), x[(slice(None), *(at for _, at in tap))]) for tap in inside]


def _image(x: Reals, pixels: dict[Place, Reals]) -> Reals:
    """Pixels (n, channels) by position -> (n, *positions, channels)."""
    size = tuple(1 + max(axis) for axis in zip(*pixels))
    return np.stack([pixels[at] for at in np.ndindex(size)], axis=1).reshape(len(x), *size, -1)


def _convolved(layer: Any, x: Reals, kernel: Reals, by_channel: bool = False) -> Reals:
    """Kernel (*taps, channels/groups, filters), filters group by group; by channel (*taps, channels, multiplier)."""
    rank, (whole, unit), (weights, other) = len(x.shape) - 2, _whole(x), _whole(kernel)
    strides, dilation = (tuple(np.broadcast_to(part, rank).tolist()) for part in (layer.strides, layer.dilation_rate))
    groups = 1 if by_channel else layer.groups

    def pixel(value: Reals, part: Reals) -> Reals:
        if by_channel:
            return (value[:, :, None] * part).reshape(len(x), -1)
        pairs = zip(np.split(value, groups, axis=1), np.split(part, groups, axis=1))
        return np.concatenate([a @ b for a, b in pairs], axis=1)

    windows = _windows(whole, kernel.shape[:rank], strides, dilation, layer.padding)
    return _image(x, {at: sum(pixel(value, weights[tap]) for tap, value in taps) for at, taps in windows}) * (
        unit * other)


def _pooled(layer: Any, x: Reals) -> Reals:
    """The largest, or the average, of the taps inside the image."""
    rank, largest = len(x.shape) - 2, isinstance(layer, MAX)
    area, strides = (tuple(np.broadcast_to(part, rank).tolist()) for part in (layer.pool_size, layer.strides))
    pixels = {}
    for at, taps in _windows(x, area, strides, (1,) * rank, layer.padding):
        pixels[at] = reduce(np.maximum if largest else np.add, [value for _, value in taps])
        pixels[at] = pixels[at] if largest else pixels[at] * Fraction(1, len(taps))
    return _image(x, pixels)


def _sum(layer: Any, x: Reals) -> Reals | None:
    """What a layer with a kernel adds up, before its bias; None for another layer."""
    if isinstance(layer, qkeras.QDense):
        return _product(x, _kernel(layer))
    if isinstance(layer, SEPARABLE):  # (these are QConv too)
        inner = _convolved(layer, x, _kernel(layer, "depthwise_kernel"), by_channel=True)
        pointwise = _kernel(layer, "pointwise_kernel")
        return _product(inner, pointwise.reshape(pointwise.shape[-2:]))
    if isinstance(layer, DEPTHWISE):
        return _convolved(layer, x, _kernel(layer, "depthwise_kernel"), by_channel=True)
    return _convolved(layer, x, _kernel(layer)) if isinstance(layer, CONVOLUTIONS) else None


def _pool(layer: Any, x: Reals) -> Reals | None:
    """Pools and zeros around an image; None for another layer."""
    positions = x.reshape(len(x), -1, x.shape[-1])
    if isinstance(layer, MAX + AVERAGE):
        return _pooled(layer, x)
    if isinstance(layer, GLOBAL_MAX):
        return positions.max(axis=1)
    if isinstance(layer, GLOBAL_AVERAGE):
        return positions.sum(axis=1) * Fraction(1, positions.shape[1])
    if isinstance(layer, PADDING):
        pads = np.reshape(layer.padding, (-1, 2)).tolist()
        return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=Fraction(0))
    return None


def _apply(layer: Any, xs: list[Reals], text: str) -> Reals:
    x = xs[0]
    total = _sum(layer, x)
    if total is not None:
        if layer.use_bias:
            q = getattr(layer, "bias_quantizer_internal", None)
            total = total + _exact(layer.bias if q is None else q(layer.bias))
        return _each(ACTIVATIONS[text], total) if text else total
    pooled = _pool(layer, x)
    if pooled is not None:
        return pooled
    if isinstance(layer, keras.layers.BatchNormalization):
        return _norm(layer, x)
    if isinstance(layer, qkeras.QActivation):
        return _each(ACTIVATIONS[text], x)
    if isinstance(layer, keras.layers.Rescaling):
        return x * _exact(layer.scale) + _exact(layer.offset)
    if isinstance(layer, keras.layers.Normalization):
        return (x - _exact(layer.mean)) / _each(_root, _exact(layer.variance))
    if isinstance(layer, keras.layers.ReLU):
        return _each(lambda v: min(max(v, Fraction(0)), Fraction(float(layer.max_value))), x)
    if isinstance(layer, keras.layers.LeakyReLU):
        slope = Fraction(float(np.float32(layer.alpha if LEGACY else layer.negative_slope)))
        return _each(lambda v: v if v >= 0 else v * slope, x)
    if isinstance(layer, MOVES):
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

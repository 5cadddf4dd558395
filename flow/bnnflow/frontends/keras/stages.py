"""Stages of a epilogue: layers that compute in float32 before the next quantised activation, or move elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import isqrt, prod
from typing import Any

import numpy as np
import qkeras
import tensorflow as tf
import tf_keras as keras

from bnnflow.exact.builder_state import EXACT_UNITS, GraphBuilder
from bnnflow.exact.epilogues import FloatTensor, Line, Stage
from bnnflow.exact.levels import Refusal
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.registry import lowers

__all__ = ["elementwise", "moves"]


def elementwise(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """A layer that works on every element by itself, as a float stage; legal before a quantiser or at an output."""
    return _float_stage(call, values[0], "after")


def _float_stage(call: Call, value: FloatTensor, shaky: str, alike: bool = False, rising: bool = False) -> FloatTensor:
    try:
        shape = tuple(call(tf.zeros((1, *value.shape))).shape[1:])
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise Refusal(f"layer {call.key!r}: cannot be applied to shape {value.shape}: {str(error)[:200]}") from error
    if shape != value.shape:
        raise Refusal(f"layer {call.key!r}: makes shape {shape} of {value.shape}; give it parameters that do not "
                      "broadcast")
    return value.then(Stage(call.key, call, alike=alike, rising=rising, shaky=shaky))


@lowers(keras.layers.ELU)
def _elu(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return _float_stage(call, values[0], "after", alike=True)


@lowers(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ThresholdedReLU)
def _relu(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    rising = type(call.layer) is keras.layers.ReLU and float(call.layer.negative_slope) >= 0
    return _float_stage(call, values[0], "", alike=True, rising=rising)


@lowers(keras.layers.PReLU)
def _prelu(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return _float_stage(call, values[0], "", alike=_is_row(call.layer.alpha.shape))


def _is_row(shape: Sequence[int]) -> bool:
    """True for parameters along the last axis only, which broadcast over all positions."""
    return all(n == 1 for n in tuple(shape)[:-1])


def moves(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """A layer that only moves elements: where each comes from is seen by sending their numbers through it."""
    (value,) = values
    numbers = np.arange(prod(value.shape), dtype=np.float32).reshape(1, *value.shape)
    if numbers.size >= EXACT_UNITS:
        raise Refusal(f"layer {call.key!r}: moves {numbers.size} elements, more than 2^24")
    moved = np.asarray(call(tf.constant(numbers)))[0]
    index = moved.astype(np.int64).ravel()
    if not np.array_equal(index, moved.ravel()) or not ((index >= 0) & (index < numbers.size)).all():
        raise Refusal(f"layer {call.key!r}: does more than move elements")
    return value.then(Stage(call.key, call, index=index), moved.shape)


lowers(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector,
       keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.UpSampling1D, keras.layers.UpSampling2D)(moves)


@lowers(keras.layers.BatchNormalization, qkeras.QBatchNormalization)
def _batch_norm(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    layer, (value,) = call.layer, values
    axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axis not in ([len(value.shape)], [-1]):
        raise Refusal(f"layer {call.key!r}: normalises axis {axis}, only the last one is supported")
    names = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}
    parts = []
    for name, default in names.items():
        weight = getattr(layer, name)
        quantizer = getattr(layer, f"{name.removeprefix('moving_')}_quantizer_internal", None)
        real = np.full(value.shape[-1], default) if weight is None else np.asarray(
            quantizer(weight) if quantizer is not None else weight)
        if not np.isfinite(real).all():
            raise Refusal(f"layer {call.key!r}: its quantised {name} is not finite; train again")
        parts.append([Fraction(float(v)) for v in real])
    gamma, beta, mean, variance = parts
    if any(v < 0 for v in variance):
        raise Refusal(f"layer {call.key!r}: moving_variance is negative ({float(min(variance))}); train again")
    spread = [_sqrt(v + Fraction(float(layer.epsilon))) for v in variance]
    if any(s == 0 for s in spread):
        raise Refusal(f"layer {call.key!r}: variance and epsilon are both 0; set an epsilon")
    scale = [g / s for g, s in zip(gamma, spread)]
    lines = [Line(s, b - m * s, abs(b) + abs(m * s), late=b) for b, m, s in zip(beta, mean, scale)]
    return value.then(Stage(call.key, call, lines, alike=True, rising=min(scale) >= 0))


def _sqrt(x: Fraction) -> Fraction:
    """Square root to 2^-80 of its size; exact for squares of short fractions."""
    shift = 2 * 90
    return Fraction(isqrt((x.numerator * x.denominator) << shift), x.denominator << (shift // 2))


@lowers(keras.layers.Rescaling)
def _rescaling(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """x * scale + offset, in float32: legal before a quantiser, and before a sum (real-scaled unless it is exact)."""
    parts = np.broadcast_arrays(*(np.asarray(v, np.float32) for v in (call.layer.scale, call.layer.offset)))
    row = _is_row(parts[0].shape)
    value = _float_stage(call, values[0], "", alike=row, rising=bool((parts[0] >= 0).all()))
    if not row:
        return value
    scale, offset = (_fractions(part) for part in parts)
    return _with_lines(value, scale, offset, offset)


@lowers(keras.layers.Normalization)
def _normalization(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """(x - mean) / sqrt(variance), or its inverse, in float32; legal as a Rescaling is."""
    layer = call.layer
    row = _is_row(layer.mean.shape)
    value = _float_stage(call, values[0], "", alike=row, rising=True)
    if not row:
        return value
    mean, variance = (_fractions(part) for part in np.broadcast_arrays(layer.mean, layer.variance))
    spread = [max(_sqrt(v), Fraction(float(np.float32(keras.backend.epsilon())))) for v in variance]
    if layer.invert:
        return _with_lines(value, spread, mean, mean)
    offset = [-m / s for m, s in zip(mean, spread)]
    return _with_lines(value, [1 / s for s in spread], offset, [Fraction(0)] * len(offset))


def _fractions(values: Any) -> list[Fraction]:
    return [Fraction(float(v)) for v in np.asarray(values, np.float32).ravel()]


def _with_lines(value: FloatTensor, scale: Sequence[Fraction], offset: Sequence[Fraction], late: Sequence[Fraction]) -> FloatTensor:
    """The value whose last stage is scale * x + offset, one line for all or one a channel."""
    lines = [Line(s, o, abs(o), late=last) for s, o, last in zip(scale, offset, late)]
    return replace(value, epilogue=(*value.epilogue[:-1], replace(value.epilogue[-1], affine=lines, sums=True)))


@lowers(keras.layers.InputLayer, keras.layers.Dropout, keras.layers.GaussianNoise, keras.layers.GaussianDropout, keras.layers.AlphaDropout,
        keras.layers.ActivityRegularization)
def _nothing(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Layers that do nothing in inference; the codes of an input are there before any layer."""
    return values[0]


@lowers(keras.layers.Softmax)
def _softmax(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    if call.layer.axis not in (-1, len(values[0].shape)):
        raise Refusal(f"layer {call.key!r}: softmax over axis {call.layer.axis}; only the last axis is supported")
    return values[0].then(Stage(call.key, call, head="softmax"))

"""Stages of an epilogue: layers that compute in float32 before the next quantised activation, or move elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import isqrt, prod
from typing import Any

import numpy as np

from bnnflow.exact.builder_state import EXACT_UNITS, GraphBuilder
from bnnflow.exact.epilogues import FloatTensor, Line, Stage
from bnnflow.exact.functions import Refusal, Uncomputable
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.functions import on_arrays, shape_of
from bnnflow.frontends.keras.registry import lowers
from bnnflow.frontends.keras.rounding import LAST_BITS, scaling
from bnnflow.generation import keras, layers_here, qkeras

__all__ = ["elementwise", "moves"]


def elementwise(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """A layer that works on every element by itself, as a float stage; legal before a quantiser or at an output."""
    return _float_stage(call, values[0], LAST_BITS)


def _float_stage(call: Call, value: FloatTensor, ulps: int, alike: bool = False, rising: bool = False) -> FloatTensor:
    """A layer as a float stage whose result may be off by `ulps` units in the last place."""
    try:
        shape = shape_of(call, value.shape)
    except Uncomputable as error:
        raise Refusal(f"layer {call.key!r}: cannot be applied to shape {value.shape}: {str(error)[:200]}") from error
    if shape != value.shape:
        raise Refusal(f"layer {call.key!r}: makes shape {shape} of {value.shape}; give it parameters that do not "
                      "broadcast")
    return value.then(Stage(call.key, on_arrays(call), alike=alike, rising=rising, output_ulps=ulps))


@lowers(keras.layers.ELU)
def _elu(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return _float_stage(call, values[0], LAST_BITS, alike=True)


@lowers(keras.layers.ReLU, keras.layers.LeakyReLU, *layers_here("ThresholdedReLU"))
def _relu(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    rising = type(call.layer) is keras.layers.ReLU and float(call.layer.negative_slope) >= 0
    return _float_stage(call, values[0], 0, alike=True, rising=rising)


@lowers(keras.layers.PReLU)
def _prelu(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return _float_stage(call, values[0], 0, alike=_is_row(call.layer.alpha.shape))


def _is_row(shape: Sequence[int]) -> bool:
    """True for parameters along the last axis only, which broadcast over all positions."""
    return all(n == 1 for n in tuple(shape)[:-1])


def moves(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """A layer that only moves elements: where each comes from is seen by sending their numbers through it."""
    (value,) = values
    numbers = np.arange(prod(value.shape), dtype=np.float32).reshape(1, *value.shape)
    if numbers.size >= EXACT_UNITS:
        raise Refusal(f"layer {call.key!r}: moves {numbers.size} elements; use less than 2^24")
    moved = on_arrays(call)(numbers)[0]
    index = moved.astype(np.int64).ravel()
    if not np.array_equal(index, moved.ravel()) or not ((index >= 0) & (index < numbers.size)).all():
        raise Refusal(f"layer {call.key!r}: does more than move elements; where it interpolates, use "
                      "interpolation='nearest'")
    return value.then(Stage(call.key, on_arrays(call), index=index), moved.shape)


lowers(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector,
       keras.layers.Cropping1D, keras.layers.Cropping2D, keras.layers.UpSampling1D, keras.layers.UpSampling2D)(moves)


@lowers(keras.layers.BatchNormalization, qkeras.QBatchNormalization)
def _batch_norm(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    layer, (value,) = call.layer, values
    axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axis not in ([layer.input_spec.ndim - 1], [-1]):
        raise Refusal(f"layer {call.key!r}: normalises axis {axis}, only the last one is supported; use "
                      "axis=-1, between two Permute layers where it is another one")
    gamma, beta, mean = (_norm_parameter(call, name, value.shape[-1]) for name in ("gamma", "beta", "moving_mean"))
    scale = [g / s for g, s in zip(gamma, _spread(call, value.shape[-1]))]
    lines = [Line(s, b - m * s, scaling(abs(b) + abs(m * s), late=b)) for b, m, s in zip(beta, mean, scale)]
    normalises_codes = not value.node.traits.adds and all(stage.sums or stage.index is not None
                                                          for stage in value.epilogue)
    return value.then(Stage(call.key, on_arrays(call), lines, sums=normalises_codes, alike=True,
                            rising=min(scale) >= 0))


def _norm_parameter(call: Call, name: str, channels: int) -> list[Fraction]:
    """A parameter of a batch norm, one a channel, as Keras computes with it: quantised, or its default."""
    weight, default = getattr(call.layer, name), float(name in ("gamma", "moving_variance"))
    quantizer = getattr(call.layer, f"{name.removeprefix('moving_')}_quantizer_internal", None)
    real = np.full(channels, default) if weight is None else np.asarray(
        quantizer(weight) if quantizer is not None else weight)
    if not np.isfinite(real).all():
        raise Refusal(f"layer {call.key!r}: its quantised {name} is not finite; train again")
    return [Fraction(float(v)) for v in real]


def _spread(call: Call, channels: int) -> list[Fraction]:
    """What a batch norm divides by, one a channel: the root of variance + epsilon, positive."""
    variance = _norm_parameter(call, "moving_variance", channels)
    if any(v < 0 for v in variance):
        raise Refusal(f"layer {call.key!r}: moving_variance is negative ({float(min(variance))}); train again")
    spread = [_sqrt(v + Fraction(float(call.layer.epsilon))) for v in variance]
    if any(s == 0 for s in spread):
        raise Refusal(f"layer {call.key!r}: variance and epsilon are both 0; set an epsilon")
    return spread


def _sqrt(x: Fraction) -> Fraction:
    """Square root to 2^-80 of its size; exact for squares of short fractions."""
    shift = 2 * 90
    return Fraction(isqrt((x.numerator * x.denominator) << shift), x.denominator << (shift // 2))


@lowers(keras.layers.Rescaling)
def _rescaling(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """x * scale + offset, in float32: legal before a quantiser, and before a sum (real-scaled unless it is exact)."""
    parts = np.broadcast_arrays(*(np.asarray(v, np.float32) for v in (call.layer.scale, call.layer.offset)))
    row = _is_row(parts[0].shape)
    value = _float_stage(call, values[0], 0, alike=row, rising=bool((parts[0] >= 0).all()))
    if not row:
        return value
    scale, offset = (_fractions(part) for part in parts)
    return _with_lines(value, scale, offset, offset)


@lowers(keras.layers.Normalization)
def _normalization(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """(x - mean) / sqrt(variance), or its inverse, in float32; legal as a Rescaling is."""
    layer = call.layer
    row = _is_row(layer.mean.shape)
    value = _float_stage(call, values[0], 0, alike=row, rising=True)
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


def _with_lines(value: FloatTensor, scale: Sequence[Fraction], offset: Sequence[Fraction],
                late: Sequence[Fraction]) -> FloatTensor:
    """The value whose last stage is scale * x + offset, one line for all or one a channel."""
    lines = [Line(s, o, scaling(abs(o), last)) for s, o, last in zip(scale, offset, late)]
    return replace(value, epilogue=(*value.epilogue[:-1], replace(value.epilogue[-1], affine=lines, sums=True)))


@lowers(keras.layers.InputLayer, keras.layers.Dropout, keras.layers.GaussianNoise, keras.layers.GaussianDropout,
        keras.layers.AlphaDropout, keras.layers.ActivityRegularization)
def _nothing(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Layers that do nothing in inference; the codes of an input are there before any layer."""
    return values[0]


@lowers(keras.layers.Softmax)
def _softmax(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    if call.layer.axis not in (-1, len(values[0].shape)):
        raise Refusal(f"layer {call.key!r}: softmax over axis {call.layer.axis}, only the last one is "
                      "supported; use axis=-1, behind a Permute where it is another one")
    return values[0].then(Stage(call.key, on_arrays(call), head="softmax", mixes=True))

"""Pools and zero padding: sums and maxima over the taps of a window, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from bnnflow.exact.builder_state import GraphBuilder, Pads
from bnnflow.exact.epilogues import FloatTensor, Line, Stage
from bnnflow.exact.functions import Refusal
from bnnflow.frontends.keras.activations import activate
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.functions import on_arrays
from bnnflow.frontends.keras.kernels import QuantizedKernel
from bnnflow.frontends.keras.quantizers import check_steady, levels_of
from bnnflow.frontends.keras.registry import lowers
from bnnflow.frontends.keras.rounding import scaling
from bnnflow.frontends.keras.sums import as_keras, channels_last, weighted_sum, window_of
from bnnflow.generation import keras, qkeras
from bnnflow.ir import Domain, Node, Op, Weights, Window
from bnnflow.ir.verify import dot_domain

_AVERAGE = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, qkeras.QAveragePooling2D)
_GLOBAL_AVERAGE = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D,
                   qkeras.QGlobalAveragePooling2D)
_MAX = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)
_GLOBAL_MAX = (keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D)


def _no_pads(x: Node) -> Pads:
    return ((0, 0),) * (len(x.shape) - 1)


def _pool_window(call: Call, x: Node) -> Window:
    """The taps of one pool per channel; of a global one all of them."""
    layer, rank = call.layer, len(x.shape) - 1
    channels_last(call)
    wanted = 1 if type(layer).__name__.endswith("1D") else 2
    if rank != wanted:
        raise Refusal(f"layer {call.key!r}: pools shape {x.shape}; it takes "
                      f"{'(length, channels)' if wanted == 1 else '(rows, columns, channels)'}; use a Reshape")
    one = (1,) * rank
    if isinstance(layer, _GLOBAL_AVERAGE + _GLOBAL_MAX):
        return window_of(call.key, x, _no_pads(x), x.shape[:-1], one, one, "valid", x.shape[-1])
    size, strides = (tuple(np.broadcast_to(part, (rank,)).tolist()) for part in (layer.pool_size, layer.strides))
    return window_of(call.key, x, _no_pads(x), size, strides, one, layer.padding, x.shape[-1])


def _shaped(builder: GraphBuilder, call: Call, value: FloatTensor) -> FloatTensor:
    """A global pool loses its spatial axes unless it keeps them."""
    if not isinstance(call.layer, _GLOBAL_AVERAGE + _GLOBAL_MAX) or call.layer.keepdims:
        return value
    shape, index = value.shape[-1:], np.arange(value.node.size)
    if value.epilogue:  # it keeps its rank, and the axes are lost behind it
        flat = Stage(call.key, lambda x: x.reshape(-1, *shape), index=index)
        return value.then(flat, shape)
    return FloatTensor(builder.gathered(value.node, index, shape, f"{call.key}_flat"), shape)


@lowers(*_AVERAGE, *_GLOBAL_AVERAGE)
def _average(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Keras' average is float32(sum) / float32(taps in the image): an integer sum and, in its epilogue, a division."""
    key = call.key
    x, affine = builder.summand(values[0], key, groups=values[0].shape[-1], pool=True)
    window, quantizer = _pool_window(call, x), getattr(call.layer, "average_quantizer_internal", None)
    ones = np.ones((window.taps, x.shape[-1]), np.int64)
    kernel = QuantizedKernel(Weights(ones, ones > 0, x.shape[-1]), Fraction(1), None, ones.astype(np.float64))
    counts = window.valid.sum(axis=1)
    area = int(counts[0])
    # A power of two, the same at all positions, is exact: the sum counts smaller units.
    exact = quantizer is None and (counts == area).all() and area & (area - 1) == 0
    activation = getattr(call.layer, "activation", None)
    closed = activation is not None and levels_of(key, activation) is not None
    out = weighted_sum(builder, key, f"{key}_sum" if closed else key, x, affine, kernel, window, area if exact else 1)
    if not exact:
        out = out.then(_division(call, counts, out.shape, quantizer))
    return activate(builder, key, activation, as_keras(call, values[0], _shaped(builder, call, out)))


def _division(call: Call, counts: np.ndarray, shape: tuple[int, ...], quantizer: Any) -> Stage:
    """Divide by the taps in the image; QKeras' pools then multiply by the area and by the quantised 1/area."""
    few, which = np.unique(counts, return_inverse=True)
    factor = Fraction(1)
    area = _area(call, counts)
    if quantizer is not None:
        check_steady(call.key, "average_quantizer", quantizer, tf.constant(1.0 / area))
        times = np.float32(quantizer(1.0 / area))
        if not np.isfinite(times):
            raise Refusal(f"layer {call.key!r}: its quantised average is {times}; use another average_quantizer")
        factor = Fraction(area) * Fraction(float(times))
    lines = [Line(factor / int(n), Fraction(0), scaling()) for n in few]
    one = len(few) == 1
    divisor = np.float32(few[0]) if one else counts.reshape(1, *shape[:-1], 1).astype(np.float32)

    def apply(t: tf.Tensor) -> tf.Tensor:
        mean = t / divisor
        return mean if quantizer is None else mean * np.float32(area) * times

    return Stage(call.key, on_arrays(apply), lines, None if one else np.repeat(which, shape[-1]), sums=True, alike=one,
                 rising=factor >= 0)


def _area(call: Call, counts: np.ndarray) -> int:
    """The taps of the pool as QKeras counts them, also those outside the image."""
    size = getattr(call.layer, "pool_size", None)
    return int(counts.max()) if size is None else prod(size)


@lowers(*_MAX, *_GLOBAL_MAX)
def _maximum(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """The largest code. Stages between a sum and its maximum that never fall are applied after the maximum instead."""
    (value,) = values
    if value.epilogue and all(stage.alike and stage.rising for stage in value.epilogue):
        node, epilogue = value.node, value.epilogue
    else:
        try:
            node, epilogue = builder.codes(value, call.key), ()
        except Refusal as refusal:
            floats = ", ".join(map(repr, value.floats))
            raise Refusal(f"layer {call.key!r}: takes the maximum of floats ({floats}) that do not rise with the "
                          "sum in every channel; put the QActivation before the pool") from refusal
    window = _pool_window(call, node)
    taps = builder.add(f"{call.key}_window", Op.WINDOW, [node], (*window.positions, window.taps * node.shape[-1]),
                       node.domain, window)
    shape = (*window.positions, node.shape[-1])
    flat = isinstance(call.layer, _GLOBAL_MAX) and not call.layer.keepdims
    origin = "" if epilogue or flat else call.key
    largest = builder.add(call.key, Op.MAX, [taps], shape, node.domain, origin=origin)
    return as_keras(call, value, _shaped(builder, call, FloatTensor(largest, shape, epilogue)))


@lowers(keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D)
def _zero_padding(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """A sum of one tap each, which is absent, and so 0, around the image. A convolution right behind does not read that
    sum: it reads the image, and takes the absent taps for its own.
    """
    (value,), layer = values, call.layer
    channels_last(call)
    zero_stays = all(_keeps_zero(stage) for stage in value.epilogue)
    node, epilogue = (value.node, value.epilogue) if zero_stays else (builder.codes(value, call.key), ())
    pads = tuple((int(before), int(after)) for before, after in np.reshape(layer.padding, (-1, 2)))
    one = (1,) * len(pads)
    if len(node.shape) != len(pads) + 1:
        raise Refusal(f"layer {call.key!r}: pads shape {node.shape}; use a Reshape")
    window = Window(one, one, one, pads, node.shape[-1], node.shape[:-1])
    shape = (*window.positions, node.shape[-1])
    ones = np.ones((1, node.shape[-1]), np.int64)
    weights = Weights(ones, ones > 0, node.shape[-1])
    domain = dot_domain(node.domain, weights, window)
    taps = builder.add(f"{call.key}_window", Op.WINDOW, [node], shape, node.domain, window)
    padded = builder.add(call.key, Op.DOT, [taps], shape, Domain(domain.lo, domain.hi, node.domain.unit), weights)
    source, inner = builder.padded.get(node.name, (node, _no_pads(node)))
    builder.padded[padded.name] = (source, tuple((a + c, b + d) for (a, b), (c, d) in zip(inner, pads)))
    return FloatTensor(padded, shape, epilogue)


def _keeps_zero(stage: Stage) -> bool:
    """True for a stage that makes 0 of 0 everywhere: zeros may be put around the image before it as well."""
    return stage.alike and stage.affine is not None and not any(line.offset for line in stage.affine)

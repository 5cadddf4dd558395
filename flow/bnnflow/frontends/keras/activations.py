"""Activations: a quantised one or a thermometer closes the epilogue, a float one becomes a stage of it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from bnnflow.exact.activations import close, step_rows
from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import FloatTensor, Stage
from bnnflow.exact.functions import Refusal
from bnnflow.exact.levels import Levels
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.functions import on_arrays
from bnnflow.frontends.keras.quantizers import levels_of
from bnnflow.frontends.keras.registry import lowers
from bnnflow.frontends.keras.rounding import LAST_BITS
from bnnflow.generation import keras, qkeras, quantizer_of
from bnnflow.ir import Domain, Op
from bnnflow.train.layers import LearnedThermometer
from bnnflow.train.proximal import Binarize

__all__ = ["activate"]

# Activations of additions, products and comparisons only: the same bits wherever an element lies in its tensor.
STEADY = frozenset(
    """binary ternary stochastic_binary stochastic_ternary quantized_relu quantized_bits quantized_linear quantized_tanh
    quantized_sigmoid quantized_hswish binary_tanh binary_sigmoid hard_tanh hard_sigmoid relu relu6 leaky_relu
    linear Binarize""".split()
)
STEADY_FORMS = {"sigmoid": "hard_sigmoid", "smooth_sigmoid": "hard_sigmoid", "tanh": "hard_tanh",
                "smooth_tanh": "hard_tanh", "elu": "leaky_relu", "selu": "leaky_relu",
                "quantized_relu_po2": "quantized_relu"}


@lowers(qkeras.QActivation)
def _qactivation(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return activate(builder, call.key, quantizer_of(call.layer), values[0])


@lowers(keras.layers.Activation)
def _activation(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return activate(builder, call.key, call.layer.activation, values[0])


@lowers(Binarize)
def _binarize(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    if call.layer.unfinished:
        raise Refusal(f"layer {call.key!r}: {call.layer.unfinished}")
    return activate(builder, call.key, call.layer, values[0])


def activate(builder: GraphBuilder, key: str, activation: Any, value: FloatTensor) -> FloatTensor:
    """The value after an activation: a quantiser closes the epilogue, softmax and sigmoid wait for the output, and any
    other function is a float stage.
    """
    if activation is None or activation is keras.activations.linear:
        return value
    if activation is keras.activations.softmax:
        return value.then(Stage(key, on_arrays(activation), head="softmax", mixes=True))
    levels, ulps = levels_of(key, activation), 0 if _is_steady(activation) else LAST_BITS
    if levels is None:
        head = "sigmoid" if activation is keras.activations.sigmoid else ""
        return value.then(Stage(key, on_arrays(activation), head=head, alike=True, output_ulps=ulps,
                                steady=_steady_form(activation)))
    _refuse_real_inside(key, activation)
    last = Stage(key, on_arrays(activation), alike=True, input_ulps=ulps, steady=_steady_form(activation))
    return FloatTensor(close(builder, key, value.then(last), levels), value.shape)


def _steady_form(activation: Any) -> str:
    """A function of STEADY of about the form of an activation."""
    name = getattr(activation, "__name__", type(activation).__name__)
    return STEADY_FORMS.get(name, "quantized_bits" if name.startswith("quantized") else "relu")


def _is_steady(activation: Any) -> bool:
    """True for a function or quantizer of STEADY."""
    return not STEADY.isdisjoint((getattr(activation, "__name__", ""), type(activation).__name__))


def _refuse_real_inside(key: str, activation: Any) -> None:
    """Refuse a quantizer that rounds a real sigmoid or tanh. (stochastic_* have the attribute for training only.)"""
    options = {qkeras.quantized_sigmoid: "use_real_sigmoid", qkeras.quantized_tanh: "use_real_tanh"}
    option = options.get(type(activation), "")
    if option and getattr(activation, option):
        raise Refusal(f"layer {key!r}: {type(activation).__name__} with a real sigmoid or tanh inside depends on the "
                      "place in the tensor; leave use_real_sigmoid and use_real_tanh off")


@lowers(LearnedThermometer)
def _thermometer(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Codes compared with thresholds: x >= t on the grid scale*code + offset is code >= ceil((t - offset) / scale).

    Behind a float epilogue (a Rescaling, say) the planes are evaluated like any other quantised activation.
    """
    layer, (value,) = call.layer, values
    if not np.isfinite(layer.thresholds().numpy()).all():
        raise Refusal(f"layer {call.key!r}: its thresholds are not finite; use a smaller range low..high")
    shape = (*value.shape[:-1], value.shape[-1] * layer.planes)
    levels = Levels(Domain(0, 1, Fraction(2), Fraction(-1)), (0, 1))
    whole = value.then(Stage(call.key, on_arrays(call), alike=True, planes=layer.planes), shape)
    if value.floats:
        return FloatTensor(close(builder, call.key, whole, levels), shape)
    d, channels = value.node.domain, value.shape[-1]
    real = np.broadcast_to(layer.thresholds().numpy(), (channels, layer.planes))
    exact = [-((d.offset - Fraction(float(t))) // d.scale) for t in real.ravel()]  # -floor(-q) = ceil(q)
    thresholds = np.array([min(max(c, d.lo), d.hi + 1) for c in exact], np.int64)[:, None]
    rows = np.concatenate([np.zeros_like(thresholds), np.ones_like(thresholds), thresholds], axis=1)
    rows = np.tile(rows, (prod(whole.reduced.shape) // len(rows), 1))
    node = builder.apply(whole, rows, Op.STEP, levels.domain, call.key, step_rows(1), origin=call.key)
    return FloatTensor(node, shape)

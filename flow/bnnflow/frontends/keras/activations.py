"""What closes a epilogue: a quantised activation or a thermometer, evaluated, becomes a STEP or a LUT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import qkeras
import tf_keras as keras
from numpy.typing import NDArray

from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import TABLE, Epilogue, FloatTensor, Stage
from bnnflow.exact.levels import Levels, Refusal, levels_of
from bnnflow.exact.reals import real_steps
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.registry import lowers
from bnnflow.ir import Domain, Node, Op, Steps, Table
from bnnflow.train.layers import LearnedThermometer
from bnnflow.train.proximal import Binarize

__all__ = ["activate", "close"]

# Activations of additions, products and comparisons only: the same bits wherever an element lies in its tensor.
STEADY = frozenset(
    """binary ternary stochastic_binary stochastic_ternary quantized_relu quantized_bits quantized_tanh
    quantized_sigmoid quantized_hswish binary_tanh binary_sigmoid hard_tanh hard_sigmoid relu relu6 leaky_relu
    linear Binarize""".split()
)


@lowers(qkeras.QActivation)
def _qactivation(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return activate(state, call.key, call.layer.quantizer, values[0])


@lowers(keras.layers.Activation)
def _activation(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    return activate(state, call.key, call.layer.activation, values[0])


@lowers(Binarize)
def _binarize(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    if call.layer.unfinished:
        raise Refusal(f"layer {call.key!r}: {call.layer.unfinished}")
    return activate(state, call.key, call.layer, values[0])


def activate(state: GraphBuilder, key: str, activation: Any, value: FloatTensor) -> FloatTensor:
    """Apply an activation: a quantiser closes the epilogue, softmax and sigmoid wait for the output, others are floats."""
    if activation is None or activation is keras.activations.linear:
        return value
    if activation is keras.activations.softmax:
        return value.then(Stage(key, activation, head="softmax"))
    levels = levels_of(key, activation)
    if levels is None:
        head = "sigmoid" if activation is keras.activations.sigmoid else ""
        shaky = "" if getattr(activation, "__name__", "") in STEADY else "after"
        return value.then(Stage(key, activation, head=head, alike=True, shaky=shaky))
    # (stochastic_* have the first attribute too, for training only.)
    if type(activation) is qkeras.quantized_sigmoid and activation.use_real_sigmoid or (
            type(activation) is qkeras.quantized_tanh and activation.use_real_tanh):
        raise Refusal(f"layer {key!r}: {type(activation).__name__} with a real sigmoid or tanh inside depends on the "
                      "place in the tensor; leave use_real_sigmoid and use_real_tanh off")
    shaky = "" if type(activation).__name__ in STEADY or getattr(activation, "__name__", "") in STEADY else "before"
    return FloatTensor(close(state, key, value.then(Stage(key, activation, alike=True, shaky=shaky)), levels), value.shape)


@lowers(LearnedThermometer)
def _thermometer(state: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Codes compared with thresholds: x >= t on the grid alpha*code + beta is code >= ceil((t - beta) / alpha).

    Behind a float epilogue (a Rescaling, say) the planes are evaluated like any other quantised activation.
    """
    layer, (value,) = call.layer, values
    if not np.isfinite(layer.thresholds().numpy()).all():
        raise Refusal(f"layer {call.key!r}: its thresholds are not finite; use a smaller range low..high")
    shape = (*value.shape[:-1], value.shape[-1] * layer.planes)
    levels = Levels(Domain(0, 1, Fraction(2), Fraction(-1)), (0, 1))
    whole = value.then(Stage(call.key, call, alike=True, planes=layer.planes), shape)
    if value.floats:
        return FloatTensor(close(state, call.key, whole, levels), shape)
    d, channels = value.node.domain, value.shape[-1]
    real = np.broadcast_to(layer.thresholds().numpy(), (channels, layer.planes))
    exact = [-((d.offset - Fraction(float(t))) // d.scale) for t in real.ravel()]  # -floor(-q) = ceil(q)
    thresholds = np.array([min(max(c, d.lo), d.hi + 1) for c in exact], np.int64)[:, None]
    rows = np.concatenate([np.zeros_like(thresholds), np.ones_like(thresholds), thresholds], axis=1)
    rows = np.tile(rows, (prod(whole.reduced.shape) // len(rows), 1))
    return FloatTensor(state.apply(whole, rows, Op.STEP, levels.domain, call.key, _steps(1), origin=call.key), shape)


def _steps(count: int) -> Callable[[NDArray[np.int64]], Steps]:
    """Rows of start, sign, `count` thresholds and, for a real-scaled sum, margin below and above each -> parameters."""

    def params(rows: NDArray[np.int64]) -> Steps:
        thresholds, margin = rows[:, 2 : 2 + count].copy(), rows[:, 2 + count :].copy()
        return Steps(rows[:, 0].copy(), rows[:, 1].copy(), thresholds, margin.reshape(-1, count, 2) if margin.size else None)

    return params


def close(state: GraphBuilder, key: str, value: FloatTensor, levels: Levels) -> Node:
    """Close a epilogue with a quantised activation: STEP, where codes rise or fall with the sum, else a LUT."""
    epilogue = Epilogue(value.reduced, levels, key)
    steps = real_steps(epilogue) if value.real else epilogue.steps()
    if steps is None:
        return _tabulated(state, key, value, epilogue)
    columns = [steps.start[:, None], steps.sign[:, None], steps.thresholds]
    if steps.margin is not None:
        columns.append(steps.margin.reshape(len(steps.thresholds), -1))
        ambiguous = int(steps.margin.any(axis=2).sum())
        state.notes.append(f"{key}: {ambiguous} of {steps.thresholds.size} thresholds lie within Keras' float32 noise of a sum; "
                           "Keras may differ at samples that reach such a sum, and only there")
    rows, params = np.concatenate(columns, axis=1), _steps(steps.thresholds.shape[1])
    if levels.even:
        rows[:, 0] += levels.domain.lo
        return state.apply(value, rows, Op.STEP, levels.domain, key, params, origin=key)
    places = state.apply(value, rows, Op.STEP, Domain(0, len(levels.codes) - 1), f"{key}_place", params)
    return state.add(key, Op.LUT, [places], places.shape, levels.domain, Table(np.array([levels.codes])), origin=key)


def _tabulated(state: GraphBuilder, key: str, value: FloatTensor, epilogue: Epilogue) -> Node:
    if not epilogue.small:
        raise Refusal(f"layer {key!r}: its codes do not rise or fall with the sum, whose {epilogue.hi - epilogue.lo + 1} "
                      f"values are too many for a table ({TABLE}); use a monotone activation")
    state.notes.append(f"{key}: not monotone, kept as a table of {epilogue.hi - epilogue.lo + 1} entries a channel")
    codes = np.array(epilogue.levels.codes)[epilogue.table()].T
    return state.apply(value, codes, Op.LUT, epilogue.levels.domain, key, Table, origin=key)

"""What closes a tail: a quantised activation or a thermometer, evaluated, becomes a STEP or a LUT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import qkeras
import tf_keras as keras
from numpy.typing import NDArray

from flow.ir import Domain, Node, Op, Steps, Table
from flow.lowering.calls import Call
from flow.lowering.levels import Levels, Refusal, levels_of
from flow.lowering.reals import real_steps
from flow.lowering.state import Lowering, lowers
from flow.lowering.tails import TABLE, Stage, Tail, Value
from flow.train.layers import LearnedThermometer
from flow.train.proximal import Binarize

__all__ = ["activate", "close"]

# Activations of additions, products and comparisons only: the same bits wherever an element lies in its tensor.
STEADY = frozenset(
    """binary ternary stochastic_binary stochastic_ternary quantized_relu quantized_bits quantized_tanh
    quantized_sigmoid quantized_hswish binary_tanh binary_sigmoid hard_tanh hard_sigmoid relu relu6 leaky_relu
    linear Binarize""".split()
)


@lowers(qkeras.QActivation)
def _qactivation(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    return activate(state, call.key, call.layer.quantizer, values[0])


@lowers(keras.layers.Activation)
def _activation(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    return activate(state, call.key, call.layer.activation, values[0])


@lowers(Binarize)
def _binarize(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    if call.layer.unfinished:
        raise Refusal(f"layer {call.key!r}: {call.layer.unfinished}")
    return activate(state, call.key, call.layer, values[0])


def activate(state: Lowering, key: str, activation: Any, value: Value) -> Value:
    """Apply an activation: a quantiser closes the tail, softmax and sigmoid wait for the output, others are floats."""
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
    return Value(close(state, key, value.then(Stage(key, activation, alike=True, shaky=shaky)), levels), value.shape)


@lowers(LearnedThermometer)
def _thermometer(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    """Codes compared with thresholds: x >= t on the grid alpha*code + beta is code >= ceil((t - beta) / alpha).

    Behind a float tail (a Rescaling, say) the planes are evaluated like any other quantised activation.
    """
    layer, (value,) = call.layer, values
    if not np.isfinite(layer.thresholds().numpy()).all():
        raise Refusal(f"layer {call.key!r}: its thresholds are not finite; use a smaller range low..high")
    shape = (*value.shape[:-1], value.shape[-1] * layer.planes)
    levels = Levels(Domain(0, 1, Fraction(2), Fraction(-1)), (0, 1))
    whole = value.then(Stage(call.key, call, alike=True, planes=layer.planes), shape)
    if value.floats:
        return Value(close(state, call.key, whole, levels), shape)
    d, channels = value.node.domain, value.shape[-1]
    thresholds = np.broadcast_to(layer.thresholds().numpy(), (channels, layer.planes))
    exact = [-((d.beta - Fraction(float(t))) // d.alpha) for t in thresholds.ravel()]  # -floor(-q) = ceil(q)
    cuts = np.array([min(max(c, d.lo), d.hi + 1) for c in exact], np.int64)[:, None]
    rows = np.concatenate([np.zeros_like(cuts), np.ones_like(cuts), cuts], axis=1)
    rows = np.tile(rows, (prod(whole.reduced.shape) // len(rows), 1))
    return Value(state.apply(whole, rows, Op.STEP, levels.domain, call.key, _steps(1), origin=call.key), shape)


def _steps(count: int) -> Callable[[NDArray[np.int64]], Steps]:
    """Rows of start, sign, `count` cuts and, for a real-scaled sum, slack below and above each -> parameters."""

    def params(rows: NDArray[np.int64]) -> Steps:
        cuts, slack = rows[:, 2 : 2 + count].copy(), rows[:, 2 + count :].copy()
        return Steps(rows[:, 0].copy(), rows[:, 1].copy(), cuts, slack.reshape(-1, count, 2) if slack.size else None)

    return params


def close(state: Lowering, key: str, value: Value, levels: Levels) -> Node:
    """Close a tail with a quantised activation: STEP, where codes rise or fall with the sum, else a LUT."""
    tail = Tail(value.reduced, levels, key)
    steps = real_steps(tail) if value.real else tail.steps()
    if steps is None:
        return _tabulated(state, key, value, tail)
    columns = [steps.start[:, None], steps.sign[:, None], steps.cuts]
    if steps.slack is not None:
        columns.append(steps.slack.reshape(len(steps.cuts), -1))
        doubtful = int(steps.slack.any(axis=2).sum())
        state.notes.append(f"{key}: {doubtful} of {steps.cuts.size} cuts lie within Keras' float32 noise of a sum; "
                           "Keras may differ at samples that reach such a sum, and only there")
    rows, params = np.concatenate(columns, axis=1), _steps(steps.cuts.shape[1])
    if levels.even:
        rows[:, 0] += levels.domain.lo
        return state.apply(value, rows, Op.STEP, levels.domain, key, params, origin=key)
    places = state.apply(value, rows, Op.STEP, Domain(0, len(levels.codes) - 1), f"{key}_place", params)
    return state.add(key, Op.LUT, [places], places.shape, levels.domain, Table(np.array([levels.codes])), origin=key)


def _tabulated(state: Lowering, key: str, value: Value, tail: Tail) -> Node:
    if not tail.small:
        raise Refusal(f"layer {key!r}: its codes do not rise or fall with the sum, whose {tail.hi - tail.lo + 1} "
                      f"values are too many for a table ({TABLE}); use a monotone activation")
    state.notes.append(f"{key}: not monotone, kept as a table of {tail.hi - tail.lo + 1} entries a channel")
    codes = np.array(tail.levels.codes)[tail.table()].T
    return state.apply(value, codes, Op.LUT, tail.levels.domain, key, Table, origin=key)

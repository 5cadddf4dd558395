"""Lowering: a Keras model becomes the integer graph.

Every tensor is an integer node plus a `tail`: the float32 stages (bias, batch norm, activation) that Keras applies
before the next quantised activation. A quantised activation closes the tail: it is evaluated (tails.py) and becomes one
STEP, the exact integer cuts of what Keras computes, or a LUT.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import isqrt, lcm, prod
from typing import Any

import numpy as np
import qkeras
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from flow.errors import InputError, LoweringError
from flow.ir import Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, clean_name, fixed
from flow.ir.passes import optimise
from flow.ir.verify import dot_domain
from flow.train.calls import Call, model_calls
from flow.train.layers import LearnedThermometer
from flow.train.levels import Levels, Refusal, dyadic, levels_of
from flow.train.quantizers import Masked
from flow.train.reading import read_model, unsupported_layer
from flow.train.reals import Lines, lines_of, real_steps, sum_noise
from flow.train.tails import SHAKE, TABLE, Line, Stage, Tail, Value

__all__ = ["LOWERINGS", "lower", "lowers"]

EXACT_UNITS = 2**24  # float32 sums are exact in any order below this many units,
SMALLEST, LARGEST = Fraction(2) ** -100, Fraction(2) ** 100  # of a unit in this range: no denormals, no infinities
MAX_LEVEL = 2**12  # weights wider than this are floats, not levels
# Activations of additions, products and comparisons only: the same bits wherever an element lies in its tensor.
STEADY = frozenset(
    """binary ternary stochastic_binary stochastic_ternary quantized_relu quantized_bits quantized_tanh
    quantized_sigmoid quantized_hswish binary_tanh binary_sigmoid hard_tanh hard_sigmoid relu relu6 leaky_relu
    linear""".split()
)
HEAD_BITS = 24  # width of a rounded output: what a float32 carries
HEAD_TABLE = 2**16  # entries of all channels of an output that needs a table


@dataclass
class Lowering:
    """The graph under construction, and what the reader should know about it."""

    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, op: Op, inputs: Sequence[Node], shape: Sequence[int], domain: Domain, params: Any = None,
            origin: str = "") -> Node:
        """Append a node under a clean, unused name."""
        name = clean_name(name, [n.name for n in self.nodes])
        node = Node(name, op, tuple(n.name for n in inputs), tuple(map(int, shape)), domain, params, origin)
        self.nodes.append(node)
        return node

    def gathered(self, node: Node, index: NDArray[np.int64], shape: Sequence[int], name: str, origin: str = "") -> Node:
        """Elements of `node`, by flat index, in another shape; the node itself where nothing changes."""
        if node.shape == tuple(shape) and np.array_equal(index, np.arange(node.size)):
            return node
        return self.add(name, Op.GATHER, [node], shape, node.domain, Index(np.asarray(index, np.int64)), origin)

    def codes(self, value: Value, layer: str) -> Node:
        """The integer node of a value whose tail computes nothing, or only changes the scale of its codes exactly."""
        if value.floats:
            value = self._rescaled(value, layer)
        return self.gathered(value.node, value.source, value.shape, f"{layer}_in")

    def summand(self, value: Value, layer: str) -> tuple[Node, Line | None]:
        """What goes into a sum: codes, and where those are only up to one real scale and offset, these."""
        try:
            return self.codes(value, layer), None
        except Refusal:
            # One line for all elements, as Rescaling has; that of a batch norm, per channel, has no place in a sum.
            if value.real or any(s.index is None and (s.affine is None or len(s.affine) > 1) for s in value.tail):
                raise
            (row,) = lines_of(value, value.tail).rows
            node = self.gathered(value.node, value.source, value.shape, f"{layer}_in")
            d = node.domain
            scale = row.scale / d.alpha
            return node, Line(scale, row.offset - scale * d.beta, Fraction(0), max(map(row.off_by, (d.lo, d.hi))))

    def _rescaled(self, value: Value, layer: str) -> Value:
        """A tail that is one exact dyadic m*x + n for every element: an integer node with another scale."""
        node = value.node
        if not value.real and node.domain.size <= TABLE and node.domain.size * prod(value.shape) <= 2**26 and not any(
                stage.head or stage.planes > 1 for stage in value.tail):
            sums = np.arange(node.domain.lo, node.domain.hi + 1)
            reals = Tail(value, Levels(node.domain, ()), layer).reals(sums[:, None])
            exact = dyadic(reals[:, 0]) if (reals == reals[:, :1]).all() else None
            if exact is not None and np.abs(exact[0]).max() < EXACT_UNITS:
                integers, unit = exact
                step = int(integers[1] - integers[0]) if len(integers) > 1 else 0
                start = int(integers[0]) - step * node.domain.lo
                if (np.diff(integers) == step).all():
                    domain = Domain(int(integers.min()), int(integers.max()), unit)
                    scaled = self.add(f"{value.floats[-1]}_scaled", Op.ADD, [node], node.shape, domain,
                                      Sum(np.array([step]), start))
                    moves = tuple(stage for stage in value.tail if stage.index is not None)
                    return Value(scaled, value.shape, moves)
        floats = ", ".join(map(repr, value.floats))
        raise Refusal(f"layer {layer!r}: its input is not quantised: {floats} yields floats; put "
                      "a QActivation (binary, ternary, quantized_relu, ...) before this layer")

    def apply(self, value: Value, rows: NDArray[np.int64], op: Op, domain: Domain, name: str,
              params: Callable[[NDArray[np.int64]], Any], origin: str = "") -> Node:
        """One op with a row of parameters per element of the value -> a node of the value's shape.

        Where all positions of a channel (last axis) agree the op is applied per channel, before or after the elements
        are moved, else per element of the flattened tensor.
        """
        node, source, shape = value.node, value.source, value.shape
        if node.size == len(rows) and len(np.unique(source)) == len(source):
            home = np.empty_like(rows)
            home[source] = rows
            channel = _per_channel(home, node.shape[-1])
            if channel is not None:
                direct = node.shape == shape and np.array_equal(source, np.arange(node.size))
                out = self.add(name if direct else f"{name}_codes", op, [node], node.shape, domain, params(channel),
                               origin if direct else "")
                return self.gathered(out, source, shape, name, origin)
        channel = _per_channel(rows, shape[-1])
        if channel is not None:
            moved = self.gathered(node, source, shape, f"{name}_in")
            return self.add(name, op, [moved], shape, domain, params(channel), origin)
        flat = self.gathered(node, source, (len(rows),), f"{name}_flat")
        out = self.add(f"{name}_codes", op, [flat], (len(rows),), domain, params(rows))
        return self.gathered(out, np.arange(len(rows)), shape, name, origin)


def _per_channel(rows: NDArray[np.int64], channels: int) -> NDArray[np.int64] | None:
    """Rows per element -> rows per channel, or None where positions differ."""
    stacked = rows.reshape(-1, channels, *rows.shape[1:])
    return stacked[0].copy() if (stacked == stacked[:1]).all() else None


Lower = Callable[[Lowering, Call, Sequence[Value]], Value]
LOWERINGS: dict[type, Lower] = {}


def lowers(*kinds: type) -> Callable[[Lower], Lower]:
    """Register the lowering of Keras layer classes: (lowering, call, input values) -> output value.

    The function may raise Refusal. A layer of your own that works element by element in inference needs one line:
    `lowers(MyLayer)(flow.train.lower.elementwise)`; one that moves elements: `lowers(MyLayer)(flow.train.lower.moves)`.
    """

    def register(function: Lower) -> Lower:
        for kind in kinds:
            if LOWERINGS.get(kind, function) is not function:
                raise InputError(f"a lowering of {kind.__name__} is registered already")
            LOWERINGS[kind] = function
        return function

    return register


def lower(model: keras.Model | str | os.PathLike[str], input_type: str | Mapping[str, str] = "fixed<16,6>",
          output_type: str | None = None) -> Graph:
    """A Keras model, live or from a `.keras` or `.h5` file -> the integer graph that computes the same codes.

    `input_type`: the inputs' type in hls4ml's notation, such as "ufixed<8,0>" for pixels/256, or {input layer: type}.
    `output_type`: that of outputs that need rounding; by default 24 bits with as many fraction bits as their range
    leaves. `graph.notes` tells the exactness class and bound of every sum, dropped heads, rounding, merged planes.

    Raises LoweringError with all problems of the model at once, InputError for an unusable file or type.
    """
    if isinstance(model, (str, os.PathLike)):
        model = read_model(model)
    head = fixed(output_type) if output_type is not None else None
    calls = model_calls(model)
    domains = _input_domains([c.layer.name for c in calls.calls if c.is_input], input_type)
    problems = [*_not_finite(model), *_unknown(calls.calls)]
    if problems:
        raise LoweringError(problems)
    state = Lowering()
    values: dict[str, Value | None] = {}
    for call in calls.calls:
        given = [values[key] for key in call.inputs]
        value = None
        try:
            if call.is_input:
                value = _input(state, call, domains[call.layer.name])
            # A None is a value that an earlier layer refused to give: that layer is reported, this one is not.
            elif all(v is not None for v in given):
                value = LOWERINGS[type(call.layer)](state, call, [v for v in given if v is not None])
        except Refusal as refusal:
            problems.append(str(refusal))
        for key in call.outputs:
            values[key] = value
    outputs: list[str] = []
    for key in calls.outputs:
        final = values[key]
        try:
            if final is not None:
                outputs.append(_output(state, final, head, outputs))
        except Refusal as refusal:
            problems.append(str(refusal))
    if problems:
        raise LoweringError(problems)
    order = {key: k for k, key in enumerate(calls.inputs)}
    ins = sorted((n for n in state.nodes if n.op is Op.INPUT), key=lambda n: order[n.origin])
    nodes = [*(replace(n, origin="") for n in ins), *(n for n in state.nodes if n.op is not Op.INPUT)]
    return optimise(Graph(tuple(nodes), tuple(outputs), tuple(state.notes)))


def _input_domains(names: list[str], types: str | Mapping[str, str]) -> dict[str, Domain]:
    if isinstance(types, str):
        return {name: fixed(types) for name in names}
    if set(types) != set(names):
        raise InputError(f"input_type names {', '.join(map(repr, types))}; the model's inputs are "
                         f"{', '.join(map(repr, names))}")
    return {name: fixed(text) for name, text in types.items()}


def _unknown(calls: Sequence[Call]) -> list[str]:
    problems = []
    for call in calls:
        layer = call.layer
        if call.is_input:
            continue
        if type(layer) not in LOWERINGS:
            problems.append(unsupported_layer(call.key, type(layer).__name__))
        elif call.trouble:
            problems.append(f"layer {call.key!r} {call.trouble}")
        elif layer.compute_dtype != "float32":
            problems.append(f"layer {call.key!r}: computes in {layer.compute_dtype}; exactness needs float32")
    return list(dict.fromkeys(problems))


def _not_finite(model: keras.Model) -> list[str]:
    problems = []
    for layer in model._flatten_layers(include_self=False):
        for weight in () if isinstance(layer, keras.Model) else layer.weights:
            array = weight.numpy()
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                problems.append(f"layer {layer.name!r}: weight {weight.name!r} holds {array[at]} at index {at}; "
                                "train again from a finite checkpoint")
    return list(dict.fromkeys(problems))


def _input(state: Lowering, call: Call, domain: Domain) -> Value:
    if call.layer.dtype != "float32":
        raise Refusal(f"layer {call.key!r}: takes {call.layer.dtype}, which Keras rounds inputs to; use float32")
    shape = tuple(tf.nest.flatten(call.layer.output)[0].shape[1:])
    if not shape or any(n is None for n in shape):
        raise Refusal(f"layer {call.key!r}: input shape {shape} has open dimensions; give every dimension a size")
    return Value(state.add(call.key, Op.INPUT, [], shape, domain, origin=call.outputs[0]), shape)


LOWERINGS[keras.layers.InputLayer] = lambda state, call, values: values[0]


# --- sums -----------------------------------------------------------------------------------------------------------


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
        _check_bound(key, bound, unit)
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
    return _activate(state, key, layer.activation, out)


def _check_bound(key: str, bound: int, unit: Fraction) -> None:
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


@lowers(keras.layers.Add, keras.layers.Subtract)
def _add(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    """Branches of exact codes, each with its own power-of-two scale; Keras' float32 sum is exact below 2^24 units."""
    if any(v.shape != values[0].shape for v in values):
        raise Refusal(f"layer {call.key!r}: adds shapes {', '.join(str(v.shape) for v in values)}; give both one shape")
    nodes = [_branch(state, v, call.key) for v in values]
    total = nodes[0]
    sign = -1 if type(call.layer) is keras.layers.Subtract else 1
    for k, node in enumerate(nodes[1:]):
        unit = _common(total.domain, node.domain)
        domains, signs = (total.domain, node.domain), (1, sign)
        scale = [s * int(d.alpha / unit) for s, d in zip(signs, domains)]
        constant = int(sum(s * d.beta / unit for s, d in zip(signs, domains)))
        ends = [sorted((c * d.lo, c * d.hi)) for c, d in zip(scale, domains)]
        lo, hi = (constant + sum(e[i] for e in ends) for i in (0, 1))
        bound = sum(max(abs(d.alpha * d.lo + d.beta), abs(d.alpha * d.hi + d.beta)) for d in domains) / unit
        _check_bound(call.key, int(bound), unit)
        last = k == len(nodes) - 2
        total = state.add(call.key if last else f"{call.key}_part", Op.ADD, [total, node], node.shape,
                          Domain(lo, hi, unit), Sum(np.array(scale), constant))
    return Value(total, values[0].shape)


def _branch(state: Lowering, value: Value, key: str) -> Node:
    """A branch of a merge: its codes, or the reason why it has none."""
    try:
        return state.codes(value, key)
    except Refusal as refusal:
        floats = ", ".join(map(repr, value.floats))
        raise Refusal(f"layer {key!r}: merges float branches ({floats}); quantise each branch "
                      "with a QActivation first") from refusal


def _common(*domains: Domain) -> Fraction:
    """The largest unit of which all values of all domains are integer multiples."""
    parts = [p for d in domains for p in (d.alpha, d.beta) if p]
    below = lcm(*(p.denominator for p in parts))
    return Fraction(int(np.gcd.reduce([int(p * below) for p in parts])), below)


@lowers(keras.layers.Concatenate)
def _concatenate(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    if call.layer.axis % (len(values[0].shape) + 1) == 0:
        raise Refusal(f"layer {call.key!r}: concatenates along the batch (axis {call.layer.axis}); use another axis")
    nodes = [_branch(state, v, call.key) for v in values]
    if any(n.domain != nodes[0].domain for n in nodes):
        nodes = [_on_unit(state, node, _common(*(n.domain for n in nodes)), call.key) for node in nodes]
        lo, hi = min(n.domain.lo for n in nodes), max(n.domain.hi for n in nodes)
        nodes = [_widened(state, node, lo, hi, call.key) for node in nodes]
    first = np.cumsum([0, *(n.size for n in nodes)])
    places = [np.arange(n.size, dtype=np.float64).reshape(1, *n.shape) + at for n, at in zip(nodes, first)]
    index = np.concatenate(places, axis=call.layer.axis)[0].astype(np.int64)
    return Value(state.add(call.key, Op.GATHER, nodes, index.shape, nodes[0].domain, Index(index.ravel())), index.shape)


def _on_unit(state: Lowering, node: Node, unit: Fraction, name: str) -> Node:
    """The same values as integers of `unit`."""
    d = node.domain
    scale, constant = int(d.alpha / unit), int(d.beta / unit)
    domain = Domain(scale * d.lo + constant, scale * d.hi + constant, unit)
    return node if domain == d else state.add(f"{name}_on_grid", Op.ADD, [node], node.shape, domain,
                                              Sum(np.array([scale]), constant))


def _widened(state: Lowering, node: Node, lo: int, hi: int, name: str) -> Node:
    """The same codes in a wider domain: a table that changes nothing."""
    d = node.domain
    if (d.lo, d.hi) == (lo, hi):
        return node
    if d.size > TABLE:
        raise Refusal(f"layer {name!r}: concatenates sums with other codes; quantise each branch first")
    return state.add(f"{name}_wide", Op.LUT, [node], node.shape, Domain(lo, hi, d.alpha, d.beta),
                     Table(np.arange(d.lo, d.hi + 1)[None]))


# --- stages of a tail -----------------------------------------------------------------------------------------------


def elementwise(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    """A layer that works on every element by itself, as a float stage; legal before a quantiser or at an output."""
    return _float_stage(call, values[0], "after")


def _float_stage(call: Call, value: Value, shaky: str) -> Value:
    try:
        shape = tuple(call(tf.zeros((1, *value.shape))).shape[1:])
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise Refusal(f"layer {call.key!r}: cannot be applied to shape {value.shape}: {str(error)[:200]}") from error
    if shape != value.shape:
        raise Refusal(f"layer {call.key!r}: makes shape {shape} of {value.shape}; give it parameters that do not "
                      "broadcast")
    return value.then(Stage(call.key, call, shaky=shaky))


lowers(keras.layers.ELU)(elementwise)


@lowers(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ThresholdedReLU)
def _relu(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    return _float_stage(call, values[0], "")


def moves(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
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


lowers(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector)(moves)


@lowers(keras.layers.BatchNormalization, qkeras.QBatchNormalization)
def _batch_norm(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
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
    lines = [Line(s, b - m * s, abs(b) + abs(m * s)) for b, m, s in zip(beta, mean, scale)]
    return value.then(Stage(call.key, call, lines))


def _sqrt(x: Fraction) -> Fraction:
    """Square root to 2^-80 of its size; exact for squares of short fractions."""
    shift = 2 * 90
    return Fraction(isqrt((x.numerator * x.denominator) << shift), x.denominator << (shift // 2))


@lowers(keras.layers.Rescaling)
def _rescaling(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    """x * scale + offset, in float32: legal before a quantiser, and before a sum (real-scaled unless it is exact)."""
    value = _float_stage(call, values[0], "")
    parts = np.broadcast_arrays(*(np.asarray(v, np.float32) for v in (call.layer.scale, call.layer.offset)))
    scale, offset = (part.ravel().tolist() for part in parts)
    if len(scale) not in (1, value.shape[-1]):
        return value
    lines = [Line(Fraction(s), Fraction(o), abs(Fraction(o))) for s, o in zip(scale, offset)]
    return replace(value, tail=(*value.tail[:-1], replace(value.tail[-1], affine=lines)))


@lowers(keras.layers.Normalization)
def _normalization(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    """(x - mean) / sqrt(variance), in float32: legal before a quantiser."""
    return _float_stage(call, values[0], "")


@lowers(keras.layers.Dropout, keras.layers.GaussianNoise, keras.layers.GaussianDropout, keras.layers.AlphaDropout,
        keras.layers.ActivityRegularization)
def _nothing(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    """Layers that do nothing in inference."""
    return values[0]


@lowers(keras.layers.Softmax)
def _softmax(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    if call.layer.axis not in (-1, len(values[0].shape)):
        raise Refusal(f"layer {call.key!r}: softmax over axis {call.layer.axis}; only the last axis is supported")
    return values[0].then(Stage(call.key, call, head="softmax"))


# --- what closes a tail ---------------------------------------------------------------------------------------------


@lowers(qkeras.QActivation)
def _qactivation(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    return _activate(state, call.key, call.layer.quantizer, values[0])


@lowers(keras.layers.Activation)
def _activation(state: Lowering, call: Call, values: Sequence[Value]) -> Value:
    return _activate(state, call.key, call.layer.activation, values[0])


def _activate(state: Lowering, key: str, activation: Any, value: Value) -> Value:
    """Apply an activation: a quantiser closes the tail, softmax and sigmoid wait for the output, others are floats."""
    if activation is None or activation is keras.activations.linear:
        return value
    if activation is keras.activations.softmax:
        return value.then(Stage(key, activation, head="softmax"))
    levels = levels_of(key, activation)
    if levels is None:
        head = "sigmoid" if activation is keras.activations.sigmoid else ""
        shaky = "" if getattr(activation, "__name__", "") in STEADY else "after"
        return value.then(Stage(key, activation, head=head, shaky=shaky))
    # (stochastic_* have the first attribute too, for training only.)
    if type(activation) is qkeras.quantized_sigmoid and activation.use_real_sigmoid or (
            type(activation) is qkeras.quantized_tanh and activation.use_real_tanh):
        raise Refusal(f"layer {key!r}: {type(activation).__name__} with a real sigmoid or tanh inside depends on the "
                      "place in the tensor; leave use_real_sigmoid and use_real_tanh off")
    shaky = "" if type(activation).__name__ in STEADY or getattr(activation, "__name__", "") in STEADY else "before"
    return Value(close(state, key, value.then(Stage(key, activation, shaky=shaky)), levels), value.shape)


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
    whole = value.then(Stage(call.key, call, planes=layer.planes), shape)
    if value.floats:
        return Value(close(state, call.key, whole, levels), shape)
    d, channels = value.node.domain, value.shape[-1]
    thresholds = np.broadcast_to(layer.thresholds().numpy(), (channels, layer.planes))
    exact = [-((d.beta - Fraction(float(t))) // d.alpha) for t in thresholds.ravel()]  # -floor(-q) = ceil(q)
    cuts = np.array([min(max(c, d.lo), d.hi + 1) for c in exact], np.int64)[:, None]
    rows = np.concatenate([np.zeros_like(cuts), np.ones_like(cuts), cuts], axis=1)
    rows = np.tile(rows, (prod(shape) // len(rows), 1))
    return Value(state.apply(whole, rows, Op.STEP, levels.domain, call.key, _steps(1), origin=call.key), shape)


def _steps(count: int) -> Callable[[NDArray[np.int64]], Steps]:
    """Rows of start, sign, `count` cuts and, for a real-scaled sum, slack below and above each -> parameters."""

    def params(rows: NDArray[np.int64]) -> Steps:
        cuts, slack = rows[:, 2 : 2 + count].copy(), rows[:, 2 + count :].copy()
        return Steps(rows[:, 0].copy(), rows[:, 1].copy(), cuts, slack.reshape(-1, count, 2) if slack.size else None)

    return params


def close(state: Lowering, key: str, value: Value, levels: Levels) -> Node:
    """Close a tail with a quantised activation: STEP, where codes rise or fall with the sum, else a LUT."""
    tail = Tail(value, levels, key)
    steps = real_steps(tail) if value.real else tail.steps()
    if steps is None:
        return _tabulated(state, key, tail)
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


def _tabulated(state: Lowering, key: str, tail: Tail) -> Node:
    if not tail.small:
        raise Refusal(f"layer {key!r}: its codes do not rise or fall with the sum, whose {tail.hi - tail.lo + 1} "
                      f"values are too many for a table ({TABLE}); use a monotone activation")
    state.notes.append(f"{key}: not monotone, kept as a table of {tail.hi - tail.lo + 1} entries a channel")
    codes = np.array(tail.levels.codes)[tail.table()].T
    return state.apply(tail.value, codes, Op.LUT, tail.levels.domain, key, Table, origin=key)


# --- outputs --------------------------------------------------------------------------------------------------------


def _output(state: Lowering, value: Value, wanted: Domain | None, taken: Sequence[str]) -> str:
    """Name of an output node of its own: never an input, never twice the same."""
    node = _head(state, value, wanted)
    if node.op is Op.INPUT or node.name in taken:
        node = state.add(f"{node.name}_out", Op.GATHER, [node], node.shape, node.domain, Index(np.arange(node.size)))
    return node.name


def _head(state: Lowering, value: Value, wanted: Domain | None) -> Node:
    """An output: quantised codes as they are, an affine tail as AFFINE, another as LUT; softmax, sigmoid dropped."""
    tail = list(value.tail)
    while tail and tail[-1].head:
        stage = tail.pop()
        state.notes.append(f"{stage.layer}: {stage.head} dropped, the outputs are its logits (same order, same argmax)")
    value = Value(value.node, value.shape, tuple(tail))
    if value.node.op in (Op.DOT, Op.ADD) and not value.floats and wanted is not None:
        return _affine(state, value, lines_of(value, tail), wanted)
    if not value.floats:
        return state.gathered(value.node, value.source, value.shape, f"{value.node.name}_out")
    if any(stage.affine is None and stage.index is None for stage in tail):
        return _rounded_table(state, value, wanted)
    lines, domain = lines_of(value, tail), value.node.domain
    same = all((row.scale, row.offset) == (domain.alpha, domain.beta) for row in lines.rows)
    if same and not _float_noise(value, lines):
        return state.gathered(value.node, value.source, value.shape, f"{value.node.name}_out")
    return _affine(state, value, lines, wanted)


def _float_noise(value: Value, lines: Lines) -> float:
    """How far Keras' float32 output is from the exact line, over all sums or 4,096 of them."""
    d = value.node.domain
    sums = np.unique(np.linspace(d.lo, d.hi, min(d.size, 4096)).astype(np.int64))
    reals = Tail(value, Levels(d, ()), "output").reals(sums[:, None])
    scale, offset = np.array([(float(row.scale), float(row.offset)) for row in lines.rows])[lines.which].T
    exact = scale * sums[:, None] + offset
    return float(np.abs(reals - exact).max())


def _affine(state: Lowering, value: Value, lines: Lines, wanted: Domain | None) -> Node:
    """value = scale * code + offset, rounded once to a fixed-point type."""
    source, layer = value.node.domain, value.floats[-1] if value.floats else value.node.name
    noise = _float_noise(value, lines)
    if not np.isfinite(noise):
        raise Refusal(f"layer {layer!r}: Keras' own output is not finite; its variance, epsilon or gamma is out of "
                      "range")
    if value.real:
        noise += float(max(row.off_by(end) for row in lines.rows for end in (source.lo, source.hi)))
    mul, add = [row.scale for row in lines.rows], [row.offset for row in lines.rows]
    if source.lo == source.hi:  # a constant: whatever its scale, it is all offset
        add, mul = [m * source.lo + a for m, a in zip(mul, add)], [Fraction(0)] * len(mul)
        source = Domain(0, 0)
    ends = [m * e + a for m, a in zip(mul, add) for e in (source.lo, source.hi)]
    out, exact = _head_type([*mul, *add], min(ends), max(ends), wanted, layer)
    # code = floor((m*x + a) / 2^shift) with m, a rounded to 2^-shift of a unit; half a unit is in `a`.
    shift = 0 if exact else 8 + max(abs(source.lo), abs(source.hi)).bit_length()
    half = Fraction(0) if exact else Fraction(1, 2)
    unit = out.alpha / 2**shift
    few = np.array([(round(m / unit), round(a / unit + half * 2**shift)) for m, a in zip(mul, add)], np.int64)
    reach = [(int(m) * e + int(a)) >> shift for m, a in few for e in (source.lo, source.hi)]
    if not (out.lo <= min(reach) and max(reach) <= out.hi):
        raise Refusal(f"layer {layer!r}: outputs reach {float(max(ends)):g}, past {out.type_name}")
    rows = few[lines.which]
    _note_rounding(state, layer, out, exact, noise)

    def params(rows: NDArray[np.int64]) -> Affine:
        return Affine(rows[:, 0].copy(), rows[:, 1].copy(), shift)

    return state.apply(value, rows, Op.AFFINE, out, f"{layer}_out", params)


def _rounded_table(state: Lowering, value: Value, wanted: Domain | None) -> Node:
    """An output behind a float activation: Keras' float32 values over the whole range, rounded once."""
    layer, d = value.floats[-1], value.node.domain
    entries = d.size * value.shape[-1]
    if d.size > TABLE or entries > HEAD_TABLE:
        raise Refusal(f"layer {layer!r}: an output behind a float activation needs a table of {entries} entries, at "
                      f"most {HEAD_TABLE}; quantise it, or end the model before it")
    reals = Tail(value, Levels(d, ()), layer).reals(np.arange(d.lo, d.hi + 1)[:, None])
    if not np.isfinite(reals).all():
        raise Refusal(f"layer {layer!r}: an output is not finite")
    found = dyadic(reals)
    fractions = [Fraction(1)] if found is None else [found[1]]
    out, exact = _head_type(fractions if found is not None else [Fraction(1, 3)], Fraction(float(reals.min())),
                            Fraction(float(reals.max())), wanted, layer)
    codes = np.rint(reals / float(out.alpha)).astype(np.int64).T
    shaky = any(stage.shaky for stage in value.tail)
    _note_rounding(state, layer, out, exact and not shaky, SHAKE * float(np.spacing(np.float32(np.abs(reals).max())))
                   if shaky else 0.0)
    return state.apply(value, codes, Op.LUT, out, f"{layer}_out", Table)


def _note_rounding(state: Lowering, layer: str, out: Domain, exact: bool, noise: float) -> None:
    """Say how far an output is from the real value, and how far Keras' own float32 is (`noise`, as measured)."""
    text = f"outputs are exact in {out.type_name}"
    if not exact:
        bound = float(out.alpha) * (0.5 + 2**-7)
        text = f"outputs are rounded to {out.type_name}: within {bound:.3g} of the real value"
    state.notes.append(f"{layer}: {text}" + (f"; Keras' float32 is up to {noise:.3g} off that" if noise else ""))


def _head_type(numbers: list[Fraction], low: Fraction, high: Fraction, wanted: Domain | None,
               layer: str) -> tuple[Domain, bool]:
    """The fixed-point type of an output of this range, and whether integer multiples of `numbers` need no rounding."""
    finest = max(x.denominator for x in numbers)
    dyadic_numbers = all(x.denominator & (x.denominator - 1) == 0 for x in numbers)
    if wanted is None:
        integer = max(_integer_bits(low), _integer_bits(high))
        fraction = finest.bit_length() - 1
        exact = dyadic_numbers and integer + fraction <= HEAD_BITS
        alpha = Fraction(1, finest) if exact else Fraction(2) ** (integer - HEAD_BITS)
        width = max(1, integer + fraction) if exact else HEAD_BITS
        return Domain(-(2 ** (width - 1)), 2 ** (width - 1) - 1, alpha), exact
    if not (wanted.alpha * wanted.lo <= low and high <= wanted.alpha * wanted.hi):
        raise Refusal(f"layer {layer!r}: outputs span {float(low):g} to {float(high):g}, which {wanted.type_name} does "
                      "not hold; use more integer bits")
    return wanted, dyadic_numbers and all((x / wanted.alpha).denominator == 1 for x in numbers)


def _integer_bits(x: Fraction) -> int:
    """I of a signed fixed<W,I> whose range, one unit short of 2^(I-1) at the top, holds x; at least 1."""
    whole = abs(x.numerator) // x.denominator
    return max(1, (whole + 1).bit_length() + 1)

"""Lowering: a Keras model becomes the integer graph.

Every tensor is an integer node plus a `tail`: the float32 stages (bias, batch norm, activation) that Keras applies
before the next quantised activation. A tail is never re-derived by algebra. It is evaluated, by calling the Keras
layers themselves on integer candidates, and becomes one STEP: the exact integer cuts of what Keras computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import qkeras
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from flow.errors import InputError, LoweringError
from flow.ir import BIPOLAR, Affine, Domain, Graph, Index, Node, Op, Steps, Weights, clean_name, fixed
from flow.ir.passes import optimise
from flow.ir.verify import dot_domain
from flow.train.layers import LearnedThermometer
from flow.train.quantizers import Masked
from flow.train.reading import read_model, unsupported_layer

__all__ = ["LOWERINGS", "lower", "lowers"]

Int = NDArray[np.int64]

EXACT_UNITS = 2**24  # float32 sums are exact in any order below this many units
MAX_LEVEL = 2**12  # weights wider than this are floats, not levels
TABLE = 2**16  # ranges up to this many sums are evaluated whole, larger ones bisected and sampled
CHUNK = 2**22  # elements of one evaluation of a tail
HEAD_BITS = 24  # width of a rounded output: what a float32 carries


class Refusal(Exception):
    """Why one layer has no exact meaning; collected, so that the user sees all of them at once."""


@dataclass(frozen=True)
class Stage:
    """One float32 stage of a tail. `affine` gives exact (scale, offset) per element of the last axis where it is
    affine; `head` marks softmax and sigmoid, which are dropped at an output.
    """

    layer: str
    apply: Callable[[tf.Tensor], tf.Tensor]
    affine: tuple[list[Fraction], list[Fraction]] | None = None
    reshape: bool = False
    head: str = ""


@dataclass(frozen=True)
class Value:
    """What a Keras tensor means: integer codes `node`, then `tail`, giving a tensor of `shape`."""

    node: Node
    shape: tuple[int, ...]
    tail: tuple[Stage, ...] = ()

    def then(self, stage: Stage, shape: tuple[int, ...] | None = None) -> Value:
        return Value(self.node, self.shape if shape is None else shape, (*self.tail, stage))


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

    def reshaped(self, node: Node, shape: Sequence[int], name: str, origin: str = "") -> Node:
        """`node` in another shape, same order of elements."""
        if node.shape == tuple(shape):
            return node
        return self.add(name, Op.GATHER, [node], shape, node.domain, Index(np.arange(node.size)), origin)

    def codes(self, value: Value, layer: str) -> Node:
        """The integer node of a value whose tail is only reshapes; refuses a float activation before a sum."""
        floats = [stage.layer for stage in value.tail if not stage.reshape]
        if floats:
            raise Refusal(
                f"layer {layer!r}: its input is not quantised: {', '.join(map(repr, floats))} "
                "yields floats; put a QActivation (binary, ternary, quantized_relu) before this layer"
            )
        return self.reshaped(value.node, value.shape, f"{layer}_in")

    def per_channel(self, value: Value, rows: NDArray[Any], name: str) -> tuple[Node, NDArray[Any]]:
        """Rows (one per element of the sample) -> (node to apply them to, rows per channel of that node).

        Where all positions of a channel agree the node keeps its shape, else it is flattened.
        """
        channels = value.node.shape[-1]
        stacked = rows.reshape(-1, channels, *rows.shape[1:])
        if (stacked == stacked[:1]).all():
            return value.node, stacked[0]
        return self.reshaped(value.node, (len(rows),), f"{name}_flat"), rows


LOWERINGS: dict[type, Callable[[Lowering, Any, Value], Value]] = {}


def lowers(kind: type) -> Callable[[Callable[[Lowering, Any, Value], Value]], Callable[[Lowering, Any, Value], Value]]:
    """Register the lowering of a Keras layer class: (lowering, layer, input value) -> output value."""

    def register(function: Callable[[Lowering, Any, Value], Value]) -> Callable[[Lowering, Any, Value], Value]:
        if kind in LOWERINGS:
            raise InputError(f"a lowering of {kind.__name__} is registered already")
        LOWERINGS[kind] = function
        return function

    return register


def lower(model: keras.Model | str | os.PathLike[str], input_type: str = "fixed<16,6>",
          output_type: str | None = None) -> Graph:
    """A Keras model, live or from a `.keras` or `.h5` file -> the integer graph that computes the same codes.

    `input_type`: the inputs' type in hls4ml's notation, such as "ufixed<8,0>" for pixels/256. `output_type`: that of
    logits that need rounding; by default 24 bits with as many fraction bits as their range leaves.

    Raises LoweringError with all problems of the model at once, InputError for an unusable file or type.
    """
    if isinstance(model, (str, os.PathLike)):
        model = read_model(model)
    domain = fixed(input_type)
    head = fixed(output_type) if output_type is not None else None
    nodes = _call_nodes(model)
    problems = [*_not_finite(model), *_unknown(nodes)]
    if problems:
        raise LoweringError(problems)
    state = Lowering()
    values: dict[int, Value | None] = {}
    for call in nodes:
        layer, outputs = call.layer, tf.nest.flatten(call.outputs)
        try:
            if call.is_input:
                value: Value | None = _input(state, layer, domain)
            else:
                source = [values[id(t)] for t in tf.nest.flatten(call.keras_inputs)]
                # A None is a value that an earlier layer refused to give: that layer is reported, this one is not.
                value = None if source[0] is None else LOWERINGS[type(layer)](state, layer, source[0])
        except Refusal as refusal:
            problems.append(str(refusal))
            value = None
        for tensor in outputs:
            values[id(tensor)] = value
    outputs = []
    for tensor in model.outputs:
        final = values[id(tensor)]
        if final is not None:
            try:
                outputs.append(_head(state, final, head).name)
            except Refusal as refusal:
                problems.append(str(refusal))
    if problems:
        raise LoweringError(problems)
    return optimise(Graph(tuple(state.nodes), tuple(outputs), tuple(state.notes)))


def _call_nodes(model: keras.Model) -> list[Any]:
    """Calls of layers in order of evaluation (a shared layer has several)."""
    if not isinstance(model, keras.Model):
        raise InputError(f"expected a Keras model or a path, got {type(model).__name__}; models of Keras 3 cannot be "
                         "used with QKeras: build them with tf_keras (TF_USE_LEGACY_KERAS=1)")
    by_depth = getattr(model, "_nodes_by_depth", None)
    if not by_depth:
        raise InputError(f"model {model.name!r} is not Sequential or functional, or has no input shape yet: "
                         "build it with an Input layer")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(f"model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
                         "only one of each is supported")
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _unknown(nodes: list[Any]) -> list[str]:
    problems, seen = [], set()
    for call in nodes:
        layer = call.layer
        if call.is_input:
            continue
        if type(layer) not in LOWERINGS:
            problems.append(unsupported_layer(layer.name, type(layer).__name__))
        elif layer.name in seen:
            problems.append(f"layer {layer.name!r} is used more than once; give each use a layer of its own")
        elif len(tf.nest.flatten(call.keras_inputs)) != 1:
            problems.append(f"layer {layer.name!r}: takes several inputs, which is not supported")
        elif layer.compute_dtype != "float32":
            problems.append(f"layer {layer.name!r}: computes in {layer.compute_dtype}; exactness needs float32")
        seen.add(layer.name)
    return problems


def _not_finite(model: keras.Model) -> list[str]:
    problems = []
    for layer in model.layers:
        for weight in layer.weights:
            array = weight.numpy()
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                problems.append(f"layer {layer.name!r}: weight {weight.name!r} holds {array[at]} at index {at}; "
                                "train again from a finite checkpoint")
    return problems


# --- layers ---------------------------------------------------------------------------------------------------------


def _input(state: Lowering, layer: Any, domain: Domain) -> Value:
    shape = tuple(layer.output.shape[1:])
    if not shape or any(n is None for n in shape):
        raise Refusal(f"layer {layer.name!r}: input shape {shape} has open dimensions; give every dimension a size")
    return Value(state.add(layer.name, Op.INPUT, [], shape, domain), shape)


LOWERINGS[keras.layers.InputLayer] = lambda state, layer, value: value


@lowers(LearnedThermometer)
def _thermometer(state: Lowering, layer: LearnedThermometer, value: Value) -> Value:
    """x >= t on the grid alpha*code + beta is code >= ceil((t - beta) / alpha), exactly."""
    x = state.codes(value, layer.name)
    planes, channels = layer.planes, x.shape[-1]
    thresholds = np.broadcast_to(layer.thresholds().numpy(), (channels, planes))
    alpha, beta = x.domain.alpha, x.domain.beta
    exact = [-((beta - Fraction(float(t))) // alpha) for t in thresholds.ravel()]  # -floor(-q) = ceil(q)
    cuts = np.array([min(max(c, x.domain.lo), x.domain.hi + 1) for c in exact], np.int64)[:, None]
    shape = (*x.shape[:-1], channels * planes)
    repeated = state.add(f"{layer.name}_in", Op.GATHER, [x], shape, x.domain,
                         Index(np.repeat(np.arange(x.size), planes)))
    steps = Steps(np.zeros(len(cuts), np.int64), np.ones(len(cuts), np.int64), cuts)
    node = state.add(layer.name, Op.STEP, [repeated], shape, BIPOLAR, steps, origin=layer.name)
    return Value(node, shape)


@lowers(qkeras.QDense)
def _dense(state: Lowering, layer: qkeras.QDense, value: Value) -> Value:
    x = state.codes(value, layer.name)
    weights, unit = _kernel(layer.name, layer.kernel, layer.kernel_quantizer_internal)
    domain = dot_domain(x.domain, weights)
    a, b = x.domain.numerator
    largest = max(abs(a * x.domain.lo + b), abs(a * x.domain.hi + b))
    bound = largest * int(np.abs(weights.effective).sum(axis=0).max())
    if bound >= EXACT_UNITS:
        raise Refusal(f"layer {layer.name!r}: its sums can reach {bound} units, past the {EXACT_UNITS} that float32 "
                      "adds exactly; use a narrower input type, fewer inputs or smaller weights")
    shape = (*x.shape[:-1], weights.levels.shape[1])
    quantised = _is_quantiser(layer.activation)
    node = state.add(f"{layer.name}_sum" if quantised else layer.name, Op.DOT, [x], shape,
                     Domain(domain.lo, domain.hi, x.domain.unit * unit), weights)
    out = Value(node, shape)
    if layer.use_bias:
        bias = layer.bias_quantizer_internal(layer.bias) if layer.bias_quantizer_internal else layer.bias
        bias = tf.convert_to_tensor(bias)
        exact = ([Fraction(1)] * len(bias), [Fraction(float(v)) for v in bias.numpy()])
        out = out.then(Stage(layer.name, lambda t: keras.backend.bias_add(t, bias, data_format="channels_last"), exact))
    return _activate(state, layer.name, layer.activation, out)


def _kernel(layer: str, kernel: tf.Variable, quantizer: Any) -> tuple[Weights, Fraction]:
    """The weights that Keras multiplies with, as integer levels times one power of two."""
    real = np.asarray(quantizer(kernel) if quantizer is not None else kernel)
    mask = np.ones(real.shape, bool)
    if isinstance(quantizer, Masked):
        mask = quantizer.mask.numpy() != 0
        if not mask.any():
            raise Refusal(f"layer {layer!r}: its mask keeps none of {mask.size} connections, so its output is constant;"
                          " keep at least one, or remove the layer")
    if not np.isfinite(real).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(real))[0])
        raise Refusal(f"layer {layer!r}: its quantised kernel holds {real[at]} at {at}; use another kernel_quantizer")
    used = np.abs(real[real != 0].astype(np.float64))
    if not used.size:
        return Weights(np.zeros(real.shape, np.int64), mask), Fraction(1)
    # The smallest power of two of which all weights are multiples: lowest set bit over all mantissas.
    mantissa, exponent = np.frexp(used)
    whole = (mantissa * 2.0**24).astype(np.int64)
    lowest = int((np.log2(whole & -whole).astype(np.int64) + exponent - 24).min())
    levels = real.astype(np.float64) * 2.0**-lowest
    if np.abs(levels).max() > MAX_LEVEL:
        name = type(quantizer).__name__ if quantizer is not None else "no kernel_quantizer"
        raise Refusal(f"layer {layer!r}: its weights ({name}) are not small integers times a power of two; use binary "
                      "or ternary with a power-of-two alpha, or quantized_bits")
    return Weights(levels.astype(np.int64), mask), Fraction(2) ** lowest


@lowers(keras.layers.BatchNormalization)
def _batch_norm(state: Lowering, layer: Any, value: Value) -> Value:
    axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axis not in ([len(value.shape)], [-1]):
        raise Refusal(f"layer {layer.name!r}: normalises axis {axis}, only the last one is supported")
    channels = value.shape[-1]

    def exact(weight: Any, default: int) -> list[Fraction]:
        return [Fraction(default)] * channels if weight is None else [Fraction(float(v)) for v in weight.numpy()]

    gamma, beta = exact(layer.gamma, 1), exact(layer.beta, 0)
    mean, variance = exact(layer.moving_mean, 0), exact(layer.moving_variance, 1)
    if any(v < 0 for v in variance):
        raise Refusal(f"layer {layer.name!r}: moving_variance is negative ({float(min(variance))}); train again")
    spread = [_sqrt(v + Fraction(float(layer.epsilon))) for v in variance]
    if any(s == 0 for s in spread):
        raise Refusal(f"layer {layer.name!r}: variance and epsilon are both 0; set an epsilon")
    scale = [g / s for g, s in zip(gamma, spread)]
    offset = [b - m * s for b, m, s in zip(beta, mean, scale)]
    return value.then(Stage(layer.name, lambda t: layer(t, training=False), (scale, offset)))


def _sqrt(x: Fraction) -> Fraction:
    """Square root to 2^-80 of its size; exact for squares of short fractions."""
    shift = 2 * 90
    return Fraction(isqrt((x.numerator * x.denominator) << shift), x.denominator << (shift // 2))


@lowers(keras.layers.Dropout)
def _dropout(state: Lowering, layer: Any, value: Value) -> Value:
    return value


@lowers(keras.layers.Flatten)
def _flatten(state: Lowering, layer: Any, value: Value) -> Value:
    if getattr(layer, "data_format", "channels_last") == "channels_first" and len(value.shape) > 1:
        raise Refusal(f"layer {layer.name!r}: data_format channels_first is not supported; use channels_last")
    return _reshape(state, layer, value)


@lowers(keras.layers.Reshape)
def _reshape(state: Lowering, layer: Any, value: Value) -> Value:
    shape = tuple(int(n) for n in layer.compute_output_shape((None, *value.shape))[1:])
    return value.then(Stage(layer.name, layer, reshape=True), shape)


@lowers(qkeras.QActivation)
def _qactivation(state: Lowering, layer: qkeras.QActivation, value: Value) -> Value:
    return _activate(state, layer.name, layer.quantizer, value)


@lowers(keras.layers.Activation)
def _activation(state: Lowering, layer: Any, value: Value) -> Value:
    return _activate(state, layer.name, layer.activation, value)


@lowers(keras.layers.Softmax)
def _softmax(state: Lowering, layer: Any, value: Value) -> Value:
    if layer.axis not in (-1, len(value.shape)):
        raise Refusal(f"layer {layer.name!r}: softmax over axis {layer.axis}; only the last axis is supported")
    return value.then(Stage(layer.name, layer, head="softmax"))


# --- activations ----------------------------------------------------------------------------------------------------


def _power_of_two(layer: str, quantizer: Any) -> Fraction:
    """The numeric scale of an activation quantizer."""
    alpha = quantizer.get_config().get("alpha")
    if isinstance(alpha, str):
        raise Refusal(f"layer {layer!r}: activation {type(quantizer).__name__}(alpha={alpha!r}) takes its scale from "
                      "the data of each batch; use alpha=1 or another power of two")
    scale = Fraction(1 if alpha is None else float(alpha))
    if scale <= 0 or scale.numerator & (scale.numerator - 1) or scale.denominator & (scale.denominator - 1):
        raise Refusal(f"layer {layer!r}: activation {type(quantizer).__name__}(alpha={alpha}): levels are not exact; "
                      "use a power-of-two alpha")
    return scale


def _binary_levels(layer: str, quantizer: Any) -> Domain:
    a = _power_of_two(layer, quantizer)
    return Domain(0, 1, a) if quantizer.use_01 else Domain(0, 1, 2 * a, -a)


def _ternary_levels(layer: str, quantizer: Any) -> Domain:
    return Domain(-1, 1, _power_of_two(layer, quantizer))


def _relu_levels(layer: str, quantizer: Any) -> Domain:
    config = quantizer.get_config()
    if config.get("negative_slope") or config.get("use_sigmoid"):
        raise Refusal(f"layer {layer!r}: quantized_relu with a negative slope or sigmoid is not supported; "
                      "use quantized_relu(bits, integer)")
    bits, integer = int(config["bits"]), int(config["integer"])
    if not 1 <= bits <= 8:
        raise Refusal(f"layer {layer!r}: quantized_relu with {bits} bits; 1 to 8 are supported (256 levels)")
    return Domain(0, 2**bits - 1, Fraction(2) ** (integer - bits))


LEVELS: dict[type, Callable[[str, Any], Domain]] = {
    qkeras.binary: _binary_levels,
    qkeras.ternary: _ternary_levels,
    qkeras.quantized_relu: _relu_levels,
}


def _is_quantiser(activation: Any) -> bool:
    return type(activation) in LEVELS


def _activate(state: Lowering, layer: str, activation: Any, value: Value) -> Value:
    """Apply an activation: a quantiser closes the tail with a STEP, softmax and sigmoid wait for the output."""
    if activation is None or activation is keras.activations.linear:
        return value
    for head in ("softmax", "sigmoid"):
        if activation is getattr(keras.activations, head):
            return value.then(Stage(layer, activation, head=head))
    kind = type(activation)
    if kind not in LEVELS:
        name = getattr(activation, "__name__", kind.__name__)
        raise Refusal(f"layer {layer!r}: activation {name} is not supported; use one of "
                      f"{', '.join(sorted(k.__name__ for k in LEVELS))}")
    if getattr(activation, "qnoise_factor", 1.0) != 1.0:
        raise Refusal(f"layer {layer!r}: qnoise_factor is {float(activation.qnoise_factor)}, which mixes in "
                      "unquantised values; set it to 1")
    return _step(state, layer, value.then(Stage(layer, activation)), LEVELS[kind](layer, activation))


def _step(state: Lowering, layer: str, value: Value, domain: Domain) -> Value:
    """Find the cuts of the tail by evaluation and close it."""
    cuts, shape = _Tail(value, domain, layer).steps(), value.shape
    rows = np.concatenate([cuts.start[:, None], cuts.sign[:, None], cuts.cuts], axis=1)
    node, rows = state.per_channel(value, rows, layer)
    steps = Steps(rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2:].copy())
    whole = node.shape == shape
    out = state.add(layer if whole else f"{layer}_step", Op.STEP, [node], node.shape, domain, steps,
                    origin=layer if whole else "")
    out = out if whole else state.reshaped(out, shape, layer, origin=layer)
    return Value(out, shape)


class _Tail:
    """The codes that Keras computes from integer candidates of a node, per element of one sample."""

    def __init__(self, value: Value, domain: Domain, layer: str):
        self.value, self.domain, self.layer = value, domain, layer
        self.lo, self.hi, self.size = value.node.domain.lo, value.node.domain.hi, value.node.size

    def __call__(self, candidates: Int) -> Int:
        """Candidates (k, size) or (k, 1) -> codes (k, size)."""
        step = max(1, CHUNK // self.size)
        return np.concatenate([self._codes(candidates[i : i + step]) for i in range(0, len(candidates), step)])

    def _codes(self, candidates: Int) -> Int:
        source = self.value.node.domain
        # Exact: alpha and beta are dyadic and the sum is below 2^24 units.
        real = (candidates * float(source.alpha) + float(source.beta)).astype(np.float32)
        full = np.broadcast_to(real, (len(real), self.size)).reshape(-1, *self.value.node.shape)
        with tf.device("CPU:0"):
            x = tf.constant(full)
            for stage in self.value.tail:
                x = stage.apply(x)
        y = x.numpy().astype(np.float64).reshape(len(real), self.size)
        codes = (y - float(self.domain.beta)) / float(self.domain.alpha)
        bad = ~((codes >= self.domain.lo) & (codes <= self.domain.hi) & (codes == np.rint(codes)))
        if bad.any():
            k, i = np.argwhere(bad)[0]
            total = int(np.broadcast_to(candidates, y.shape)[k, i])
            raise Refusal(f"layer {self.layer!r}: yields {y[k, i]} for the sum {total} of element {i}, which is none "
                          f"of its levels {self.domain}; the values before it are too large for float32, or the "
                          "quantizer's levels are not exact")
        exact: Int = codes.astype(np.int64)
        return exact

    def steps(self) -> Steps:
        """The cuts, found from the whole table where it is small, else by bisection; checked against evaluation."""
        ends = self(np.array([[self.lo], [self.hi]]))
        start, last = ends
        sign = np.where(last >= start, 1, -1).astype(np.int64)
        count = int(np.abs(last - start).max())
        small = self.hi - self.lo < TABLE and (self.hi - self.lo + 1) * self.size <= 2**28
        cuts = self._from_table(start, sign, count) if small else self._bisected(start, sign, count)
        steps = Steps(start, sign, cuts)
        if small:
            self._compare(steps, np.arange(self.lo, self.hi + 1)[:, None])
        else:
            near = [cuts.T + d for d in (-2, -1, 0, 1)] if count else []
            rng = np.random.default_rng(0)
            anywhere = rng.integers(self.lo, self.hi, (4096, 1), endpoint=True)
            self._compare(steps, np.clip(np.concatenate([*near, np.broadcast_to(anywhere, (4096, self.size))]),
                                         self.lo, self.hi))
        return steps

    def _from_table(self, start: Int, sign: Int, count: int) -> Int:
        """cuts[i, k]: the first sum at which |code - start| exceeds k; hi + 1 where it never does."""
        cuts = np.full((self.size, count), self.hi + 1, np.int64)
        step = max(1, CHUNK // self.size)
        for first in range(self.lo, self.hi + 1, step):
            sums = np.arange(first, min(first + step, self.hi + 1))
            level = (self(sums[:, None]) - start) * sign
            for k in range(count):
                above = level > k
                found = above.any(axis=0) & (cuts[:, k] > self.hi)
                cuts[found, k] = sums[above.argmax(axis=0)[found]]
        return cuts

    def _bisected(self, start: Int, sign: Int, count: int) -> Int:
        cuts = np.empty((self.size, count), np.int64)
        for k in range(count):
            below, above = np.full(self.size, self.lo), np.full(self.size, self.hi + 1)
            while (above - below > 1).any():
                middle = (below + above) // 2
                passed = (self(middle[None])[0] - start) * sign > k
                above, below = np.where(passed, middle, above), np.where(passed, below, middle)
            cuts[:, k] = above
        return cuts

    def _compare(self, steps: Steps, candidates: Int) -> None:
        """Refuse a tail whose codes the cuts do not reproduce: it is not monotone."""
        step = max(1, CHUNK // self.size)
        for first in range(0, len(candidates), step):
            part = candidates[first : first + step]
            level = (part[..., None] >= steps.cuts).sum(axis=-1)
            if not np.array_equal(self(part), steps.start + steps.sign * level):
                raise Refusal(f"layer {self.layer!r}: its codes do not rise or fall monotonically with the sum; "
                              "use a monotone activation")


# --- outputs --------------------------------------------------------------------------------------------------------


def _head(state: Lowering, value: Value, wanted: Domain | None) -> Node:
    """The output: quantised codes as they are, a float tail as AFFINE, softmax and sigmoid dropped."""
    tail = list(value.tail)
    while tail and tail[-1].head:
        stage = tail.pop()
        state.notes.append(f"{stage.layer}: {stage.head} dropped, the outputs are its logits (same order, same argmax)")
    scale, offset = [Fraction(1)] * value.node.size, [Fraction(0)] * value.node.size
    for stage in tail:
        if stage.reshape:
            continue
        if stage.affine is None:
            raise Refusal(f"layer {stage.layer!r}: an output neither quantised nor affine; quantise or remove it")
        s, o = stage.affine
        repeat = value.node.size // len(s)
        scale, offset = ([x * s[i % len(s)] for i, x in enumerate(scale)],
                         [x * s[i % len(s)] + o[i % len(s)] for i, x in enumerate(offset)])
        assert repeat * len(s) == value.node.size
    node = value.node
    if any(s != 1 for s in scale) or any(offset):
        node = _affine(state, value, scale, offset, wanted, tail[-1].layer)
    elif not tail:
        node = state.reshaped(node, value.shape, f"{node.name}_out")
        return node if node.op is not Op.INPUT else state.add("out", Op.GATHER, [node], node.shape, node.domain,
                                                              Index(np.arange(node.size)))
    if node.op is Op.AFFINE and node.shape == value.shape:
        return node
    return state.reshaped(node, value.shape, f"{node.name}_out")


def _affine(state: Lowering, value: Value, scale: list[Fraction], offset: list[Fraction], wanted: Domain | None,
            layer: str) -> Node:
    """value = scale * (alpha*code + beta) + offset, rounded once to a fixed-point type."""
    source = value.node.domain
    mul = [s * source.alpha for s in scale]
    add = [s * source.beta + o for s, o in zip(scale, offset)]
    ends = [m * e + a for m, a in zip(mul, add) for e in (source.lo, source.hi)]
    out, exact = _head_type(mul, add, ends, wanted, layer)
    # code = floor((m*x + a) / 2^shift) with m, a rounded to 2^-shift of a unit; half a unit is in `a`.
    shift = 0 if exact else 8 + max(abs(source.lo), abs(source.hi)).bit_length()
    half = 0 if exact else Fraction(1, 2)
    unit = out.alpha / 2**shift
    ints = [(round(m / unit), round(a / unit + half * 2**shift)) for m, a in zip(mul, add)]
    rows = np.array(ints, np.int64)
    target, rows = state.per_channel(value, rows, layer)
    final = [(int(m) * e + int(a)) >> shift for m, a in rows for e in (source.lo, source.hi)]
    domain = Domain(min(final), max(final), out.alpha)
    if not (out.lo <= domain.lo and domain.hi <= out.hi):
        raise Refusal(f"layer {layer!r}: outputs reach {float(max(ends)):g}, past {out.type_name}")
    params = Affine(rows[:, 0].copy(), rows[:, 1].copy(), shift)
    if exact:
        state.notes.append(f"{layer}: outputs are exact in {out.type_name}")
    else:
        state.notes.append(f"{layer}: outputs are rounded to {out.type_name}: within "
                           f"{float(out.alpha) * (0.5 + 2**-7):.3g} of the real value")
    return state.add(f"{layer}_out", Op.AFFINE, [target], target.shape, out, params)


def _head_type(mul: list[Fraction], add: list[Fraction], ends: list[Fraction], wanted: Domain | None,
               layer: str) -> tuple[Domain, bool]:
    """The fixed-point type of an output, and whether it needs no rounding."""
    low, high = min(ends), max(ends)
    finest = max(x.denominator for x in (*mul, *add))
    dyadic = finest & (finest - 1) == 0 and all(x.denominator & (x.denominator - 1) == 0 for x in (*mul, *add))
    if wanted is None:
        integer = max(_integer_bits(low), _integer_bits(high))
        fraction = finest.bit_length() - 1
        exact = dyadic and integer + fraction <= HEAD_BITS
        alpha = Fraction(1, finest) if exact else Fraction(2) ** (integer - HEAD_BITS)
        width = max(1, integer + fraction) if exact else HEAD_BITS
        return Domain(-(2 ** (width - 1)), 2 ** (width - 1) - 1, alpha), exact
    if not (wanted.alpha * wanted.lo <= low and high <= wanted.alpha * wanted.hi):
        raise Refusal(f"layer {layer!r}: outputs span {float(low):g} to {float(high):g}, which {wanted.type_name} does "
                      "not hold; use more integer bits")
    return wanted, dyadic and all((x / wanted.alpha).denominator == 1 for x in (*mul, *add))


def _integer_bits(x: Fraction) -> int:
    """I of a signed fixed<W,I> whose range, one unit short of 2^(I-1) at the top, holds x; at least 1."""
    whole = abs(x.numerator) // x.denominator
    return max(1, (whole + 1).bit_length() + 1)


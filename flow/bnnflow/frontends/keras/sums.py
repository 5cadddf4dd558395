"""Sums: dense layers and convolutions, from the codes and the weights that Keras multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.exact.affine_inputs import AffineElement, AffineInput, offsets, plain
from bnnflow.exact.builder_state import EXACT_UNITS, GraphBuilder, Pads
from bnnflow.exact.epilogues import FloatTensor, Line, Stage
from bnnflow.exact.functions import Refusal, Uncomputable
from bnnflow.exact.levels import MAX_CODE_BITS
from bnnflow.exact.noise import sum_noise
from bnnflow.frontends.keras.activations import activate
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.functions import on_arrays, shape_of
from bnnflow.frontends.keras.kernels import QuantizedKernel, parameters, read_kernel
from bnnflow.frontends.keras.quantizers import check_steady, levels_of
from bnnflow.frontends.keras.registry import lowers
from bnnflow.frontends.keras.rounding import ADDITION, FLUSHED, SAFE, scaling
from bnnflow.generation import depthwise_kernel, keras, layers_here, qkeras
from bnnflow.ir import Domain, Node, Op, Weights, Window
from bnnflow.ir.verify import dot_domain

__all__ = ["as_keras", "channels_last", "check_bound", "weighted_sum", "window_of"]

SMALLEST, LARGEST = Fraction(2) ** -100, Fraction(2) ** 100  # of a unit in this range: no denormals, no infinities


@lowers(qkeras.QDense, keras.layers.Dense, *layers_here("QDenseBatchnorm"))
def _dense(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    layer, key = call.layer, call.key
    x, affine = builder.summand(values[0], key)
    weights, bias = parameters(key, layer, layer.kernel)
    kernel = read_kernel(key, "kernel_quantizer", weights, getattr(layer, "kernel_quantizer_internal", None))
    return _finished(builder, call, weighted_sum(builder, key, _sum_name(call), x, affine, kernel), bias)


@lowers(qkeras.QConv1D, qkeras.QConv2D, qkeras.QConv2DBatchnorm, keras.layers.Conv1D, keras.layers.Conv2D)
def _convolution(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """The kernel is (*taps, channels/groups, filters), filters group by group: the order of WINDOW and of Weights."""
    layer, key = call.layer, call.key
    x, affine, pads = _image(builder, call, values[0], layer.groups)
    window = window_of(key, x, pads, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, layer.groups)
    weights, bias = parameters(key, layer, layer.kernel)
    mask = None if hasattr(layer, "batchnorm") else getattr(layer, "_mask", None)  # folded layers leave it out
    kernel = read_kernel(key, "kernel_quantizer", weights, getattr(layer, "kernel_quantizer_internal", None),
                         groups=layer.groups, mask=mask)
    out = weighted_sum(builder, key, _sum_name(call), x, affine, kernel, window)
    return _finished(builder, call, as_keras(call, values[0], out), bias)


@lowers(qkeras.QDepthwiseConv2D, qkeras.QDepthwiseConv2DBatchnorm, keras.layers.DepthwiseConv1D,
        keras.layers.DepthwiseConv2D)
def _depthwise(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    x, affine, pads = _image(builder, call, values[0], values[0].shape[-1])
    weights, bias = parameters(call.key, call.layer, depthwise_kernel(call.layer))
    kernel = read_kernel(call.key, "depthwise_quantizer", weights,
                         getattr(call.layer, "depthwise_quantizer_internal", None), groups=x.shape[-1], axes=2)
    out = weighted_sum(builder, call.key, _sum_name(call), x, affine, kernel, _depthwise_window(call, x, pads))
    return _finished(builder, call, as_keras(call, values[0], out), bias)


@lowers(qkeras.QSeparableConv1D, qkeras.QSeparableConv2D, keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
def _separable(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """A depthwise sum and a sum over its integers, nothing between; Keras adds both in float32."""
    layer, key = call.layer, call.key
    x, affine, pads = _image(builder, call, values[0], values[0].shape[-1])
    kernels = []
    for part, groups, axes in (("depthwise", x.shape[-1], 2), ("pointwise", 1, 1)):
        variable = getattr(layer, f"{part}_kernel")
        # In one dimension Keras adds the second one before it quantises.
        variable = variable if len(variable.shape) == 4 else tf.expand_dims(variable, 0)
        kernels.append(read_kernel(key, f"{part}_quantizer", variable, getattr(
            layer, f"{part}_quantizer_internal", None), groups=groups, axes=axes))
    inner = weighted_sum(builder, key, f"{key}_depthwise", x, affine, kernels[0], _depthwise_window(call, x, pads))
    try:
        sums, affine = builder.summand(inner, key)
    except Refusal as refusal:
        raise Refusal(f"layer {key!r}: its depthwise kernel has a real scale of its own for each channel, which the "
                      "pointwise sum cannot take out; use depth_multiplier=1 (QKeras then has one scale for all), "
                      "alpha=1 or another power of two") from refusal
    out = weighted_sum(builder, key, _sum_name(call), sums, affine, kernels[1])
    return _finished(builder, call, as_keras(call, values[0], out), layer.bias if layer.use_bias else None)


def _image(builder: GraphBuilder, call: Call, value: FloatTensor, groups: int) -> tuple[Node, AffineInput | None, Pads]:
    """The codes of an image, channels last, of the rank that the layer is for."""
    layer = call.layer
    channels_last(call)
    if len(value.shape) != layer.rank + 1:
        raise Refusal(f"layer {call.key!r}: reads shape {value.shape}; {type(layer).__name__} takes "
                      f"{'(length, channels)' if layer.rank == 1 else '(rows, columns, channels)'}; use a Reshape")
    return builder.image(value, call.key, groups)


def channels_last(call: Call) -> None:
    """Refuse channels_first, which TensorFlow itself computes on a CPU for few layers only."""
    if getattr(call.layer, "data_format", "channels_last") != "channels_last":
        raise Refusal(f"layer {call.key!r}: data_format is channels_first; build the model with channels_last, with a "
                      "Permute before it if the data are stored so")


def _depthwise_window(call: Call, x: Node, pads: Pads) -> Window:
    layer = call.layer
    return window_of(call.key, x, pads, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding,
                     x.shape[-1])


def window_of(key: str, x: Node, pads: Pads, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int],
              padding: str, groups: int) -> Window:
    """Keras' padding as numbers: `same` makes ceil(n/stride) outputs, the odd zero behind; `pads` are there already."""
    size, around = x.shape[:-1], []
    for n, pad, k, stride, step in zip(size, pads, kernel, strides, dilation):
        whole, reach = n + sum(pad), (k - 1) * step
        same = max((-(-whole // stride) - 1) * stride + reach + 1 - whole, 0)
        zeros = {"valid": 0, "same": same, "causal": reach}[padding]
        before = zeros if padding == "causal" else zeros // 2
        around.append((pad[0] + before, pad[1] + zeros - before))
    window = Window(tuple(map(int, kernel)), tuple(map(int, strides)), tuple(map(int, dilation)), tuple(around),
                    int(groups), size)
    if min(window.positions) < 1:
        raise Refusal(f"layer {key!r}: its kernel {window.kernel} does not fit into an image of {size}; pool less "
                      "before it, or pad")
    return window


def as_keras(call: Call, value: FloatTensor, out: FloatTensor) -> FloatTensor:
    """`out`; raises Refusal where it has another shape than Keras gives for the input `value`."""
    try:
        shape = shape_of(call, value.shape)
    except Uncomputable as error:
        raise Refusal(f"layer {call.key!r}: Keras itself cannot compute it: {str(error)[:200]}") from error
    if shape != out.shape:
        raise Refusal(f"layer {call.key!r}: makes {shape} of {value.shape}, not {out.shape}; use another padding")
    return out


def _sum_name(call: Call) -> str:
    """The sum has the layer's name unless its activation will have it."""
    return f"{call.key}_sum" if levels_of(call.key, call.layer.activation) is not None else call.key


def weighted_sum(builder: GraphBuilder, key: str, name: str, x: Node, affine: AffineInput | None,
                 kernel: QuantizedKernel, window: Window | None = None, shrink: int = 1) -> FloatTensor:
    """The sum of the codes of `x` times a kernel, over the taps of a window, as a node called `name`.

    `affine` has the lines by which codes are real numbers, where they are no values themselves. `shrink`, a power of
    two, divides the sum. A proven bound makes it exact; a real scale becomes a stage behind it.
    """
    weights, unit = kernel.weights, x.domain.unit * kernel.unit / shrink
    a, b = x.domain.numerator
    largest = max(abs(a * x.domain.lo + b), abs(a * x.domain.hi + b))
    bound = largest * weights.l1_bound
    real = kernel.scale is not None or affine is not None
    if real:
        builder.notes.append(f"{key}: real-scaled, exact in real numbers; Keras' float32 sums are noise around them")
    else:
        check_bound(key, bound, unit, lambda past: _narrower(builder, x, weights, past))
        builder.notes.append(f"{key}: dyadic, sums stay within {bound} units of 2^24")
    affine, taps = affine or plain(x), None
    if window is not None and not (window.taps == 1 and set(window.strides) == {1} and not np.any(window.pads)):
        taps, shape = window, (*window.positions, window.taps * x.shape[-1])
        x = builder.add(f"{name}_window", Op.WINDOW, [x], shape, x.domain, window)
    domain = dot_domain(x.domain, weights, taps)
    shape = (*x.shape[:-1], weights.levels.shape[1])
    node = builder.add(name, Op.DOT, [x], shape, Domain(domain.lo, domain.hi, unit), weights)
    out = FloatTensor(node, shape)
    return out.then(_real_scale(key, out.shape, kernel, affine, taps, shrink)) if real else out


def _finished(builder: GraphBuilder, call: Call, out: FloatTensor, bias: Any) -> FloatTensor:
    """The bias of a layer, quantised, where it has one, and its activation."""
    layer, key = call.layer, call.key
    if bias is not None:
        quantizer = getattr(layer, "bias_quantizer_internal", None)
        check_steady(key, "bias_quantizer", quantizer, bias)
        bias = tf.convert_to_tensor(quantizer(bias) if quantizer is not None else bias)
        if not np.isfinite(bias.numpy()).all():
            raise Refusal(f"layer {key!r}: its quantised bias is not finite; use another bias_quantizer")
        added = on_arrays(lambda t: tf.nn.bias_add(t, bias))
        lines = [Line(Fraction(1), v, ADDITION) for v in map(Fraction, bias.numpy().tolist())]
        out = out.then(Stage(key, added, lines, alike=True, rising=True))
    return activate(builder, key, layer.activation, out)


def check_bound(key: str, bound: int, unit: Fraction, remedy: Callable[[int], str]) -> None:
    """Refuse sums that float32 may not hold exactly; `remedy` says what to do about so many bits too many."""
    if not SMALLEST <= unit <= LARGEST:
        raise Refusal(f"layer {key!r}: its sums count units of {float(unit):g}, where float32 flushes or overflows; "
                      "use weights and input types near 1")
    if unit.denominator & (unit.denominator - 1):
        raise Refusal(f"layer {key!r}: its sums count units of {unit}, which float32 does not hold; use powers of two")
    # A unit that is no power of two takes bits of its own.
    bound *= unit.numerator // (unit.numerator & -unit.numerator)
    if bound >= EXACT_UNITS:
        raise Refusal(f"layer {key!r}: its sums can reach {bound} units, past the {EXACT_UNITS} (2^24) that float32 "
                      f"adds exactly: {remedy((bound // EXACT_UNITS).bit_length())}")


def _narrower(builder: GraphBuilder, x: Node, weights: Weights, past: int) -> str:
    """Where the bits of a sum of codes of `x` come from, and what takes off the `past` ones that are too many."""
    sources = _coded_by({node.name: node for node in builder.nodes}, x)
    said = ", ".join(f"{'input' if node.traits.outside else 'layer'} {node.name!r}" for node in sources)
    width, own, levels = x.domain.bits, max(node.domain.bits for node in sources), weights.l1_bound.bit_length()
    added = f", {width} as they are added up before this layer" if width > own else ""
    what = " or ".join(dict.fromkeys("the input type" if node.traits.outside else "that activation"
                                     for node in sources))
    count = f"{past} bit{'s' if past > 1 else ''}"
    remedies = [f"make {what} {count} narrower"] if own > past else []
    if width > own and levels < 22:
        room = min(23 - levels, MAX_CODE_BITS)
        remedies.append(f"put QActivation('quantized_bits({room},0,alpha=1)') right before this layer")
    wide = int(np.abs(weights.levels).max(initial=0)).bit_length()
    remedies.append(f"make the weights {count} narrower" if wide > past else "use fewer inputs")
    return (f"its inputs are codes of {said} ({own} bits{added}), and its weights add up to {weights.l1_bound} "
            f"({levels} bits) an output; {', or '.join(remedies)}")


def _coded_by(nodes: Mapping[str, Node], x: Node) -> list[Node]:
    """The inputs and activations whose codes, moved or added up, are those of `x`."""
    if x.traits.outside or x.op in (Op.STEP, Op.LUT):
        return [x]
    found = [node for name in x.inputs for node in _coded_by(nodes, nodes[name])]
    return list({node.name: node for node in found}.values())


def _real_scale(key: str, shape: tuple[int, ...], kernel: QuantizedKernel, affine: AffineInput, window: Window | None,
                shrink: int) -> Stage:
    """The stage between an integer sum, a tensor of `shape`, and the real number that it stands for.

    With x = s*v + o on the way in and w = c*l*unit, the sum of w*x is s*c*(unit*sum l*v) + c*unit*sum l*o. Where all
    channels have one scale and no offset there is one line for all; where the taps of some positions have other
    offsets, or lie outside the image, the lines differ by position.
    """
    channels = shape[-1]
    scale = kernel.scale or [Fraction(1)] * channels
    inputs = _inputs_of_outputs(kernel.weights, affine, channels)
    slope = [elements[0].scale * c for elements, c in zip(inputs, scale)]
    noise = _noise(kernel, scale, inputs, shrink)
    rows, which = offsets(affine, kernel.weights, window)
    lines = [_line(s, c * kernel.unit / shrink * total, n)
             for row in rows for s, c, total, n in zip(slope, scale, row, noise)]
    mul, add = _floats(slope), _floats(line.offset for line in lines)
    alike = len(rows) == 1
    own = which[:, None] * channels + np.arange(channels)  # the line of every element
    if not alike:
        add = add[own].reshape(shape)
    elif len({(line.scale, line.offset) for line in lines}) == 1:
        lines = [max(lines, key=lambda line: line.rounding.absolute)]
    return Stage(key, on_arrays(lambda t: t * mul + add), lines, None if alike else own.ravel(), ideal=True, sums=True,
                 alike=alike, rising=min(slope) > 0)


def _inputs_of_outputs(weights: Weights, affine: AffineInput, channels: int) -> list[list[AffineElement]]:
    """For every output the different elements that are added up for it: those of its group of channels."""
    groups = [[affine.elements[k] for k in group] for group in affine.of_groups(weights.groups)]
    return [elements for elements in groups for _ in range(channels // weights.groups)]


def _noise(kernel: QuantizedKernel, scale: list[Fraction], inputs: list[list[AffineElement]],
           shrink: int) -> list[Fraction]:
    """How far Keras' float32 sum, divided by `shrink`, may be off, for every output."""
    largest = np.array([max(float(element.bound) for element in elements) for elements in inputs])
    off = np.array([max(float(element.noise) for element in elements) for elements in inputs])
    ideal = kernel.weights.effective * np.array([float(c * kernel.unit) for c in scale])
    return [noise / shrink for noise in sum_noise(kernel.real, ideal, largest, off, SAFE, FLUSHED)]


def _line(scale: Fraction, offset: Fraction, noise: Fraction) -> Line:
    return Line(scale, offset, scaling(abs(offset), offset, noise))


def _floats(values: Iterable[Fraction]) -> NDArray[np.float32]:
    return np.array([float(v) for v in values], np.float32)

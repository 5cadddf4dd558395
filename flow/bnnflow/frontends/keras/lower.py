"""Lowering: a Keras model becomes the integer graph.

Every tensor is an integer node plus an `epilogue`: the float32 stages (bias, batch norm, activation) that Keras applies
before the next quantised activation. A quantised activation closes the epilogue: it is evaluated (exact/epilogues.py)
and becomes one STEP, the exact integer thresholds of what Keras computes, or a LUT.

Where a layer goes: sums.py (dense, convolution), pools.py, merges.py, stages.py (batch norm, relu, what moves
elements), activations.py (what closes an epilogue); each registers its layers in LOWERINGS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from bnnflow.errors import InputError, LoweringError
from bnnflow.exact.builder_state import Framework, GraphBuilder
from bnnflow.exact.epilogues import FloatTensor
from bnnflow.exact.functions import Refusal
from bnnflow.exact.outputs import output
from bnnflow.frontends.keras.calls import Call, model_calls
from bnnflow.frontends.keras.configuration import unsupported_layer
from bnnflow.frontends.keras.layers import LOWERINGS
from bnnflow.frontends.keras.reading import read_model
from bnnflow.generation import keras, leaf_layers
from bnnflow.ir import Domain, Graph, Node, Op, clean_name, fixed
from bnnflow.ir.input_types import InputType, no_type
from bnnflow.ir.passes import optimise
from bnnflow.train.saving import input_type_of

__all__ = ["lower"]

KERAS = Framework("Keras", "a QActivation (binary, ternary, quantized_relu, ...)")


def lower(model: keras.Model | str | os.PathLike[str], input_type: InputType | None = None,
          output_type: str | None = None) -> Graph:
    """A Keras model, live or from a `.keras` or `.h5` file or the folder of a training run -> the integer graph that
    computes the same codes.

    `input_type`: the inputs' type in hls4ml's notation, such as "ufixed<8,0>" for pixels/256, or {input layer: type};
    by default the one that the model says (`bnnflow.train.with_input_type`).
    `output_type`: that of outputs that need rounding; by default 24 bits with as many fraction bits as their range
    leaves. `graph.notes` tells the exactness class and bound of every sum, dropped heads, rounding, merged planes.

    Raises LoweringError with all problems of the model at once, InputError for an unusable file or type.
    """
    if isinstance(model, (str, os.PathLike)):
        model = read_model(model)
    head = fixed(output_type) if output_type is not None else None
    calls = model_calls(model)
    input_type = input_type_of(model) if input_type is None else input_type
    if input_type is None:
        raise no_type(f"model {model.name!r}")
    domains = _input_domains([c.layer.name for c in calls.calls if c.is_input], input_type)
    _raise_any([*_not_finite(model), *_unknown(calls.calls)])
    builder, problems = GraphBuilder(KERAS, [c.key for c in calls.calls if clean_name(c.key) == c.key]), _Problems()
    values = _values(builder, calls.calls, domains, problems)
    outputs: list[str] = []
    builder.layer = ""
    for final in (values[key] for key in calls.outputs):
        with problems.collected():
            if final is not None:
                outputs.append(output(builder, final, head, outputs))
    _raise_any(problems)
    nodes = _inputs_first(builder.nodes, calls.inputs)
    return optimise(Graph(tuple(nodes), tuple(outputs), tuple(builder.notes)))


class _Problems(list[str]):
    """What is refused, so that the user sees all of it at once."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a Refusal as a problem, and go on behind the block."""
        try:
            yield
        except Refusal as refusal:
            self.append(str(refusal))


def _raise_any(problems: Sequence[str]) -> None:
    if problems:
        raise LoweringError(list(problems))


def _values(builder: GraphBuilder, calls: Sequence[Call], domains: Mapping[str, Domain],
            problems: _Problems) -> dict[str, FloatTensor | None]:
    """What every tensor means, by its key; None where its layer, or one before it, is refused."""
    values: dict[str, FloatTensor | None] = {}
    for call in calls:
        given = [value for value in (values[key] for key in call.inputs) if value is not None]
        result, builder.layer = None, call.key
        # Behind a layer that is refused, layers are not reported.
        if len(given) == len(call.inputs):
            with problems.collected():
                if call.is_input:
                    result = _input(builder, call, domains[call.layer.name])
                else:
                    result = LOWERINGS[type(call.layer)](builder, call, given)
        values.update(dict.fromkeys(call.outputs, result))
    return values


def _inputs_first(nodes: Sequence[Node], inputs: Sequence[str]) -> Iterator[Node]:
    """The nodes, those of the inputs first and in the order of the model's inputs (their tensors' keys)."""
    outside = sorted((node for node in nodes if node.traits.outside), key=lambda node: inputs.index(node.origin))
    yield from (replace(node, origin="") for node in outside)
    yield from (node for node in nodes if not node.traits.outside)


def _input_domains(names: list[str], types: InputType) -> dict[str, Domain]:
    if isinstance(types, str):
        return {name: fixed(types) for name in names}
    if set(types) != set(names):
        raise InputError(f"input_type names {', '.join(map(repr, types))}; the model's inputs are "
                         f"{', '.join(map(repr, names))}")
    return {name: fixed(text) for name, text in types.items()}


def _unknown(calls: Sequence[Call]) -> list[str]:
    problems: list[str] = []
    for call in calls:
        layer = call.layer
        if call.is_input:
            continue
        if type(layer) not in LOWERINGS:
            problems.append(unsupported_layer(call.key, type(layer).__name__))
        elif call.trouble:
            problems.append(f"layer {call.key!r} {call.trouble}")
        else:
            problems += _of_other_types(call.key, layer)
    return list(dict.fromkeys(problems))


def _of_other_types(key: str, layer: Any) -> Iterator[str]:
    """Why a layer, or the one in it that it wraps, does not compute in float32."""
    if mode := getattr(layer, "quantization_mode", None):
        yield (f"layer {key!r}: quantised by Keras itself to {mode}, with scales of the data; use a layer of QKeras "
               "instead, with kernel_quantizer=quantized_bits(8, 0, alpha=1)")
    elif layer.compute_dtype != "float32":
        yield (f"layer {key!r}: computes in {layer.compute_dtype}; exactness needs float32: build it with "
               "dtype='float32'")
    if isinstance(inside := getattr(layer, "layer", None), keras.layers.Layer):
        yield from _of_other_types(key, inside)


def _not_finite(model: keras.Model) -> list[str]:
    problems = []
    for layer in leaf_layers(model):
        for weight in () if isinstance(layer, keras.Model) else layer.weights:
            array = weight.numpy()
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                name = getattr(weight, "path", weight.name)
                problems.append(f"layer {layer.name!r}: weight {name!r} holds {array[at]} at index {at}; train again "
                                "from a finite checkpoint")
    return list(dict.fromkeys(problems))


def _input(builder: GraphBuilder, call: Call, domain: Domain) -> FloatTensor:
    if call.layer.dtype != "float32":
        raise Refusal(f"layer {call.key!r}: takes {call.layer.dtype}, which Keras rounds inputs to; use float32")
    shape = tuple(tf.nest.flatten(call.layer.output)[0].shape[1:])
    if not shape or any(n is None for n in shape):
        raise Refusal(f"layer {call.key!r}: input shape {shape} has open dimensions; give every dimension a size")
    return FloatTensor(builder.add(call.key, Op.INPUT, [], shape, domain, origin=call.outputs[0]), shape)

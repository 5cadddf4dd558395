"""What "Keras" means in the exactness contract, and the comparison of a graph with it.

float32 on the CPU, no XLA, with TensorFlow's arithmetic reassociation, remapping and folding of constants switched off:
then a model computes what its layers compute one by one. Plain `predict` differs from that in rare shapes, such as an
Add of two activations or two batch norms in a row, and in hard_sigmoid of Keras 3, which divides by 6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from bnnflow.errors import InputError, Mismatch
from bnnflow.frontends.keras.calls import model_calls
from bnnflow.generation import keras
from bnnflow.ir import Graph, Node
from bnnflow.ir.evaluate import ambiguities, ambiguous, trace

__all__ = ["activations_of", "check_equal", "codes_of", "keras_activations", "nothing_compared"]

IN_FUNCTIONS = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./>-]*")  # names of layers that TensorFlow's functions take
REWRITING = ("arithmetic_optimization", "remapping", "constant_folding")  # parts of TensorFlow's graph optimizer


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """TensorFlow computes every layer as it is written; the caller's options come back afterwards."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(dict.fromkeys(REWRITING, False))
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(
            {**dict.fromkeys(REWRITING, True), **before}
        )


def keras_activations(model: keras.Model, keys: Sequence[str], x: Any, batch_size: int = 1024) -> dict[str, Any]:
    """Float32 outputs of calls for inputs `x`, as `activations_of` gives them."""
    return activations_of(model, keys, batch_size)(x)


def activations_of(model: keras.Model, keys: Sequence[str], batch_size: int = 1024) -> Callable[[Any], dict[str, Any]]:
    """What gives the float32 outputs of calls (`Call.key`: layer names, those in nested models with a path) for inputs.

    These are (n, *shape), or a list of such arrays in the order of the model's inputs.
    """
    walk, wanted = model_calls(model), set(keys)

    def compute(*batch: tf.Tensor) -> dict[str, tf.Tensor]:
        values, found = dict(zip(walk.inputs, batch, strict=True)), {}
        for call in walk.calls:
            if not call.is_input:
                result = call(*(values[key] for key in call.inputs))
                values.update(zip(call.outputs, tf.nest.flatten(result), strict=True))
            if call.key in wanted:
                found[call.key] = values[call.outputs[0]]
        return found

    # A function has one shape a trace: quantized_linear computes with no open one. Some names can be in no function.
    named = all(IN_FUNCTIONS.fullmatch(call.layer.name) for call in walk.calls)
    run = tf.function(compute, jit_compile=False) if named else compute

    def values(x: Any) -> dict[str, Any]:
        arrays = list(x) if isinstance(x, (list, tuple)) else [x]
        with layer_by_layer(), tf.device("CPU:0"):
            parts = [run(*(tf.constant(a[i : i + batch_size], tf.float32) for a in arrays))
                     for i in range(0, len(arrays[0]), batch_size)]
        return {key: np.concatenate([part[key].numpy() for part in parts]) for key in keys}

    return values


def _compared(graph: Graph) -> dict[str, Node]:
    """Key of a Keras call -> the node that holds its codes."""
    return {node.origin: node for node in graph if node.origin}


def codes_of(graph: Graph, model: keras.Model, batch_size: int = 1024) -> Callable[[Any], dict[str, Any]]:
    """What gives {node: codes} that Keras computes for inputs at every quantised activation.

    They are float64, so that values off the levels show.
    """
    nodes = _compared(graph)
    activations = activations_of(model, list(nodes), batch_size)

    def codes(x: Any) -> dict[str, Any]:
        values = activations(x)
        return {node.name: (values[layer].astype(np.float64) - float(node.domain.offset)) / float(node.domain.scale)
                for layer, node in nodes.items()}

    return codes


def nothing_compared(graph: Graph, near: Mapping[str, int], samples: int) -> str:
    """That all samples are ambiguous, and at which layer most are; `near` says how many at each node."""
    worst = max(near, key=lambda name: near[name])
    return (f"none of {samples} samples can be compared with Keras: at layer {graph[worst].origin or worst!r} "
            f"{near[worst]} of them bring a sum within Keras' float32 noise of a threshold")


def check_equal(graph: Graph, model: keras.Model, x: Any, batch_size: int = 1024) -> Mapping[str, int]:
    """Compare the graph with Keras at every quantised activation: {node: number of codes compared}.

    Samples where a real-scaled sum lies within float32 noise of a threshold (`ambiguous`) are left out and not counted.
    Raises Mismatch with the first differing node, sample, channel and both codes, InputError where all are left out.
    """
    codes = graph.encode(x)
    ours = trace(graph, codes, [node.name for node in _compared(graph).values()])
    sure = ~ambiguous(graph, codes)
    if len(sure) and not sure.any():
        near = {name: int(found.sum()) for name, found in ambiguities(graph, codes).items()}
        raise InputError(f"{nothing_compared(graph, near, len(sure))}; give more samples, or make the noise smaller "
                         "than the steps of the sum: alpha=1 or another power of two, a smaller bias and mean, fewer "
                         "input bits")
    counts = {}
    for name, theirs in codes_of(graph, model, batch_size)(x).items():
        if ours[name].shape != theirs.shape:
            raise Mismatch(f"graph and Keras differ at node {name!r} (layer {graph[name].origin!r}): shapes "
                           f"{ours[name].shape} and {theirs.shape}")
        wrong = (ours[name] != theirs) & sure.reshape(-1, *(1,) * (theirs.ndim - 1))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Mismatch(
                f"graph and Keras differ at node {name!r} (layer {graph[name].origin!r}): sample {at[0]}, element "
                f"{at[1:]}: graph {ours[name][at]}, Keras {theirs[at]:g}; {int(wrong.sum())} of {wrong.size} codes"
            )
        counts[name] = int(sure.sum()) * graph[name].size
    return counts

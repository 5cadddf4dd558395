"""What "Keras" means in the exactness contract, and the comparison of a graph with it.

float32 on the CPU, no XLA, with TensorFlow's arithmetic reassociation and remapping switched off: then a model computes
what its layers compute one by one. Plain `predict` differs from that in rare shapes (an Add of two activations, or two
batch norms in a row).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from flow.errors import Mismatch
from flow.ir import Graph, Node, Op
from flow.ir.evaluate import trace

__all__ = ["check_equal", "keras_activations", "keras_codes"]


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """TensorFlow computes every layer as it is written; the caller's options come back afterwards."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False, "remapping": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(
            {"arithmetic_optimization": True, "remapping": True, **before}
        )


def keras_activations(model: keras.Model, layers: list[str], x: NDArray[Any], batch_size: int = 1024) -> dict[str, Any]:
    """Float32 outputs of the named layers for inputs `x` (n, *shape), by layer name."""
    probe = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])
    with layer_by_layer(), tf.device("CPU:0"):
        call = tf.function(lambda batch: probe(batch, training=False), jit_compile=False, reduce_retracing=True)
        parts = [tf.nest.flatten(call(tf.constant(x[i : i + batch_size], tf.float32)))
                 for i in range(0, len(x), batch_size)]
    return {name: np.concatenate([part[k].numpy() for part in parts]) for k, name in enumerate(layers)}


def _compared(graph: Graph) -> dict[str, Node]:
    """Keras layer name -> the node that holds its codes."""
    return {node.origin: node for node in graph if node.origin and node.op in (Op.STEP, Op.GATHER)}


def keras_codes(graph: Graph, model: keras.Model, x: NDArray[Any], batch_size: int = 1024) -> dict[str, Any]:
    """{node: codes} that Keras computes at every quantised activation; float64, so that values off the levels show."""
    nodes = _compared(graph)
    values = keras_activations(model, list(nodes), x, batch_size)
    return {node.name: (values[layer].astype(np.float64) - float(node.domain.beta)) / float(node.domain.alpha)
            for layer, node in nodes.items()}


def check_equal(graph: Graph, model: keras.Model, x: NDArray[Any], batch_size: int = 1024) -> Mapping[str, int]:
    """Compare the graph with Keras at every quantised activation: {node: number of codes compared}.

    Raises Mismatch with the first differing node, sample, channel and both codes.
    """
    ours = trace(graph, graph.encode(x))
    counts = {}
    for name, theirs in keras_codes(graph, model, x, batch_size).items():
        wrong = ours[name] != theirs
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Mismatch(
                f"graph and Keras differ at node {name!r} (layer {graph[name].origin!r}): sample {at[0]}, element "
                f"{at[1:]}: graph {ours[name][at]}, Keras {theirs[at]:g}; {int(wrong.sum())} of {wrong.size} codes"
            )
        counts[name] = int(wrong.size)
    return counts

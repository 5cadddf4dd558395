"""Input vectors that exercise a graph: edges of the range, ties at the thresholds, and random ones; always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.ir.evaluate import trace
from bnnflow.ir.graph import Graph
from bnnflow.ir.nodes import Int, Node, Steps

__all__ = ["default_vectors", "near_thresholds"]

SEARCHED = 2**26  # elements to evaluate at most in search of ties
EVALUATED = 2**28  # elements to evaluate at most for the outputs, once there are FEWEST samples
FEWEST = 32
BATCH = 2**26  # elements at a time


def near_thresholds(graph: Graph, codes: Any) -> dict[str, NDArray[np.bool_]]:
    """Where the input of each STEP lies within 1 of one of its thresholds: {name of the node: bool (n, *shape)}."""
    steps = [node for node in graph if isinstance(node.params, Steps)]
    values, result = trace(graph, codes, [node.inputs[0] for node in steps]), {}
    for node in steps:
        assert isinstance(node.params, Steps)
        x = values[node.inputs[0]]
        # Thresholds from x - 1 to x + 1.
        result[node.name] = node.params.reached(x + 1) > node.params.reached(x - 2)
    return result


def default_vectors(graph: Graph, count: int = 256, seed: int = 0) -> list[Int]:
    """`count` input codes (count, *shape), int64, per input, for a project's test bench; the same for the same graph.

    Extreme codes come first, constant and alternating. The others are of a random pool: half of them are the samples
    in which most sums lie at a threshold, half any. The time is linear in the elements of the graph up to a bound:
    the pool of a large graph holds only `count` samples, and a very large one gets less of them, but FEWEST at least.
    """
    rng = np.random.default_rng(seed)
    elements = sum(node.size for node in graph)
    count = min(count, max(FEWEST, EVALUATED // elements))
    size = max(count, min(1024, SEARCHED // elements))
    edges, pools = zip(*(_edges_and_pool(node, size, rng) for node in graph.inputs))
    score = np.zeros(size)
    step = max(1, BATCH // elements)
    for first in range(0, size if size > count else 0, step):
        part = slice(first, first + step)
        for near in near_thresholds(graph, [pool[part] for pool in pools]).values():
            score[part] += near.reshape(len(near), -1).mean(axis=1)
    order = np.argsort(-score, kind="stable")
    ties = (count - len(edges[0])) // 2
    rest = np.sort(order[ties : count - len(edges[0])])
    return [np.concatenate([e, p[order[:ties]], p[rest]]).astype(np.int64) for e, p in zip(edges, pools)]


def _edges_and_pool(node: Node, size: int, rng: np.random.Generator) -> tuple[Int, Int]:
    """Extreme codes (7, *shape) and random ones (size, *shape) of an input."""
    d, shape = node.domain, node.shape
    middle, zero = (d.lo + d.hi) // 2, min(max(0, d.lo), d.hi)
    alternate = np.where(np.indices(shape).sum(axis=0) % 2, d.lo, d.hi)
    edges = [np.full(shape, v) for v in (d.lo, d.hi, middle, min(middle + 1, d.hi), zero)]
    # Few-valued and sparse inputs reach sums that independent uniform ones never do.
    pool = rng.integers(d.lo, d.hi, (size, *shape), endpoint=True)
    pool[1::4] = rng.choice([d.lo, d.hi], pool[1::4].shape)
    pool[2::4][rng.random(pool[2::4].shape) < 0.8] = zero
    return np.stack([*edges, alternate, d.lo + d.hi - alternate]), pool

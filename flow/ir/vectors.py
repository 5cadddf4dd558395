"""Input vectors that exercise a graph: edges of the range, ties at the cuts, and random ones; always the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flow.ir.evaluate import trace
from flow.ir.graph import Graph, Int, Op, Steps

__all__ = ["default_vectors", "near_cuts"]


def near_cuts(graph: Graph, codes: Int) -> dict[str, NDArray[np.bool_]]:
    """{STEP node: bool (n, *shape)}: where its input lies within 1 of one of its cuts (ties and their neighbours)."""
    values, result = trace(graph, codes), {}
    for node in graph:
        if node.op is Op.STEP and isinstance(node.params, Steps):
            x = values[node.inputs[0]]
            near = np.zeros(x.shape, bool)
            for k in range(node.params.cuts.shape[1]):
                near |= np.abs(x - node.params.cuts[:, k]) <= 1
            result[node.name] = near
    return result


def default_vectors(graph: Graph, count: int = 256, seed: int = 0) -> Int:
    """`count` input codes (count, *shape), int64, for a project's test bench; the same for the same graph and seed.

    Constant and alternating extremes, then those of a larger random pool in which most sums lie at a cut, then random.
    """
    rng = np.random.default_rng(seed)
    d, shape = graph.input.domain, graph.input.shape
    middle = (d.lo + d.hi) // 2
    alternate = np.where(np.indices(shape).sum(axis=0) % 2, d.lo, d.hi)
    edges = [np.full(shape, v) for v in (d.lo, d.hi, middle, min(middle + 1, d.hi), min(max(0, d.lo), d.hi))]
    edges += [alternate, d.lo + d.hi - alternate]
    # Constant and few-valued inputs reach sums that independent uniform ones never do.
    pool = rng.integers(d.lo, d.hi, (max(count, 1024), *shape), endpoint=True)
    pool[1::4] = rng.choice([d.lo, d.hi], pool[1::4].shape)
    sparse = rng.random(pool[2::4].shape) < 0.8
    pool[2::4][sparse] = min(max(0, d.lo), d.hi)
    score = sum(near.reshape(len(pool), -1).mean(axis=1) for near in near_cuts(graph, pool).values())
    order = np.argsort(-np.asarray(score + np.zeros(len(pool))), kind="stable")
    ties = (count - len(edges)) // 2
    rest = np.sort(order[ties : ties + count - len(edges) - ties])
    return np.concatenate([np.stack(edges), pool[order[:ties]], pool[rest]]).astype(np.int64)

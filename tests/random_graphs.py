"""Random integer graphs, without Keras: domains and parameters that no layer yields today, for every emitter."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from flow.ir import BIPOLAR, Affine, Domain, Graph, Index, Node, Op, Steps, Weights
from flow.ir.verify import dot_domain

INPUTS = (
    BIPOLAR, Domain(0, 1), Domain(-1, 1), Domain(0, 255, Fraction(1, 256)), Domain(-8, 7, Fraction(1, 4)),
    Domain(0, 1, Fraction(3), Fraction(-1)), Domain(-3, 12, Fraction(2), Fraction(1)), Domain(5, 9), Domain(-9, -4),
    Domain(0, 0), Domain(-(2**23), 2**23 - 1),
)


def random_steps(rng: np.random.Generator, source: Domain, channels: int, target: Domain) -> Steps:
    """Any cuts, also outside the range and equal ones, rising and falling."""
    count = target.size - 1
    cuts = np.sort(rng.integers(source.lo - 2, source.hi + 3, (channels, count)), axis=1)
    sign = rng.choice([-1, 1], channels)
    return Steps(np.where(sign > 0, target.lo, target.hi).astype(np.int64), sign.astype(np.int64), cuts)


def random_graph(seed: int) -> Graph:
    """Input, then a few of GATHER, DOT and STEP, then sometimes AFFINE."""
    rng = np.random.default_rng(seed)
    domain = INPUTS[seed % len(INPUTS)]
    flat = rng.random() < 0.6
    shape: tuple[int, ...] = (int(rng.integers(1, 90)),) if flat else tuple(rng.integers(1, 9, 2).tolist())
    nodes = [Node("x", Op.INPUT, (), shape, domain)]

    def add(op: Op, shape: tuple[int, ...], domain: Domain, params: object) -> None:
        nodes.append(Node(f"n{len(nodes)}", op, (nodes[-1].name,), shape, domain, params))  # type: ignore[arg-type]

    for _ in range(int(rng.integers(2, 6))):
        last = nodes[-1]
        kind = rng.choice(["gather", "dot", "step"])
        if kind == "gather":
            target = (int(rng.integers(1, 70)),) if rng.random() < 0.5 else tuple(rng.integers(1, 8, 2).tolist())
            add(Op.GATHER, target, last.domain, Index(rng.integers(0, last.size, int(np.prod(target)))))
        elif kind == "dot" and last.domain.bits < 25:
            shape = (last.shape[-1], int(rng.integers(1, 40)))
            levels = rng.choice([[-1, 1], [-1, 0], [-3, 3], [0, 1], [-7, 5], [0, 0]][int(rng.integers(6))], shape)
            if rng.random() < 0.3 and last.domain.bits < 12:
                levels = rng.integers(-9, 10, shape)
            weights = Weights(levels.astype(np.int64), rng.random(shape) < rng.choice([0.2, 0.9, 1.0]))
            sums = dot_domain(last.domain, weights)
            if sums.bits <= 31:
                add(Op.DOT, (*last.shape[:-1], shape[1]), sums, weights)
        else:
            target_domain = [BIPOLAR, Domain(-1, 1), Domain(0, 6, Fraction(1, 4)), Domain(2, 3)][int(rng.integers(4))]
            add(Op.STEP, last.shape, target_domain, random_steps(rng, last.domain, last.shape[-1], target_domain))
    last = nodes[-1]
    if rng.random() < 0.4 and last.domain.bits < 25 and len(nodes) > 1:
        channels, shift = last.shape[-1], int(rng.integers(0, 30))
        mul, bias = rng.integers(-(2**30), 2**30, channels), rng.integers(-(2**40), 2**40, channels)
        add(Op.AFFINE, last.shape, Domain(-(2**61), 2**61 - 1, Fraction(1, 16)), Affine(mul, bias, shift))
    if len(nodes) == 1:
        add(Op.GATHER, shape, domain, Index(np.arange(nodes[0].size)))
    return Graph(tuple(nodes), (nodes[-1].name,))


def random_codes(graph: Graph, seed: int, count: int = 64) -> np.ndarray:
    """Codes of the whole range, the ends included."""
    d = graph.input.domain
    codes = np.random.default_rng(seed).integers(d.lo, d.hi, (count, *graph.input.shape), endpoint=True)
    codes[0], codes[1] = d.lo, d.hi
    return codes


def plain_run(graph: Graph, sample: np.ndarray) -> list[int]:
    """The specification in Python integers, one sample, written apart from EVAL."""
    values: dict[str, list[int]] = {}
    for node in graph.nodes:
        if node.op is Op.INPUT:
            values[node.name] = [int(v) for v in sample.ravel()]
            continue
        source, x, p = graph[node.inputs[0]], values[node.inputs[0]], node.params
        if isinstance(p, Index):
            values[node.name] = [x[int(i)] for i in p.flat]
        elif isinstance(p, Weights):
            (a, b), (n, m) = source.domain.numerator, p.levels.shape
            values[node.name] = [
                sum(int(p.levels[i, j]) * (a * x[r * n + i] + b) for i in range(n) if p.mask[i, j])
                for r in range(len(x) // n) for j in range(m)
            ]
        elif isinstance(p, Steps):
            channels = len(p.start)
            values[node.name] = [
                int(p.start[i % channels]) + int(p.sign[i % channels]) * sum(v >= int(c) for c in p.cuts[i % channels])
                for i, v in enumerate(x)
            ]
        elif isinstance(p, Affine):
            channels = len(p.mul)
            values[node.name] = [
                (int(p.mul[i % channels]) * v + int(p.add[i % channels])) // 2**p.shift for i, v in enumerate(x)
            ]
    return values[graph.outputs[0]]

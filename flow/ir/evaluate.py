"""EVAL: what each op computes, exactly, on int64 codes; and the way from real values to codes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow.errors import InputError
from flow.ir.domain import Domain
from flow.ir.graph import Affine, Graph, Index, Int, Node, Op, Steps, Weights

__all__ = ["EVAL", "check_codes", "decode", "encode", "run", "trace"]

CHUNK = 2**22  # elements of the largest tensor per evaluation, to bound memory


def _gather(node: Node, x: Int, source: Node) -> Int:
    assert isinstance(node.params, Index)
    return x.reshape(len(x), source.size)[:, node.params.flat].reshape(len(x), *node.shape)


def _dot(node: Node, x: Int, source: Node) -> Int:
    assert isinstance(node.params, Weights)
    a, b = source.domain.numerator
    value, levels = a * x + b, node.params.effective
    # float64 matrix products of integers are exact, in any order, while every partial sum stays below 2^53.
    largest = max(abs(a * source.domain.lo + b), abs(a * source.domain.hi + b))
    if largest * int(np.abs(levels).sum(axis=0, dtype=object).max(initial=0)) < 2**53:
        return (value.astype(np.float64) @ levels.astype(np.float64)).astype(np.int64)
    return value @ levels


def _step(node: Node, x: Int, source: Node) -> Int:
    p = node.params
    assert isinstance(p, Steps)
    count = np.zeros(x.shape, np.int64)
    for k in range(p.cuts.shape[1]):
        count += x >= p.cuts[:, k]
    return p.start + p.sign * count


def _affine(node: Node, x: Int, source: Node) -> Int:
    p = node.params
    assert isinstance(p, Affine)
    return (p.mul * x + p.add) >> p.shift


def _input(node: Node, x: Int, source: Node) -> Int:
    return x


EVAL: dict[Op, Callable[[Node, Int, Node], Int]] = {
    Op.INPUT: _input, Op.GATHER: _gather, Op.DOT: _dot, Op.STEP: _step, Op.AFFINE: _affine,
}


def check_codes(node: Node, codes: NDArray[Any]) -> Int:
    """Codes of a node's domain as int64 (n, *shape); raises InputError with the first index and value outside."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iub":
        raise InputError(f"input {node.name!r}: codes must be integers, got {codes.dtype}; use g.encode(x) for values")
    if codes.shape[1:] != node.shape or codes.ndim != len(node.shape) + 1:
        raise InputError(f"input {node.name!r}: codes have shape {codes.shape}, expected (n, {_dims(node.shape)})")
    _first_bad((codes < node.domain.lo) | (codes > node.domain.hi), codes, node,
               f"is outside {node.domain.lo}..{node.domain.hi}")
    return codes.astype(np.int64)


def encode(graph: Graph, x: NDArray[Any], round: bool = False) -> Int:
    """Real inputs (n, *shape) -> int64 codes of the graph's input.

    A value between two codes raises InputError with its index unless `round` (half to even); a value outside the
    range always raises. NaN and infinities raise.
    """
    node = graph.input
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise InputError(f"input {node.name!r}: expected numbers, got {x.dtype}")
    if x.shape[1:] != node.shape or x.ndim != len(node.shape) + 1:
        raise InputError(f"input {node.name!r}: got shape {x.shape}, expected (n, {_dims(node.shape)})")
    real = x.astype(np.float64)
    _first_bad(~np.isfinite(real), x, node, "is not finite")
    alpha, beta = node.domain.alpha, node.domain.beta
    # alpha is a power of two for every input type, so this division is exact.
    scaled = (real - float(beta)) / float(alpha)
    codes = np.rint(scaled)
    if not round:
        _first_bad(codes != scaled, x, node, f"is not a multiple of {alpha}; pass round=True to round to the grid")
    outside = (codes < node.domain.lo) | (codes > node.domain.hi)
    low, high = (float(alpha * c + beta) for c in (node.domain.lo, node.domain.hi))
    _first_bad(outside, x, node, f"is outside {node.domain.type_name}, which holds {low} to {high}")
    return codes.astype(np.int64)


def _first_bad(bad: NDArray[np.bool_], x: NDArray[Any], node: Node, why: str) -> None:
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"input {node.name!r}: value {x[at]} at index {at} {why} ({int(bad.sum())} such values)")


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def decode(domain: Domain, codes: Int) -> NDArray[np.float64]:
    """Codes -> the float64 values alpha*code + beta."""
    return np.asarray(codes, np.float64) * float(domain.alpha) + float(domain.beta)


def _walk(graph: Graph, codes: Int) -> Iterator[tuple[Node, Int]]:
    """Evaluate node by node, forgetting a tensor when its last reader has run."""
    last = {name: node.name for node in graph.nodes for name in node.inputs}
    live: dict[str, Int] = {}
    for node in graph.nodes:
        source = node if node.op is Op.INPUT else graph[node.inputs[0]]
        live[node.name] = EVAL[node.op](node, codes if node.op is Op.INPUT else live[source.name], source)
        yield node, live[node.name]
        for name in node.inputs:
            if last[name] == node.name:
                del live[name]


def _batches(graph: Graph, codes: Int) -> Iterator[Int]:
    step = max(1, CHUNK // max(node.size for node in graph))
    for start in range(0, max(len(codes), 1), step):
        yield codes[start : start + step]


def run(graph: Graph, codes: NDArray[Any]) -> Int:
    """Exact outputs, int64 (n, *shape), of a graph for input codes (n, *shape). Raises InputError for bad codes."""
    codes, name = check_codes(graph.input, codes), graph.output.name
    parts = []
    for batch in _batches(graph, codes):
        parts += [value for node, value in _walk(graph, batch) if node.name == name]
    return np.concatenate(parts)


def trace(graph: Graph, codes: NDArray[Any]) -> dict[str, Int]:
    """Codes of every node, by name; int64 (n, *shape) each."""
    codes = check_codes(graph.input, codes)
    parts: dict[str, list[Int]] = {node.name: [] for node in graph}
    for batch in _batches(graph, codes):
        for node, value in _walk(graph, batch):
            parts[node.name].append(value)
    return {name: np.concatenate(values) for name, values in parts.items()}

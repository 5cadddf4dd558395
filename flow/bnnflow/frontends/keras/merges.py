"""Merges of branches of exact codes: Add, Subtract, Concatenate, OR, AND, selection by channel."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import numpy as np

from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import TABLE, FloatTensor
from bnnflow.exact.functions import Refusal
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.registry import lowers
from bnnflow.frontends.keras.sums import check_bound
from bnnflow.generation import keras
from bnnflow.ir import Domain, Index, Node, Op, Steps, Sum, Table
from bnnflow.train.layers import ChannelSelect, LogicAnd, LogicOr

__all__ = []


@lowers(keras.layers.Add, keras.layers.Subtract)
def _add(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Branches of exact codes, each with its own power-of-two scale; Keras' float32 sum is exact below 2^24 units."""
    if any(v.shape != values[0].shape for v in values):
        raise Refusal(f"layer {call.key!r}: adds shapes {', '.join(str(v.shape) for v in values)}; give both one shape")
    total, *others = (_branch(builder, v, call.key) for v in values)
    sign = -1 if type(call.layer) is keras.layers.Subtract else 1
    for k, node in enumerate(others, 1):
        name = call.key if k == len(others) else f"{call.key}_part"
        total = _sum_of_two(builder, call.key, name, total, node, sign)
    return FloatTensor(total, values[0].shape)


def _sum_of_two(builder: GraphBuilder, key: str, name: str, a: Node, b: Node, sign: int) -> Node:
    """a + sign*b in their common unit, proven to be exact in float32."""
    unit, domains, signs = _common(a.domain, b.domain), (a.domain, b.domain), (1, sign)
    scale = [s * int(d.scale / unit) for s, d in zip(signs, domains)]
    constant = int(sum(s * d.offset / unit for s, d in zip(signs, domains)))
    ends = [sorted((c * d.lo, c * d.hi)) for c, d in zip(scale, domains)]
    lo, hi = (constant + sum(e[i] for e in ends) for i in (0, 1))
    bound = sum(max(abs(d.scale * d.lo + d.offset), abs(d.scale * d.hi + d.offset)) for d in domains) / unit
    check_bound(key, int(bound), unit, lambda past: (
        f"its branches count units of {a.domain.unit} and {b.domain.unit}, up to {a.domain.bits} and {b.domain.bits} "
        "bits of them; put a QActivation with the same quantizer of few bits, such as quantized_bits(8,2,alpha=1), at "
        "the end of each branch"))
    return builder.add(name, Op.ADD, [a, b], b.shape, Domain(lo, hi, unit), Sum(np.array(scale), constant))


def _branch(builder: GraphBuilder, value: FloatTensor, key: str) -> Node:
    """A branch of a merge: its codes, or the reason why it has none."""
    try:
        return builder.codes(value, key)
    except Refusal as refusal:
        floats = ", ".join(map(repr, value.floats))
        raise Refusal(f"layer {key!r}: merges float branches ({floats}); quantise each branch "
                      "with a QActivation first") from refusal


def _common(*domains: Domain) -> Fraction:
    """The largest unit of which all values of all domains are integer multiples."""
    parts = [p for d in domains for p in (d.scale, d.offset) if p]
    below = lcm(*(p.denominator for p in parts))
    return Fraction(int(np.gcd.reduce([int(p * below) for p in parts])), below)


@lowers(keras.layers.Concatenate)
def _concatenate(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    if call.layer.axis % (len(values[0].shape) + 1) == 0:
        raise Refusal(f"layer {call.key!r}: concatenates along the batch (axis {call.layer.axis}); use another axis")
    nodes = _on_one_grid(builder, values, call.key)
    first = np.cumsum([0, *(n.size for n in nodes)])
    places = [np.arange(n.size, dtype=np.float64).reshape(1, *n.shape) + at for n, at in zip(nodes, first)]
    index = np.concatenate(places, axis=call.layer.axis)[0].astype(np.int64)
    node = builder.add(call.key, Op.GATHER, nodes, index.shape, nodes[0].domain, Index(index.ravel()))
    return FloatTensor(node, index.shape)


@lowers(ChannelSelect)
def _channel_select(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    nodes = _on_one_grid(builder, values, call.key)
    size, shape = nodes[0].size, nodes[0].shape
    choice = np.broadcast_to(call.layer.choice().numpy(), shape).ravel()
    index = choice * size + np.arange(size)
    return FloatTensor(builder.add(call.key, Op.GATHER, nodes, shape, nodes[0].domain, Index(index), call.key), shape)


@lowers(LogicOr, LogicAnd)
def _logic(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """Codes added: OR is true where the sum is above that of all low codes, AND where it is that of all high ones."""
    nodes = [_branch(builder, v, call.key) for v in values]
    d, shape = nodes[0].domain, nodes[0].shape
    if any(n.domain != d for n in nodes) or d.size != 2:
        taken = ", ".join(n.domain.type_name for n in nodes)
        raise Refusal(f"layer {call.key!r}: its inputs take {taken}; logic needs the same two values everywhere: use "
                      "one binary activation for all of them")
    total = nodes[0]
    for k, node in enumerate(nodes[1:]):
        domain = Domain(total.domain.lo + d.lo, total.domain.hi + d.hi)
        total = builder.add(f"{call.key}_sum{k}", Op.ADD, [total, node], shape, domain, Sum(np.array([1, 1]), 0))
    threshold = total.domain.lo + 1 if type(call.layer) is LogicOr else total.domain.hi
    row = np.full(shape[-1], 1)
    steps = Steps(d.lo * row, row, threshold * row[:, None])
    return FloatTensor(builder.add(call.key, Op.STEP, [total], shape, d, steps, call.key), shape)


def _on_one_grid(builder: GraphBuilder, values: Sequence[FloatTensor], key: str) -> list[Node]:
    """The branches in one domain: their own where it is the same, else integers of their common unit."""
    nodes = [_branch(builder, v, key) for v in values]
    if all(n.domain == nodes[0].domain for n in nodes):
        return nodes
    nodes = [_on_unit(builder, node, _common(*(n.domain for n in nodes)), key) for node in nodes]
    lo, hi = min(n.domain.lo for n in nodes), max(n.domain.hi for n in nodes)
    return [_widened(builder, node, lo, hi, key) for node in nodes]


def _on_unit(builder: GraphBuilder, node: Node, unit: Fraction, name: str) -> Node:
    """The same values as integers of `unit`."""
    d = node.domain
    scale, constant = int(d.scale / unit), int(d.offset / unit)
    domain = Domain(scale * d.lo + constant, scale * d.hi + constant, unit)
    if domain == d:
        return node
    return builder.add(f"{name}_on_grid", Op.ADD, [node], node.shape, domain, Sum(np.array([scale]), constant))


def _widened(builder: GraphBuilder, node: Node, lo: int, hi: int, name: str) -> Node:
    """The same codes in a wider domain: a table that changes nothing."""
    d = node.domain
    if (d.lo, d.hi) == (lo, hi):
        return node
    if d.size > TABLE:
        raise Refusal(f"layer {name!r}: concatenates sums with other codes; quantise each branch first")
    return builder.add(f"{name}_wide", Op.LUT, [node], node.shape, Domain(lo, hi, d.scale, d.offset),
                     Table(np.arange(d.lo, d.hi + 1)[None]))

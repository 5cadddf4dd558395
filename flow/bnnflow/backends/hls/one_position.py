"""A fusion group at one position of its image, as a graph of its own: a netlist is made of it, or its size is counted.

The kernels of nnet_flow_window.h and nnet_flow_stream.h hand the codes of the taps over; an absent one holds code 0
(the lowest code for a maximum). So one graph serves all positions. A sum with a domain value of a*code + b must not add
b for an absent tap: what it adds too much is taken away again by the position's class of borders, a second input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bnnflow.errors import InputError
from bnnflow.ir import Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window, clean_name
from bnnflow.ir.nodes import Int, Params
from bnnflow.ir.verify import RULES, at_borders

__all__ = ["at_one_position", "has_borders"]


def has_borders(head: Node, read: Node) -> bool:
    """True where a sum has other constants at the border of an image; `read` is the node that it reads."""
    window = read.params
    return isinstance(window, Window) and window.padded and head.op is Op.DOT and read.domain.numerator[1] != 0


def _unknown(node: Node) -> Int:
    raise InputError(f"node {node.name!r}: a GATHER of a position needs the channels that it takes")


def at_one_position(group: Sequence[Node], reads: Sequence[Node], own: Callable[[Node], Int] = _unknown,
                    outputs: Sequence[int] | None = None) -> Graph:
    """The graph of a fusion group at one position; its first node reads `reads`, a WINDOW or other nodes.

    The graph's inputs are the codes of the taps, in the order of the kernel and of channels, and the class of borders
    where the sum needs it. `own` gives the channels that a GATHER takes.

    Where only some `outputs` of the group are asked for, the graph is a sample that says its size: it has these outputs
    alone, which must not depend on the others, and is that of a position with all taps, without classes of borders.

    Raises InputError where its ranges are too large.
    """
    new, head = _Position(group), group[0]
    sources = [new.taps(read, head, outputs) for read in reads]
    lead, known = sources[0].shape[:-1], reads[0].domain
    for node in group:
        moved = node if outputs is None else _with_outputs(node, outputs, head)
        moved = replace(moved, inputs=tuple(source.name for source in sources), shape=(*lead, moved.shape[-1]))
        if node.op is Op.GATHER:
            moved = replace(moved, params=Index(own(node)))
        made = _fitted(moved, known, sources)
        new.nodes.append(made)
        if outputs is None and node is head and has_borders(node, reads[0]):
            made = new.without_absent(node, reads[0], made)
        sources, known = [made], node.domain
    return Graph(tuple(new.nodes), (made.name,))


class _Position:
    """The nodes of the graph of one position, under way, with those that the group does not have."""

    def __init__(self, group: Sequence[Node]):
        self.taken, self.nodes = [node.name for node in group], list[Node]()

    def add(self, text: str, op: Op, inputs: Sequence[Node], shape: tuple[int, ...], domain: Domain,
            params: Params = None) -> Node:
        """A node whose name is like `text`."""
        name = clean_name(text, self.taken)
        self.taken.append(name)
        self.nodes.append(Node(name, op, tuple(node.name for node in inputs), shape, domain, params))
        return self.nodes[-1]

    def taps(self, read: Node, head: Node, outputs: Sequence[int] | None) -> Node:
        """What the group's first node reads: the taps of one position, or the last axis."""
        window, domain, channels = read.params, read.domain, read.shape[-1]
        if not isinstance(window, Window) or not head.traits.taps:
            if outputs is not None and head.traits.keeps_shape:
                channels = len(outputs)
            return self.add("taps", Op.INPUT, [], (channels,), domain)
        if outputs is None and window.padded and head.op is Op.DOT:
            domain = replace(domain, lo=min(domain.lo, 0), hi=max(domain.hi, 0))
        channels //= window.taps
        still = _still(window)
        if outputs is not None and head.op is Op.MAX:  # each output has a channel of its own
            channels = len(outputs)
            still = replace(still, groups=channels)
        taps = self.add("taps", Op.INPUT, [], (*window.kernel, channels), domain)
        return self.add("window", Op.WINDOW, [taps], (*still.positions, channels * window.taps), domain, still)

    def without_absent(self, node: Node, read: Node, sums: Node) -> Node:
        """`sums`, in which every absent tap added b times its level, without these."""
        weights, window, b = node.params, read.params, read.domain.numerator[1]
        assert isinstance(weights, Weights) and isinstance(window, Window)
        inside, all_taps = (at_borders(weights.effective, weights.groups, w) for w in (window, _still(window)))
        less = b * (inside - all_taps)  # (classes, outputs)
        border = self.add("border", Op.INPUT, [], (1,), Domain(0, len(less) - 1))
        spread = Index(np.zeros(sums.size, np.int64))
        classes = self.add("classes", Op.GATHER, [border], sums.shape, border.domain, spread)
        bounds = Domain(int(less.min()), int(less.max()))
        absent = self.add("absent", Op.LUT, [classes], sums.shape, bounds, Table(np.ascontiguousarray(less.T)))
        domain = replace(sums.domain, lo=sums.domain.lo + bounds.lo, hi=sums.domain.hi + bounds.hi)
        return self.add("present", Op.ADD, [sums, absent], sums.shape, domain, Sum(np.ones(2, np.int64), 0))


def _still(window: Window) -> Window:
    """The window over its own taps: one position, none of them absent."""
    ones = (1,) * len(window.kernel)
    return Window(window.kernel, ones, ones, ((0, 0),) * len(ones), window.groups, window.kernel)


def _with_outputs(node: Node, outputs: Sequence[int], head: Node) -> Node:
    """The node with only these outputs of the group that `head` begins, the channels of its last axis."""
    p, rows = node.params, np.asarray(outputs if node.shape[-1] == head.shape[-1] else [0])  # one behind an ARGMAX
    if isinstance(p, Weights):
        p = Weights(p.levels[:, rows], p.mask[:, rows], p.groups)
    elif isinstance(p, Steps):
        p = Steps(p.start[rows], p.sign[rows], p.thresholds[rows])
    elif isinstance(p, Table) and len(p.codes) > 1:
        p = Table(p.codes[rows])
    elif isinstance(p, Affine):
        p = Affine(p.mul[rows], p.add[rows], p.shift)
    return replace(node, params=p, shape=(*node.shape[:-1], len(rows)))


def _fitted(node: Node, known: Domain, sources: Sequence[Node]) -> Node:
    """The node behind sources; the bounds of the first may differ from those of its codes, which lie in `known`."""
    p, now = node.params, sources[0].domain
    if isinstance(p, Steps):
        # A threshold that no code reaches, or every code, stays one.
        unreached = np.where(p.thresholds > known.hi, now.hi + 1, p.thresholds)
        thresholds = np.where(p.thresholds <= known.lo, now.lo, unreached)
        return node if now == known else replace(node, params=Steps(p.start, p.sign, thresholds))
    if isinstance(p, Table):
        codes = np.clip(np.arange(now.lo, now.hi + 1), known.lo, known.hi) - known.lo
        return replace(node, params=Table(np.ascontiguousarray(p.codes[:, codes])))
    if isinstance(p, Affine):
        ends = [(int(m) * end + int(a)) >> p.shift for m, a in zip(p.mul, p.add) for end in (now.lo, now.hi)]
        return replace(node, domain=replace(node.domain, lo=min(*ends, node.domain.lo),
                                            hi=max(*ends, node.domain.hi)))
    return replace(node, domain=RULES[node.op](node, sources)[1])

"""A chain of nodes behind a sum, a maximum or thresholds, at one position of its image, as a graph of its own.

The kernels of nnet_flow_window.h and nnet_flow_stream.h hand the codes of the taps over; an absent one holds code 0
(the lowest for a maximum). So the same graph serves all positions: a sum in which an absent tap must not add b gets it
back by the position's class of borders, a second input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bnnflow.ir import Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window, clean_name
from bnnflow.ir.nodes import Int, Params
from bnnflow.ir.verify import RULES, at_borders

__all__ = ["at_one_position", "has_borders"]


def has_borders(head: Node, read: Node) -> bool:
    """True where a sum has other constants at the border of an image; `read` is the node that it reads."""
    window = read.params
    return isinstance(window, Window) and window.padded and head.op is Op.DOT and read.domain.numerator[1] != 0


def at_one_position(chain: Sequence[Node], read: Node, own: Callable[[Node], Int | None]) -> Graph:
    """The graph of `chain`, whose first node reads `read` (the WINDOW, or any other tensor).

    Its inputs are the codes of the taps, in the order of the kernel and of channels, and the class of borders where the
    sum needs it. `own` gives the channels that a GATHER takes. Raises InputError where its ranges are too large.
    """
    new = _New(chain)
    source, lead = new.taps(read, chain[0].op), (1,) * (len(read.shape) - 1 if isinstance(read.params, Window) else 0)
    known = read.domain
    for node in chain:
        moved = replace(node, inputs=(source.name,), shape=(*lead, node.shape[-1]))
        if node.op is Op.GATHER:
            taken = own(node)
            assert taken is not None
            moved = replace(moved, params=Index(taken))
        source = _fitted(moved, known, source)
        new.nodes.append(source)
        if node is chain[0] and has_borders(node, read):
            source = new.without_absent(node, read, source)
        known = node.domain
    return Graph(tuple(new.nodes), (source.name,))


class _New:
    """The nodes of a graph that is being made, with those that the chain does not have."""

    def __init__(self, chain: Sequence[Node]):
        self.taken, self.nodes = [node.name for node in chain], list[Node]()

    def add(self, text: str, op: Op, inputs: Sequence[Node], shape: tuple[int, ...], domain: Domain,
            params: Params = None) -> Node:
        """A node whose name is like `text`."""
        name = clean_name(text, self.taken)
        self.taken.append(name)
        self.nodes.append(Node(name, op, tuple(node.name for node in inputs), shape, domain, params))
        return self.nodes[-1]

    def taps(self, read: Node, op: Op) -> Node:
        """What the chain's first node reads: the taps of one position, or the last axis."""
        window, domain = read.params, read.domain
        if not isinstance(window, Window):
            return self.add("taps", Op.INPUT, [], read.shape[-1:], domain)
        if window.padded and op is Op.DOT:
            domain = replace(domain, lo=min(domain.lo, 0), hi=max(domain.hi, 0))
        still, channels = _still(window), read.shape[-1]
        taps = self.add("taps", Op.INPUT, [], (*window.kernel, channels // window.taps), domain)
        return self.add("window", Op.WINDOW, [taps], (*still.positions, channels), domain, still)

    def without_absent(self, node: Node, read: Node, sums: Node) -> Node:
        """`sums`, in which absent taps added b times their levels, without that."""
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


def _fitted(node: Node, known: Domain, source: Node) -> Node:
    """The node behind a source whose bounds may be wider than its codes, which lie in `known`."""
    p, now = node.params, source.domain
    if isinstance(p, Steps):
        # A threshold that no code reaches, or every code, stays one.
        thresholds = np.where(p.thresholds <= known.lo, now.lo, np.where(p.thresholds > known.hi, now.hi + 1, p.thresholds))
        return node if now == known else replace(node, params=Steps(p.start, p.sign, thresholds))
    if isinstance(p, Table):
        codes = np.clip(np.arange(now.lo, now.hi + 1), known.lo, known.hi) - known.lo
        return replace(node, params=Table(np.ascontiguousarray(p.codes[:, codes])))
    if isinstance(p, Affine):
        ends = [(int(m) * end + int(a)) >> p.shift for m, a in zip(p.mul, p.add) for end in (now.lo, now.hi)]
        return replace(node, domain=replace(node.domain, lo=min(*ends, node.domain.lo),
                                            hi=max(*ends, node.domain.hi)))
    return replace(node, domain=RULES[node.op](node, [source])[1])

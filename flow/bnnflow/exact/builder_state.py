"""The graph under construction: what a front end adds nodes to while it walks through a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.exact.affine_inputs import AffineInput, affine_input_of
from bnnflow.exact.epilogues import TABLE, Epilogue, FloatTensor, Stage
from bnnflow.exact.functions import Refusal
from bnnflow.exact.levels import Levels, dyadic
from bnnflow.ir import TRAITS, Domain, Index, Node, Op, Sum, Weights, clean_name
from bnnflow.ir.verify import dot_domain

__all__ = ["EXACT_UNITS", "Framework", "GraphBuilder", "Pads"]

COARSE = 2**8  # units of an exact line per code, at most
FEW = 64  # codes that mostly suffice to see that a line is not exact
RESCALED = 2**26  # values that are evaluated to find an exact line, at most
EXACT_UNITS = 2**24  # float32 sums are exact in any order below this many units
Pads = tuple[tuple[int, int], ...]  # (before, after) per spatial axis


@dataclass(frozen=True)
class Framework:
    """What notes and refusals call the framework of a front end, and what in it turns floats into codes."""

    name: str
    quantiser: str

    @property
    def genitive(self) -> str:
        """The framework as the owner of something: Keras', TensorFlow's."""
        return self.name + ("'" if self.name.endswith("s") else "'s")


@dataclass
class GraphBuilder:
    """The graph under construction, and what the reader should know about it.

    `layers` are names of layers that a node can have as they are: no node of another layer than `layer`, which is being
    lowered, takes one of them.
    """

    framework: Framework
    layers: Collection[str] = ()
    layer: str = ""
    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    padded: dict[str, tuple[Node, Pads]] = field(default_factory=dict)  # padded image -> image, zeros around it

    def add(self, name: str, op: Op, inputs: Sequence[Node], shape: Sequence[int], domain: Domain, params: Any = None,
            origin: str = "") -> Node:
        """Append a node under a clean, unused name."""
        kept = [layer for layer in self.layers if name != self.layer or layer.lower() != name.lower()]
        name = clean_name(name, [*(n.name for n in self.nodes), *kept])
        node = Node(name, op, tuple(n.name for n in inputs), tuple(map(int, shape)), domain, params, origin)
        self.nodes.append(node)
        return node

    def gathered(self, node: Node, index: NDArray[np.int64], shape: Sequence[int], name: str, origin: str = "") -> Node:
        """Elements of `node`, by flat index, in another shape; the node itself where nothing changes."""
        if node.shape == tuple(shape) and np.array_equal(index, np.arange(node.size)):
            return node
        return self.add(name, Op.GATHER, [node], shape, node.domain, Index(np.asarray(index, np.int64)), origin)

    def codes(self, value: FloatTensor, layer: str) -> Node:
        """The integer node of a value whose epilogue computes nothing, or only changes the scale of codes exactly."""
        if value.floats:
            value = self._rescaled(value, layer)
        return self.gathered(value.node, value.source, value.shape, f"{layer}_in")

    def summand(self, value: FloatTensor, layer: str, groups: int = 1,
                pool: bool = False) -> tuple[Node, AffineInput | None]:
        """What goes into a sum over each of `groups` groups of channels: codes, and where these are only up to lines
        (a real scale and offset for each element) the lines, with one scale a group. Only a pool takes a batch norm.
        """
        try:
            return self.codes(value, layer), None
        except Refusal as refusal:
            if not all(_may_be_summed(stage, pool) for stage in value.epilogue):
                raise
            affine = affine_input_of(value)
            one_scale = affine.one_scale(groups)
            factored = None if one_scale else affine.factored(groups)
            if factored is None and not one_scale:
                raise Refusal(f"{refusal}; as it is, its scale differs from channel to channel, or from position to "
                              "position, and no integer sum can take that out (an average pool with padding='valid' "
                              "has one scale)") from refusal
        node = self.gathered(value.node, value.source, value.shape, f"{layer}_in")
        return (node, affine) if factored is None else (self._multiplied(node, factored[0], layer), factored[1])

    def _multiplied(self, node: Node, factors: NDArray[np.int64], layer: str) -> Node:
        """Every element times a small integer of its own: a sum of one input a group."""
        flat = self.gathered(node, np.arange(node.size), (node.size,), f"{layer}_flat")
        weights = Weights(factors[None], np.ones((1, node.size), bool), node.size)
        domain = dot_domain(node.domain, weights)
        times = self.add(f"{layer}_times", Op.DOT, [flat], flat.shape, Domain(domain.lo, domain.hi, node.domain.unit),
                         weights)
        return self.gathered(times, np.arange(node.size), node.shape, f"{layer}_in")

    def image(self, value: FloatTensor, layer: str, groups: int) -> tuple[Node, AffineInput | None, Pads]:
        """As `summand`, without the zeros that a ZeroPadding put around it: in a sum these are absent taps.

        Zeros that a Rescaling behind them has shifted stay.
        """
        node, affine = self.summand(value, layer, groups)
        none = ((0, 0),) * (len(node.shape) - 1)
        source, pads = self.padded.get(node.name, (node, none))
        if source is node or affine is None:
            return source, affine, pads
        if affine.shifted or not affine.alike:
            return node, affine, none
        return source, affine.moved_into(source.shape), pads

    def _rescaled(self, value: FloatTensor, layer: str) -> FloatTensor:
        """The value with its float stages, one exact dyadic m*x + n for every element, as a node of another scale."""
        node, line = value.node, _one_line(value, layer)
        if line is None:
            floats = ", ".join(map(repr, value.floats))
            raise Refusal(f"layer {layer!r}: its input is not quantised: {floats} yields floats; put "
                          f"{self.framework.quantiser} before this layer")
        step, start, unit = line
        lo, hi = sorted((start, start + step * (node.domain.size - 1)))
        scaled = self.add(f"{value.floats[-1]}_scaled", Op.ADD, [node], node.shape, Domain(lo, hi, unit),
                          Sum(np.array([step]), start - step * node.domain.lo))
        return FloatTensor(scaled, value.shape, tuple(stage for stage in value.epilogue if stage.index is not None))

    def apply(self, value: FloatTensor, rows: NDArray[np.int64], op: Op, domain: Domain, name: str,
              params: Callable[[NDArray[np.int64]], Any], origin: str = "") -> Node:
        """One op with a row of parameters per element of the value -> a node of the value's shape.

        Rows of `value.reduced` are those of a channel. Where all positions of a channel (last axis) agree the op is
        applied per channel, before or after the elements are moved, else per element of the flattened tensor.
        """
        node, source, shape = value.node, value.source, value.shape

        def applied(given: Node, rows: NDArray[np.int64], name: str, origin: str = "") -> Node:
            return self.add(name, op, [given], given.shape, domain, params(rows), origin)

        few = len(rows) < prod(shape)
        ends = TRAITS[op].ends  # nothing may read it, so elements are moved before it
        home = None if few or ends else _home_channels(value, rows)
        if home is not None:
            direct = node.shape == shape and np.array_equal(source, np.arange(node.size))
            out = applied(node, home, name, origin) if direct else applied(node, home, f"{name}_codes")
            return self.gathered(out, source, shape, name, origin)
        channel = rows if few else _per_channel(rows, shape[-1])
        if channel is not None:
            return applied(self.gathered(node, source, shape, f"{name}_in"), channel, name, origin)
        if ends and len(shape) > 1:
            raise Refusal(f"layer {name!r}: an output of shape {shape} whose scale differs from position to position; "
                          "end the model with a Flatten, or before the batch norm")
        flat = self.gathered(node, source, (len(rows),), f"{name}_flat")
        return self.gathered(applied(flat, rows, f"{name}_codes"), np.arange(len(rows)), shape, name, origin)


def _may_be_summed(stage: Stage, pool: bool) -> bool:
    """True for a stage that may stand between codes and a sum: it moves elements, or is a line meant for sums."""
    return stage.index is not None or (stage.affine is not None and (stage.sums or pool))


def _one_line(value: FloatTensor, layer: str) -> tuple[int, int, Fraction] | None:
    """(step, start, unit) of the exact line that is the whole epilogue of every element, as `_exact_line`; or None."""
    one, size = value.reduced, value.node.domain.size
    plain = not value.real and not any(stage.head or stage.planes > 1 for stage in value.epilogue)
    if not plain or size * prod(one.shape) > RESCALED:
        return None
    line = _exact_line(one, min(size, FEW), layer) and _exact_line(one, size, layer)
    if line is None:
        return None
    step, start, _ = line
    # Few codes can lie on a line of 24-bit numbers by coincidence: that line is not what the layer means.
    return line if max(abs(start), abs(start + step * (size - 1))) <= COARSE * size else None


def _exact_line(value: FloatTensor, size: int, layer: str) -> tuple[int, int, Fraction] | None:
    """(step, start, unit) with the model's value = (start + step*k) * unit at the k-th of the lowest `size` codes,
    exactly, for every element; None where there is no such line.
    """
    d = value.node.domain
    if d.size > TABLE:
        return None
    reals = Epilogue(value, Levels(d, ()), layer).reals(np.arange(d.lo, d.lo + size)[:, None])
    exact = dyadic(reals[:, 0]) if (reals == reals[:, :1]).all() else None
    if exact is None or np.abs(exact[0]).max() >= EXACT_UNITS:
        return None
    integers, unit = exact
    step = int(integers[1] - integers[0]) if size > 1 else 0
    return (step, int(integers[0]), unit) if (np.diff(integers) == step).all() else None


def _home_channels(value: FloatTensor, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Rows per element of the value -> rows per channel of its node; None where the epilogue does more than move each
    element once, or the positions of a channel differ.
    """
    node, source = value.node, value.source
    if node.size != len(rows) or len(np.unique(source)) != len(source):
        return None
    home = np.empty_like(rows)
    home[source] = rows
    return _per_channel(home, node.shape[-1])


def _per_channel(rows: NDArray[np.int64], channels: int) -> NDArray[np.int64] | None:
    """Rows per element -> rows per channel, or None where positions differ."""
    stacked = rows.reshape(-1, channels, *rows.shape[1:])
    return stacked[0].copy() if (stacked == stacked[:1]).all() else None

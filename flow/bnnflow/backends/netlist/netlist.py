"""A netlist of LUT-sized functions and short carry chains, and how it evaluates itself on packed bits.

Nodes (`gates`) are hashed: the same function of the same signals, or the complement of that function, is one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.netlist.gates import (
    FALSE,
    TRUE,
    Bit,
    Chain,
    Gate,
    Given,
    Lut,
    chain_luts,
    chain_times,
    inside_chains,
    sources,
)
from bnnflow.devices.fabric import ULTRASCALE, Fabric

__all__ = ["Netlist", "cofactor", "sum_table"]

Words = NDArray[np.uint64]


def cofactor(table: int, inputs: int, k: int, value: int) -> int:
    """The table of a function of so many inputs where input k has the `value` 0 or 1, over the other inputs."""
    step, result = 1 << k, 0
    ones = (1 << step) - 1
    for block in range(1 << (inputs - 1 - k)):
        result |= ((table >> ((2 * block + value) * step)) & ones) << (block * step)
    return result


@lru_cache(maxsize=2**16)
def _normal(inverted: int, table: int, inputs: int) -> tuple[tuple[int, ...], int, int]:
    """(the inputs that matter, the table over them, 1 where the output must be inverted) of a function.

    Bit k of `inverted` says that input k is inverted. The table that is returned has no inversions, and entry 0 is 0.
    """
    if inverted:
        table = sum(((table >> (k ^ inverted)) & 1) << k for k in range(1 << inputs))
    kept = list(range(inputs))
    for k in reversed(range(inputs)):
        low = cofactor(table, len(kept), k, 0)
        if low == cofactor(table, len(kept), k, 1):
            table = low
            del kept[k]
    flip = table & 1
    return tuple(kept), table ^ (((1 << (1 << len(kept))) - 1) if flip else 0), flip


@lru_cache(maxsize=2**16)
def _over_distinct(places: tuple[int, ...], inverted: int, table: int) -> int:
    """The table of a function over other inputs: its input k is the one at places[k], or the constant 0 for -1.

    Bit k of `inverted` says that input k is inverted; the table that is returned has no inversions.
    """
    result = 0
    for row in range(1 << (max(places) + 1)):
        entry = sum((row >> place & 1) << k for k, place in enumerate(places) if place >= 0)
        result |= (table >> (entry ^ inverted) & 1) << row
    return result


@lru_cache(maxsize=2**16)
def sum_table(weights: tuple[int, ...], constant: int, position: int) -> int:
    """The table of bit `position` of sum(weights[k] * input k) + constant, a sum that is never negative."""
    sums = np.full(1 << len(weights), constant, np.int64)
    index = np.arange(1 << len(weights))
    for k, weight in enumerate(weights):
        sums += weight * (index >> k & 1)
    return sum(int(bit) << k for k, bit in enumerate(sums >> position & 1))


class Netlist:
    """Gates in order of evaluation, for a `fabric`.

    For every node, `level` has the number of LUTs on the longest path up to and including it, `when` the ps at which it
    is ready (all inputs at 0), and `owner` the layer that it belongs to: what `layer` was when the node was made.
    `trees` says whether sums that are made now are trees of LUTs (`lut_trees`) or of carry chains (`bit_heap`), and
    `deadline` when comparisons by such trees should be ready, in ps. `kept` are the functions that are LUTs of their
    own in such trees.
    """

    def __init__(self, fabric: Fabric = ULTRASCALE) -> None:
        self.fabric = fabric
        self.gates: list[Gate] = [None]
        self.level: list[int] = [0]
        self.when: list[int] = [0]
        self.layer = ""
        self.trees = not fabric.compresses
        self.deadline = 0
        self.kept: set[int] = set()
        self.owner: list[str] = [""]
        self._known: dict[Gate, int] = {}

    def _node(self, gate: Gate, level: int, when: int) -> int:
        if gate not in self._known:
            self._known[gate] = len(self.gates)
            self.gates.append(gate)
            self.level.append(level)
            self.when.append(when)
            self.owner.append(self.layer)
        return self._known[gate]

    def forget(self, first: int) -> None:
        """Take back all nodes from `first` on, as though they had not been made."""
        self.kept.difference_update(range(first, len(self.gates)))
        for gate in self.gates[first:]:
            del self._known[gate]
        for row in (self.gates, self.level, self.when, self.owner):
            del row[first:]

    def given(self, source: int, position: int) -> int:
        """The literal of a bit from outside."""
        return 2 * self._node(Given(source, position), 0, 0)

    def arrival(self, literal: int) -> int:
        """The level of a literal."""
        return self.level[literal >> 1]

    def lut(self, literals: Sequence[int], table: int) -> int:
        """The literal of a function of at most as many literals as a LUT has inputs.

        Constants, repeated literals and those on which the function does not depend drop out.
        """
        nodes = [literal >> 1 for literal in literals]
        inverted = sum((literal & 1) << k for k, literal in enumerate(literals))
        distinct = sorted({*nodes} - {FALSE})
        if nodes != distinct:
            place = {FALSE: -1, **{node: k for k, node in enumerate(distinct)}}
            table = _over_distinct(tuple([place[node] for node in nodes]), inverted, table)
            nodes, inverted = distinct, 0
        kept, table, flip = _normal(inverted, table, len(nodes))
        if not kept:
            return flip
        if len(kept) == 1:
            return 2 * nodes[kept[0]] ^ flip
        inputs = tuple(nodes[k] for k in kept)
        level, when = max([self.level[k] for k in inputs]), max([self.when[k] for k in inputs])
        node = self._node(Lut(inputs, table), 1 + level, when + self.fabric.level)
        if self.trees:
            self.kept.add(node)
        return 2 * node ^ flip

    def chain(self, a: Sequence[int], b: Sequence[int], carry: int) -> list[int]:
        """The literals of the bits of a + b + carry, one more than those of `a`."""
        # A constant in `a` feeds the multiplexer of its position, and what is beside it need not be inverted for it.
        a, b = zip(*((two, one) if two <= TRUE else (one, two) for one, two in zip(a, b)))
        # A LUT that drives an operand in `b` is in the LUT of the chain's own position, and costs no level.
        level = 1 + max(max(self.arrival(literal) for literal in (*a, carry)),
                        max(self.arrival(literal) - isinstance(self.gates[literal >> 1], Lut) for literal in b))
        gate = Chain(tuple(a), tuple(b), carry)
        inside = [k >> 1 for k in b if self.fabric.compresses and isinstance(self.gates[k >> 1], Lut)]
        sums = chain_times(gate, inside, self.fabric).bits(self.when)
        chain = self._node(gate, level, max(sums))
        return [2 * self._node(Bit(chain, k), level, when) for k, when in enumerate(sums)]

    # --- functions of any size --------------------------------------------------------------------------------------

    def sum_bit(self, literals: Sequence[int], weights: Sequence[int], constant: int, position: int) -> int:
        """One bit of a weighted sum of literals, as many as a LUT has inputs."""
        return self.lut(literals, sum_table(tuple(weights), constant, position))

    def parity(self, literals: Sequence[int]) -> int:
        """The exclusive or of any number of literals."""
        rest = list(literals)
        while len(rest) > 1:
            part, rest = rest[: self.fabric.inputs], rest[self.fabric.inputs :]
            rest.append(self.lut(part, sum_table((1,) * len(part), 0, 0)))
        return rest[0] if rest else FALSE

    def function(self, literals: Sequence[int], table: int) -> int:
        """A function of any number of literals: LUTs, then a tree of multiplexers; equal LUTs are one."""
        count = len(literals)
        if count <= self.fabric.inputs:
            return self.lut(literals, table)
        half = 1 << (count - 1)
        low, high = (self.function(literals[:-1], part) for part in (table & ((1 << half) - 1), table >> half))
        return self.lut([low, high, literals[-1]], 0b11001010)

    # --- what it takes ----------------------------------------------------------------------------------------------

    def luts(self, wanted: Sequence[int], first: int) -> int:
        """LUTs of the nodes from `first` on that literals depend on, those of chains' positions included."""
        read = self.reached(wanted)
        nodes = [(node, self.gates[node]) for node in range(first, len(self.gates)) if read[node]]
        inside = inside_chains(nodes, self.gates, wanted, self.fabric)
        carried = {gate.chain for _, gate in nodes if isinstance(gate, Bit) and gate.position == self.width(gate.chain)}
        chains = [chain_luts(gate, node in carried, inside, self.fabric) for node, gate in nodes
                  if isinstance(gate, Chain)]
        return sum(chains) + sum(isinstance(gate, Lut) and node not in inside for node, gate in nodes)

    def width(self, chain: int) -> int:
        """The positions of the chain that is the node `chain`."""
        gate = self.gates[chain]
        assert isinstance(gate, Chain)
        return len(gate.a)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def evaluate(self, given: Sequence[Words], size: int, wanted: Sequence[int]) -> Words:
        """The values of the literals `wanted`: uint64 (wanted, size), where a word has a bit of each of 64 samples.

        `given` has the words of every input, uint64 (bits, size).
        """
        values: list[Any] = [np.zeros(size, np.uint64)]
        read = self.reached(wanted)
        for node, gate in enumerate(self.gates[1:], 1):
            values.append(_evaluated(gate, values, given) if read[node] else None)
        return np.array([_value(values, literal) for literal in wanted], np.uint64).reshape(len(wanted), size)

    def reached(self, wanted: Sequence[int]) -> NDArray[np.bool_]:
        """Which nodes the literals `wanted` depend on: bool (nodes,)."""
        read = np.zeros(len(self.gates), bool)
        read[[literal >> 1 for literal in wanted]] = True
        for node in range(len(self.gates) - 1, 0, -1):
            if read[node]:
                for source in sources(self.gates[node]):
                    read[source] = True
        return read


def _evaluated(gate: Gate, values: list[Any], given: Sequence[Words]) -> Any:
    """The words of a gate, of a chain those of every bit, from the values of the nodes before it."""
    if isinstance(gate, Given):
        return given[gate.source][gate.position]
    if isinstance(gate, Lut):
        return _looked_up(gate.table, [values[k] for k in gate.inputs])
    if isinstance(gate, Chain):
        carry, sums = _value(values, gate.carry), []
        for one, other in zip(gate.a, gate.b):
            x, y = _value(values, one), _value(values, other)
            sums.append(x ^ y ^ carry)
            carry = (x & y) | (carry & (x ^ y))
        return [*sums, carry]
    assert isinstance(gate, Bit)
    return values[gate.chain][gate.position]


def _value(values: list[Any], literal: int) -> Words:
    value: Words = values[literal >> 1]
    return ~value if literal & 1 else value


def _looked_up(table: int, inputs: Sequence[Words]) -> Words:
    """The words of a function of `inputs`: each half of the table is the function where the last input is 0 or 1."""
    if not inputs:
        return np.uint64(2**64 - 1 if table else 0)  # type: ignore[return-value]
    half = 1 << (len(inputs) - 1)
    low, high = table & ((1 << half) - 1), table >> half
    if low == high:
        return _looked_up(low, inputs[:-1])
    zero, one = (_looked_up(part, inputs[:-1]) for part in (low, high))
    return (zero & ~inputs[-1]) | (one & inputs[-1])

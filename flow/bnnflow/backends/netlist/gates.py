"""The gates of a netlist: bits from outside, LUT-sized functions and short carry chains, and when a chain is ready.

A node is the index of a gate in the netlist, and a literal is the signal of a node or its complement: twice the node,
plus 1 where it is inverted. Node 0 is the constant 0, so that the literals 0 and 1 are the two constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property

from bnnflow.devices.fabric import Fabric

__all__ = ["FALSE", "TRUE", "Bit", "Chain", "ChainTimes", "Gate", "Given", "Lut", "chain_luts", "chain_times",
           "has_lut", "inside_chains", "sources"]

FALSE, TRUE = 0, 1


@dataclass(frozen=True)
class Given:
    """A bit from outside: bit `position` of the graph's input `source`, its codes laid end to end."""

    source: int
    position: int


@dataclass(frozen=True)
class Lut:
    """A function of at most as many nodes as a LUT has inputs: its value is bit sum(2^k * inputs[k]) of `table`.

    The inputs ascend, and the function depends on every one of them.
    """

    inputs: tuple[int, ...]
    table: int


@dataclass(frozen=True)
class Chain:
    """A carry chain: the sum of two words of literals of one width, least significant first, and of a literal `carry`.

    Other gates read it through `Bit`.
    """

    a: tuple[int, ...]
    b: tuple[int, ...]
    carry: int


@dataclass(frozen=True)
class Bit:
    """Bit `position` of the sum that the node `chain` makes; the highest bit is the carry out."""

    chain: int
    position: int


Gate = Given | Lut | Chain | Bit | None  # None: the constant 0


def sources(gate: Gate) -> tuple[int, ...]:
    """The nodes that a gate reads, the constant among them."""
    if isinstance(gate, Lut):
        return gate.inputs
    if isinstance(gate, Chain):
        return tuple(literal >> 1 for literal in (*gate.a, *gate.b, gate.carry))
    return (gate.chain,) if isinstance(gate, Bit) else ()


# --- the LUTs of carry chains ---------------------------------------------------------------------------------------


def inside_chains(nodes: Sequence[tuple[int, Gate]], gates: Sequence[Gate], wanted: Sequence[int], fabric: Fabric
                  ) -> set[int]:
    """The functions that lie in the LUTs of a chain's own positions.

    They are operands `b` that none of the other `nodes` reads, no output either, and have no more inputs than a LUT
    together with the operands `a` beside them. Operands `a` and carries feed multiplexers.
    """
    if not fabric.compresses:
        return set()
    reads = Counter(source for _, gate in nodes for source in set(sources(gate)))
    found, outside = set[int](), {literal >> 1 for literal in wanted}
    for _, gate in nodes:
        if isinstance(gate, Chain):
            outside.update(literal >> 1 for literal in (*gate.a, gate.carry))
            for a, b in zip(gate.a, gate.b):
                function = gates[b >> 1]
                fits = isinstance(function, Lut) and len({*function.inputs, a >> 1} - {FALSE}) <= fabric.inputs
                (found if fits and reads[b >> 1] == 1 else outside).add(b >> 1)
    return found - outside


def has_lut(a: int, b: int, inside: Container[int]) -> bool:
    """True where a chain's position needs a LUT, for a XOR b or for a function `inside`; else its S input is a wire.

    It is asked of chains that compress; others take a LUT at every position.
    """
    constant, literal = sorted((a, b))
    if constant > TRUE:
        return True
    return literal > TRUE and ((literal ^ constant) & 1 == 1 or literal >> 1 in inside)


def chain_luts(chain: Chain, carries: bool, inside: Container[int], fabric: Fabric) -> int:
    """The LUTs of a chain's positions, functions `inside` included; `carries` says that its carry out is read."""
    if fabric.compresses:
        return sum(has_lut(a, b, inside) for a, b in zip(chain.a, chain.b))
    passes = fabric.passes * (carries + (chain.carry > TRUE))
    return -(-(len(chain.a) + passes) // fabric.block) * fabric.block


# --- when chains are ready ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainTimes:
    """When the bits of a chain are ready, in ps: `reads` has, by position, every node that it reads and how long this
    takes into the chain, `least` how long a register does; `carry` is the node that enters the chain, after `first`.
    """

    reads: tuple[tuple[tuple[int, int], ...], ...]
    least: tuple[int, ...]
    carry: int
    first: int
    fabric: Fabric

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """The nodes that it reads, ascending."""
        return tuple(sorted({node for reads in self.reads for node, _ in reads} | {self.carry} - {FALSE}))

    @property
    def leaves(self) -> int:
        """From the carry of the last position to where it is read."""
        return self.fabric.passes * self.fabric.along + self.fabric.off

    def bits(self, ready: Sequence[int]) -> list[int]:
        """When its bits are ready, the carry out last, by when the nodes that it reads are."""
        onto, along, off = self.fabric.onto, self.fabric.along, self.fabric.off
        carry = ready[self.carry] + self.first if self.carry else 0
        sums = []
        for enters, reads in zip(self.least, self.reads):
            for node, delay in reads:
                enters = max(enters, ready[node] + delay)
            sums.append(max(carry, enters) + off)
            carry = max(carry + along, enters + onto)
        return [*sums, carry + self.leaves]

    def enter(self, needed: Sequence[int], never: int) -> tuple[int, list[tuple[int, int]]]:
        """(when registers in front of it have to be ready; node, when it is needed, of all that it reads).

        By when its bits are `needed`, the carry out last; `never` is later than all.
        """
        carry, first, asked = needed[-1] - self.leaves, never, []
        for total, least, reads in zip(reversed(needed[:-1]), reversed(self.least), reversed(self.reads)):
            enters = min(total - self.fabric.off, carry - self.fabric.onto)
            first = min(first, enters - least)
            asked += [(node, enters - delay) for node, delay in reads]
            carry = min(total - self.fabric.off, carry - self.fabric.along)
        if self.carry:
            asked.append((self.carry, carry - self.first))
            first = min(first, carry - self.first)
        return first, asked


def chain_times(chain: Chain, inside: Container[int], fabric: Fabric) -> ChainTimes:
    """The times of a chain with functions `inside`, whose own delays are already those of the positions' LUTs."""
    reads, least = [], []
    for a, b in zip(chain.a, chain.b):
        enters = fabric.net + (fabric.level if fabric.compresses and has_lut(a, b, inside) else 0)
        least.append(enters)
        nodes = [literal >> 1 for literal in (a, b) if literal > TRUE]
        reads.append(tuple({node: fabric.net if node in inside else enters for node in nodes}.items()))
    inverted = fabric.level if chain.carry & 1 else 0
    return ChainTimes(tuple(reads), tuple(least), chain.carry >> 1, fabric.net + inverted + fabric.passes * fabric.onto,
                      fabric)

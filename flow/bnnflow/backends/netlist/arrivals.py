"""When the bits of a netlist are ready, in whole ps, by the delays that nets have before placement (devices.timing).

A *cell* is what no register can part: a function or a carry chain. A *net* is a node that leaves a cell: a function, a
bit of a chain, a bit from outside. The bits of a chain are ready one after the other, and each is read when it is
ready. A function may lie in the LUT of a chain's own position, and takes no time of its own then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bnnflow.backends.netlist.netlist import FALSE, TRUE, Bit, Chain, Lut, Netlist, has_lut, inside_chains
from bnnflow.devices import timing

__all__ = ["OUTSIDE", "PS", "REGISTER_DELAY", "Cell", "Cells", "ChainCell", "LutCell"]

PS = 1000  # in a ns


def _ps(ns: float) -> int:
    return round(ns * PS)


NET, LUT, ONTO, ALONG, OFF = map(_ps, (timing.NET, timing.LUT, timing.ONTO, timing.ALONG, timing.OFF))
LUT_DELAY = NET + LUT  # of a LUT, with the nets to it
REGISTER_DELAY = _ps(timing.CLOCK_TO_Q + timing.NET + timing.SETUP)  # of a register, with the net to it
NEVER = 10**9
OUTSIDE = -1  # the maker of a net that comes from outside

Times = list[int]  # by node, in ps


@dataclass(frozen=True)
class LutCell:
    """A function: it makes the net `node` from the nets that it `reads`."""

    node: int
    reads: tuple[int, ...]

    @property
    def nets(self) -> tuple[int, ...]:
        """The nets that leave the cell."""
        return (self.node,)

    def leave(self, ready: Times) -> None:
        """Note when its net is ready, by when those that it reads are."""
        ready[self.node] = max((ready[net] for net in self.reads), default=0) + LUT_DELAY

    def enter(self, needed: Times) -> tuple[int, list[tuple[int, int]]]:
        """(when registers in front of it have to be ready; net, when it is needed, of all that it reads).

        By when its own net is needed.
        """
        when = needed[self.node] - LUT_DELAY
        return when, [(net, when) for net in self.reads]


@dataclass(frozen=True)
class Position:
    """A position of a carry chain: what it reads, and its sum, the net `total` (FALSE where nobody reads it).

    `reads` has every net with the ps until it enters the chain, and `least` is that of a register.
    """

    reads: tuple[tuple[int, int], ...]
    least: int
    total: int


@dataclass(frozen=True)
class ChainCell:
    """A carry chain, the node `node`: its positions, the net `carry` that enters it and its carry `out`, or FALSE.

    `first` are the ps until the carry enters it.
    """

    node: int
    positions: tuple[Position, ...]
    carry: int
    first: int
    out: int
    reads: tuple[int, ...]
    nets: tuple[int, ...]

    def leave(self, ready: Times) -> None:
        """Note when its bits are ready, by when the nets that it reads are."""
        carry = ready[self.carry] + self.first if self.carry else 0
        for position in self.positions:
            enters = position.least
            for net, delay in position.reads:
                enters = max(enters, ready[net] + delay)
            ready[position.total], carry = max(carry, enters) + OFF, max(carry + ALONG, enters + ONTO)
        ready[self.out] = carry + OFF
        ready[FALSE] = 0  # what nobody reads

    def enter(self, needed: Times) -> tuple[int, list[tuple[int, int]]]:
        """(when registers in front of it have to be ready; net, when it is needed, of all that it reads).

        By when its bits are needed.
        """
        needed[FALSE] = NEVER  # what nobody reads
        carry, first, asked = needed[self.out] - OFF, NEVER, []
        for position in reversed(self.positions):
            total = needed[position.total] - OFF
            enters = min(total, carry - ONTO)
            first = min(first, enters - position.least)
            asked += [(net, enters - delay) for net, delay in position.reads]
            carry = min(total, carry - ALONG)
        if self.carry:
            asked.append((self.carry, carry - self.first))
            first = min(first, carry - self.first)
        return first, asked


Cell = LutCell | ChainCell


def _chain(node: int, chain: Chain, bits: Mapping[int, int], inside: Collection[int]) -> ChainCell:
    """The cell of a chain of which the `bits` (position: node) are read."""
    positions = []
    for k, pair in enumerate(zip(chain.a, chain.b)):
        least = NET + (LUT_DELAY if has_lut(*pair, inside) else 0)
        # The delay of a function inside is already that of the position's LUT.
        reads = {literal >> 1: NET if literal >> 1 in inside else least for literal in pair if literal > TRUE}
        positions.append(Position(tuple(reads.items()), least, bits.get(k, FALSE)))
    carry, first = chain.carry >> 1, NET + (LUT_DELAY if chain.carry & 1 else 0)
    every = {net for position in positions for net, _ in position.reads} | {carry} - {FALSE}
    return ChainCell(node, tuple(positions), carry, first, bits.get(len(positions), FALSE), tuple(sorted(every)),
                     tuple(bits[k] for k in sorted(bits)))


class Cells:
    """The cells that the literals `wanted` of a netlist need.

    - `cells`: each behind those whose nets it reads; `alone`: by cell, the ps until its last net is ready where all
      that it reads comes from registers.
    - `wanted`: the nets that are outputs.
    - `maker`, `readers`: by net, the cell that makes it (OUTSIDE: none), and those that read it.
    - `inside`: the functions that lie in the LUTs of a chain's own positions, where no register parts them.
    """

    def __init__(self, net: Netlist, wanted: Sequence[int]):
        self.needed: list[bool] = net.reached(wanted).tolist()
        self.needed[FALSE] = False
        self.wanted = frozenset(literal >> 1 for literal in wanted if literal > TRUE)
        gates = [(node, gate) for node, gate in enumerate(net.gates) if self.needed[node]]
        self.inside = inside_chains(gates, net.gates, wanted)
        bits: dict[int, dict[int, int]] = {}
        for node, gate in gates:
            if isinstance(gate, Bit):
                bits.setdefault(gate.chain, {})[gate.position] = node
        self.cells: list[Cell] = [
            LutCell(node, gate.inputs) if isinstance(gate, Lut) else _chain(node, gate, bits[node], self.inside)
            for node, gate in gates if isinstance(gate, Lut | Chain)]
        self.maker = [OUTSIDE] * len(net.gates)
        self.readers: list[list[int]] = [[] for _ in net.gates]
        for index, cell in enumerate(self.cells):
            for node in cell.nets:
                self.maker[node] = index
            for node in cell.reads:
                self.readers[node].append(index)
        self.alone = self._alone()

    def _alone(self) -> list[int]:
        ready, found = [0] * len(self.maker), []
        for cell in self.cells:
            cell.leave(ready)
            found.append(max(ready[net] for net in cell.nets))
            for net in cell.nets:
                ready[net] = 0
        return found

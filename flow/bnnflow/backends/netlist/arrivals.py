"""When the bits of a netlist are ready, in whole ps, by the delays that a fabric has before placement.

A *cell* is what no register can part: a function or a carry chain. A *net* is a node that leaves a cell: a function, a
bit of a chain, a bit from outside. The bits of a chain are ready one after the other, and each is read when it is
ready. A function may lie in the LUT of a chain's own position, and takes no time of its own then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from bnnflow.backends.netlist.gates import FALSE, TRUE, Bit, Chain, ChainTimes, Lut, chain_times, inside_chains
from bnnflow.backends.netlist.netlist import Netlist

__all__ = ["OUTSIDE", "Cell", "Cells", "ChainCell", "LutCell"]

NEVER = 10**9
OUTSIDE = -1  # the maker of a net that comes from outside

Times = list[int]  # by node, in ps


@dataclass(frozen=True)
class LutCell:
    """A function: it makes the net `node` from the nets that it `reads`, `delay` ps after the last of them."""

    node: int
    reads: tuple[int, ...]
    delay: int

    @property
    def nets(self) -> tuple[int, ...]:
        """The nets that leave the cell."""
        return (self.node,)

    def leave(self, ready: Times) -> None:
        """Note when its net is ready, by when those that it reads are."""
        ready[self.node] = max((ready[net] for net in self.reads), default=0) + self.delay

    def enter(self, needed: Times) -> tuple[int, list[tuple[int, int]]]:
        """(when registers in front of it have to be ready; net, when it is needed, of all that it reads).

        By when its own net is needed.
        """
        when = needed[self.node] - self.delay
        return when, [(net, when) for net in self.reads]


@dataclass(frozen=True)
class ChainCell:
    """A carry chain, the node `node`, its `times`, and the nets of its bits, the carry out last: FALSE: not read."""

    node: int
    times: ChainTimes
    bits: tuple[int, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """The nets that it reads."""
        return self.times.sources

    @cached_property
    def nets(self) -> tuple[int, ...]:
        """The nets that leave the cell."""
        return tuple(net for net in self.bits if net != FALSE)

    def leave(self, ready: Times) -> None:
        """Note when its bits are ready, by when the nets that it reads are."""
        for net, when in zip(self.bits, self.times.bits(ready)):
            ready[net] = when
        ready[FALSE] = 0  # what nobody reads

    def enter(self, needed: Times) -> tuple[int, list[tuple[int, int]]]:
        """(when registers in front of it have to be ready; net, when it is needed, of all that it reads).

        By when its bits are needed.
        """
        return self.times.enter([needed[net] if net else NEVER for net in self.bits], NEVER)


Cell = LutCell | ChainCell


class Cells:
    """The cells that the literals `wanted` of a netlist need.

    - `fabric`: what they are made of.
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
        self.fabric = net.fabric
        self.inside = inside_chains(gates, net.gates, wanted, net.fabric)
        bits: dict[int, dict[int, int]] = {}
        for node, gate in gates:
            if isinstance(gate, Bit):
                bits.setdefault(gate.chain, {})[gate.position] = node
        self.cells: list[Cell] = [
            LutCell(node, gate.inputs, net.fabric.level) if isinstance(gate, Lut) else ChainCell(
                node, chain_times(gate, self.inside, net.fabric),
                tuple(bits[node].get(k, FALSE) for k in range(len(gate.a) + 1)))
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

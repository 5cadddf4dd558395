"""Where the registers of a pipelined netlist lie: the fewest cycles for a clock period, and at that few registers.

Every cell has a stage, from 0 on. A net has as many registers in a row as there are stages from its cell to its last
reader; all readers share the row. At first a cell is in the first stage in which it can be. This gives the fewest
stages, because no cell becomes earlier by another one that becomes later. Then the border between two neighbouring
stages is moved to where the fewest nets cross it, all other borders staying: a smallest cut. So it goes from border to
border, until none of them moves to fewer registers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from bnnflow.backends.netlist.arrivals import OUTSIDE, Cells
from bnnflow.backends.netlist.cuts import INFINITE, SINK, SOURCE, Network

__all__ = ["UNCLOCKED", "Pipeline", "fastest_period"]

SWEEPS = 20  # over all borders, at most; most networks need two to five
UNCLOCKED = 10**9  # ps, in which everything is ready
STEP = 10  # ps between the periods that are tried


class Pipeline:
    """The stages of a netlist for a clock `period` in ps, as few as there can be.

    `stage` has the stage of every cell, from 0 on. Nets from outside are ready in stage 0, and those that are outputs
    are read in stage `stages`, through the last registers. A cell that takes longer than the period has a stage for
    itself. A function inside a chain takes a LUT of its own where a register parts them.
    """

    def __init__(self, netlist: Cells, period: int):
        self.cells, self.maker, self.readers = netlist.cells, netlist.maker, netlist.readers
        self.wanted, self.inside = netlist.wanted, netlist.inside
        # By cell, the ps after the beginning of its stage in which its nets have to be ready.
        self.most = [max(period - netlist.fabric.register, alone) for alone in netlist.alone]
        self.stage = [0] * len(self.cells)
        self._as_soon_as_possible()
        self.stages = 1 + max((self.stage_of(net) for net in self.wanted), default=0)

    def stage_of(self, net: int) -> int:
        """The stage in which a net is ready."""
        return 0 if self.maker[net] == OUTSIDE else self.stage[self.maker[net]]

    def last_read(self, net: int) -> int:
        """The stage of a net's last reader."""
        if net in self.wanted:
            return self.stages
        return max((self.stage[reader] for reader in self.readers[net]), default=0)

    @property
    def registers(self) -> int:
        """The registers of all nets."""
        return sum(self.last_read(net) - self.stage_of(net) for net, readers in enumerate(self.readers)
                   if readers or net in self.wanted)

    def ready(self) -> list[int]:
        """By net, the ps after the beginning of its stage when it is ready."""
        ready, begin = [0] * len(self.readers), [0] * len(self.readers)
        for index, cell in enumerate(self.cells):
            for net in cell.reads:
                begin[net] = ready[net] if self.stage_of(net) == self.stage[index] else 0
            cell.leave(begin)
            for net in cell.nets:
                ready[net] = begin[net]
        return ready

    def _as_soon_as_possible(self) -> None:
        """Put every cell into the stage of its latest net, or into the next one where it would take too long."""
        ready, begin, when = [0] * len(self.readers), [0] * len(self.readers), [0] * len(self.readers)
        for index, cell in enumerate(self.cells):
            stage = max([when[net] for net in cell.reads], default=0)  # `when`: the stage of every net
            for net in cell.reads:
                begin[net] = ready[net] if when[net] == stage else 0
            cell.leave(begin)
            if self._is_late(index, begin):
                stage += 1
                for net in cell.reads:
                    begin[net] = 0
                cell.leave(begin)
            self.stage[index] = stage
            for net in cell.nets:
                ready[net], when[net] = begin[net], stage

    def _is_late(self, index: int, ready: Sequence[int]) -> bool:
        """True where a net of a cell is ready after the period, and sooner with registers in front of the cell."""
        return max(ready[net] for net in self.cells[index].nets) > self.most[index]

    # --- fewer registers --------------------------------------------------------------------------------------------

    def move_borders(self) -> None:
        """Move the borders between stages to where few nets cross them."""
        borders = range(self.stages - 1)
        waiting = set(borders)  # those that may not be where the fewest nets cross them: one beside them has moved
        for _ in range(SWEEPS):
            for border in sorted(waiting):
                waiting.discard(border)
                if self._move_border(border):
                    waiting.update(beside for beside in (border - 1, border + 1) if beside in borders)

    def _move_border(self, early: int) -> bool:
        """Part the cells of the stages `early` and `early` + 1 anew; False where they stay."""
        part = [index for index, stage in enumerate(self.stage) if early <= stage <= early + 1]
        can, must = self._can_be_early(part), self._must_be_early(part)
        network = Network()
        place = {index: SOURCE if index in must else network.node() if index in can else SINK for index in part}
        free = [index for index in part if place[index] not in (SOURCE, SINK)]
        for net in dict.fromkeys(net for index in free for net in (*self.cells[index].reads, *self.cells[index].nets)):
            self._add_net(network, net, place, early)
        side, before = network.source_side(), [self.stage[index] for index in part]
        for index in part:
            self.stage[index] = early if side[place[index]] else early + 1
        return before != [self.stage[index] for index in part]

    def _can_be_early(self, part: Sequence[int]) -> set[int]:
        """Those of the cells of two stages that can all be in the earlier one."""
        found, within, ready = set[int](), set(part), [0] * len(self.readers)
        for index in part:
            cell = self.cells[index]
            cell.leave(ready)
            makers = within.intersection(self.maker[net] for net in cell.reads)
            if makers <= found and not self._is_late(index, ready):
                found.add(index)
        return found

    def _must_be_early(self, part: Sequence[int]) -> set[int]:
        """Those of the cells of two stages that cannot be in the later one, or that such a cell reads."""
        found, needed = set[int](), [0] * len(self.readers)
        for index in part:
            for net in self.cells[index].nets:
                needed[net] = self.most[index]
        for index in reversed(part):
            cell = self.cells[index]
            first, asked = cell.enter(needed)
            if first < 0 or not found.isdisjoint(reader for net in cell.nets for reader in self.readers[net]):
                found.add(index)
            for net, when in asked:
                needed[net] = min(needed[net], when)
        return found

    def _add_net(self, network: Network, net: int, place: dict[int, int], early: int) -> None:
        """Add a net to the network whose smallest cut is the border behind stage `early`."""
        def placed(index: int) -> int:
            return place.get(index, SOURCE if self.stage[index] < early else SINK)

        maker, readers = self.maker[net], self.readers[net]
        tail = SOURCE if maker == OUTSIDE else placed(maker)
        heads = dict.fromkeys(map(placed, readers))
        heads.pop(SOURCE, None)
        if tail != SOURCE:  # no cell is earlier than one that it reads
            for head in heads:
                if head != SINK:
                    network.edge(head, tail, INFINITE)
        if SINK in heads or net in self.wanted:
            heads = {SINK: None}
        cost = 1 + self._parted_here(net, place)
        if len(heads) == 1:
            network.edge(tail, next(iter(heads)), cost)
        elif heads:
            through = network.node()
            network.edge(tail, through, cost)
            for head in heads:
                network.edge(through, head, INFINITE)

    def _parted_here(self, net: int, place: dict[int, int]) -> bool:
        """True for a function inside a chain where only this border can part them."""
        return net in self.inside and self.maker[net] in place and self.readers[net][0] in place


def fastest_period(netlist: Cells, most: int) -> int:
    """The clock period in ps, a multiple of STEP up to `most`, with which a result comes the soonest.

    Of several, that with the fewest registers. Where a cell alone takes longer than `most`, it is that cell's period.
    """
    register = netlist.fabric.register
    least = max(1, -(-(max(netlist.alone, default=0) + register) // STEP))  # in steps, as `period` and `latency`
    path = max(Pipeline(netlist, UNCLOCKED).ready())
    period = max(least, most // STEP)
    stages = Pipeline(netlist, period * STEP).stages
    latency, soonest = stages * period, [period]
    # Registers alone make it slower than `latency` where there are too many stages.
    while stages * register + path <= latency * STEP and (period := min(period, latency // stages)) >= least:
        if Pipeline(netlist, period * STEP).stages <= stages:
            periods = range(least, period + 1)
            period = periods[bisect_left(periods, -stages, key=lambda steps: -Pipeline(netlist, steps * STEP).stages)]
            soonest = [period, *(soonest if stages * period == latency else [])]
            latency = stages * period
        stages += 1
    if len(soonest) == 1:
        return soonest[0] * STEP
    return STEP * min(soonest, key=lambda period: _moved(netlist, period * STEP).registers)


def _moved(netlist: Cells, period: int) -> Pipeline:
    pipeline = Pipeline(netlist, period)
    pipeline.move_borders()
    return pipeline

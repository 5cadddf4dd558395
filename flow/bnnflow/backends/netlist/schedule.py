"""When the gates of a netlist are ready: pipeline stages and nanoseconds, and the registers and buses that follow.

Registers lie at the outputs and where a clock period ends (bnnflow.backends.netlist.registers), be it in the middle of
a layer. Every stage takes a new input in every cycle.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnnflow.backends.netlist.arrivals import Cells
from bnnflow.backends.netlist.gates import FALSE, Gate, sources
from bnnflow.backends.netlist.lower import Logic
from bnnflow.backends.netlist.registers import UNCLOCKED, Pipeline, fastest_period
from bnnflow.devices.fabric import PS

__all__ = ["SLOWEST", "Schedule", "fastest_clock"]

# ns, of the clock periods among which the fastest is looked for: without a bound it would be that of a single stage,
# which waits for no register, and a pipeline is there for its throughput.
SLOWEST = 5.0


class Schedule:
    """The stages of a netlist for a `clock_period` in ns; None for a combinational one, which has one stage.

    - `latency`: cycles from an input to its outputs, with that of the outputs' registers; None where combinational.
    - `stage`, `time`: for every node, the pipeline stage in which it is ready, and when it is in that stage, in ns.
    - `inside`: the functions that lie in the LUTs of a chain's own positions, no register parting them.
    - `owner`: by node, the layer whose module makes it; in a pipeline, functions `inside` are made with their chain.
    - `gates`: the nodes that an output needs, by the layer that owns them, in order of evaluation.
    - `taps`: by node, the cycles of delay with which it is read; `delays`: the most of them, where that is not 0.
    - `exports`: by layer, the (node, cycles of delay) that other layers read, each with its bit of the layer's output.
    """

    def __init__(self, logic: Logic, clock_period: float | None):
        self.logic, self.net, self.graph = logic, logic.net, logic.graph
        netlist = Cells(logic.net, logic.wanted)
        pipeline = Pipeline(netlist, UNCLOCKED if clock_period is None else round(clock_period * PS))
        pipeline.move_borders()
        self.latency = None if clock_period is None else pipeline.stages
        self._needed = netlist.needed
        self.time = [ready / PS for ready in pipeline.ready()]
        self.stage = [0] * len(self.net.gates)
        for cell, stage in zip(netlist.cells, pipeline.stage):
            for node in (cell.node, *cell.nets):
                self.stage[node] = stage
        chains = {node: netlist.cells[netlist.readers[node][0]].node for node in netlist.inside}
        self.inside = {node for node, chain in chains.items() if self.stage[node] == self.stage[chain]}
        self.owner = list(self.net.owner)
        if clock_period is not None:  # else it is left to a tool what it puts into the LUTs of a chain
            for node in self.inside:
                self.owner[node] = self.net.owner[chains[node]]
        self.gates: dict[str, list[int]] = {layer.name: [] for layer in self.graph}
        self.taps: dict[int, set[int]] = {}
        self.exports: dict[str, dict[tuple[int, int], int]] = {layer.name: {} for layer in self.graph}
        self._find_readers()
        self.delays = {source: max(taps) for source, taps in self.taps.items() if max(taps)}

    def needed(self) -> Iterator[tuple[int, Gate]]:
        """The nodes that an output needs and their gates, in order of evaluation, without the constant."""
        return ((node, gate) for node, gate in enumerate(self.net.gates) if self._needed[node])

    def _find_readers(self) -> None:
        """Fill `gates`, `taps` and `exports`: who reads what, and how much later."""
        for node, gate in self.needed():
            self.gates[self.owner[node]].append(node)
            for source in sources(gate):
                self._read(source, self.stage[node], self.owner[node])
        for literal in self.logic.wanted:
            self._read(literal >> 1, self.latency or 0, "")

    def _read(self, source: int, stage: int, reader: str) -> None:
        """Note that the layer `reader`, or the top module (""), reads a node in a stage."""
        if source == FALSE:
            return
        delay, owner = stage - self.stage[source], self.owner[source]
        self.taps.setdefault(source, set()).add(delay)
        if owner != reader:
            self.exports[owner].setdefault((source, delay), len(self.exports[owner]))


def fastest_clock(logic: Logic) -> float:
    """The clock period in ns, up to SLOWEST, with the fewest ns from an input to its outputs; few registers then."""
    return fastest_period(Cells(logic.net, logic.wanted), round(SLOWEST * PS)) / PS

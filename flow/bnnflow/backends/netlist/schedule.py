"""When the gates of a netlist are ready: pipeline stages and nanoseconds, and the registers and buses that follow.

A register lies behind the codes of every layer and at the outputs, and inside a layer where LUTs and carry chains would
take longer than the clock period. Every stage takes a new input in every cycle.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from bnnflow.backends.netlist.lower import Logic
from bnnflow.backends.netlist.netlist import FALSE, Bit, Chain, Gate, Given, Lut, sources
from bnnflow.devices.timing import ALONG, CLOCK_TO_Q, LUT, NET, OFF, ONTO, SETUP
from bnnflow.ir import Node

__all__ = ["LUT_DELAY", "REGISTER_DELAY", "Schedule"]

# ns of a LUT, of a carry chain with the LUTs in front of it, and of a register, each with the nets to it. Nets are as
# before placement (bnnflow.devices.timing): timing closes in the vendor's tools, not here.
LUT_DELAY, CHAIN_DELAY, REGISTER_DELAY = NET + LUT, NET + LUT + NET + ONTO + OFF, CLOCK_TO_Q + NET + SETUP


class Schedule:
    """The stages of a netlist for a `clock_period` in ns; None for a combinational one, which has one stage.

    - `latency`: cycles from an input to its outputs, with that of the outputs' registers; None where combinational.
    - `stage`, `time`: for every node, the pipeline stage in which it is ready, and when it is in that stage, in ns.
    - `gates`: the nodes that an output needs, by the layer that owns them, in order of evaluation.
    - `taps`: by node, the cycles of delay with which it is read; `delays`: the most of them, where that is not 0.
    - `exports`: by layer, the (node, cycles of delay) that other layers read, each with its bit of the layer's output.
    """

    def __init__(self, logic: Logic, clock_period: float | None):
        self.logic, self.net, self.graph = logic, logic.net, logic.graph
        self._needed = self.net.reached(logic.wanted)
        self._needed[FALSE] = False
        self.stage, self.time = [0] * len(self.net.gates), [0.0] * len(self.net.gates)
        self.latency: int | None = None
        if clock_period is not None:
            self._pipeline(clock_period)
            self.latency = 1 + max((self.stage[literal >> 1] for literal in logic.wanted), default=0)
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
            self.gates[self.net.owner[node]].append(node)
            for source in sources(gate):
                self._read(source, self.stage[node], self.net.owner[node])
        for literal in self.logic.wanted:
            self._read(literal >> 1, self.latency or 0, "")

    def _read(self, source: int, stage: int, reader: str) -> None:
        """Note that the layer `reader`, or the top module (""), reads a node in a stage."""
        if source == FALSE:
            return
        delay, owner = stage - self.stage[source], self.net.owner[source]
        self.taps.setdefault(source, set()).add(delay)
        if owner != reader:
            self.exports[owner].setdefault((source, delay), len(self.exports[owner]))

    def _pipeline(self, clock_period: float) -> None:
        """Put every gate into the latest stage of its sources, or into the next one where it would take too long."""
        registered = {layer.name for layer in self.graph if _is_registered(layer)}
        for node, gate in self.needed():
            if isinstance(gate, Bit):  # it is ready with its chain, however long that takes
                self.stage[node], self.time[node] = self.stage[gate.chain], self.time[gate.chain]
            elif not isinstance(gate, Given):
                enters = [self._enters(source, node, gate, registered) for source in sources(gate)]
                stage, begin = max((0, 0.0), *enters)
                delay = _delay(gate)
                if begin + delay > clock_period - REGISTER_DELAY and begin > 0:
                    stage, begin = stage + 1, 0.0
                self.stage[node], self.time[node] = stage, begin + delay

    def _enters(self, source: int, node: int, gate: Gate, registered: Container[str]) -> tuple[int, float]:
        """(stage, ns in it) in which a node can read a source."""
        owner = self.net.owner[source]
        if owner != self.net.owner[node] and owner in registered:
            return self.stage[source] + 1, 0.0
        if isinstance(gate, Chain) and isinstance(self.net.gates[source], Lut) and 2 * source not in gate.a:
            # The function of a chain's operand is in the LUT of the chain's own position.
            return self.stage[source], max(0.0, self.time[source] - LUT_DELAY)
        return self.stage[source], self.time[source]


def _is_registered(layer: Node) -> bool:
    """True for a layer whose codes go to others through registers: all but inputs, wires and sums."""
    return not (layer.traits.outside or layer.traits.wires or layer.traits.adds)


def _delay(gate: Gate) -> float:
    return CHAIN_DELAY + ALONG * len(gate.a) if isinstance(gate, Chain) else LUT_DELAY

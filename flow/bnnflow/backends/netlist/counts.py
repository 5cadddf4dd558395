"""What a netlist takes of a device with LUTs of six inputs, layer by layer: LUTs, flip-flops, stages, nanoseconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from math import ceil

from bnnflow.backends.netlist.lower import Logic
from bnnflow.backends.netlist.netlist import Bit, Chain, Lut, arrivals_of_bits, has_lut, inside_chains
from bnnflow.backends.netlist.schedule import Schedule
from bnnflow.devices.timing import LEVEL

__all__ = ["Count", "netlist_counts"]

SHIFTED, HELD = 3, 32  # registers in a row, none with another reader, that tools put into a LUT: at least, and at most


@dataclass(frozen=True)
class Count:
    """What a layer takes: LUTs, those that hold shift registers included, and flip-flops.

    `stage` is the pipeline stage in which its last bit is ready, and `ns` the longest path to one of its gates.
    """

    lut: int = 0
    ff: int = 0
    stage: int = 0
    ns: float = 0.0


def netlist_counts(logic: Logic, clock_period: float | None = None) -> tuple[dict[str, Count], int]:
    """(counts by node of the graph, cycles from input to output) of the Verilog that `to_verilog` writes.

    Registers are exactly those that yosys finds there; LUTs were within 1 % of yosys' where there are registers, and
    up to 7 % off where there are none, as it maps functions anew (docs/reports.md).
    """
    schedule = Schedule(logic, clock_period)
    inside = _inside(schedule)
    luts, registers = _luts(schedule, inside), Counter[str]()
    _count_registers(schedule, luts, registers)
    time = _arrivals(schedule, inside) if schedule.latency is None else schedule.time
    counts = {}
    for layer, nodes in schedule.gates.items():
        counts[layer] = Count(luts[layer], registers[layer], max((schedule.stage[node] for node in nodes), default=0),
                              max((time[node] for node in nodes), default=0.0))
    return counts, schedule.latency or 0


def _inside(schedule: Schedule) -> set[int]:
    """The functions in the LUTs of chains' positions: those that no later stage reads."""
    found = inside_chains(list(schedule.needed()), schedule.net.gates, schedule.logic.wanted)
    return {node for node in found if schedule.taps[node] == {0}}


def _luts(schedule: Schedule, inside: Container[int]) -> Counter[str]:
    """LUTs by layer, of functions and of chains' positions."""
    luts = Counter[str]()
    for node, gate in schedule.needed():
        if isinstance(gate, Lut):
            luts[schedule.net.owner[node]] += node not in inside
        elif isinstance(gate, Chain):
            luts[schedule.net.owner[node]] += sum(has_lut(a, b, inside) for a, b in zip(gate.a, gate.b))
    return luts


def _count_registers(schedule: Schedule, luts: Counter[str], registers: Counter[str]) -> None:
    """Add the registers behind every node, from one reader to the next: flip-flops, or LUTs that hold many in a row."""
    for node, taps in schedule.taps.items():
        layer, before = schedule.net.owner[node], 0
        for tap in sorted(taps):
            row, before = tap - before, tap
            if row >= SHIFTED:
                luts[layer] += ceil(row / HELD)
            else:
                registers[layer] += row
    registers[schedule.graph.outputs[0]] += schedule.latency or 0  # those of `valid`


def _arrivals(schedule: Schedule, inside: Container[int]) -> list[float]:
    """When every node of a combinational netlist is ready, in ns; the bits of a chain are so one after the other."""
    when = [0.0] * len(schedule.net.gates)
    sums: dict[int, list[float]] = {}
    for node, gate in schedule.needed():
        if isinstance(gate, Lut):
            when[node] = max(when[source] for source in gate.inputs) + LEVEL
        elif isinstance(gate, Bit):
            when[node] = sums[gate.chain][gate.position]
        elif isinstance(gate, Chain):
            sums[node] = arrivals_of_bits(gate, when, inside)
    return when

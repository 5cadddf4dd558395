"""What a netlist takes of its fabric, layer by layer: LUTs, flip-flops, stages, nanoseconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil

from bnnflow.backends.netlist.gates import TRUE, Bit, Chain, Lut, chain_luts
from bnnflow.backends.netlist.lower import Logic
from bnnflow.backends.netlist.schedule import Schedule

__all__ = ["Count", "netlist_counts"]

SHIFTED = 3  # registers in a row, none with another reader, that tools put into a LUT, at least


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
    luts, registers = _luts(schedule), Counter[str]()
    _count_registers(schedule, luts, registers)
    counts = {}
    for layer, nodes in schedule.gates.items():
        counts[layer] = Count(luts[layer], registers[layer], max((schedule.stage[node] for node in nodes), default=0),
                              max((schedule.time[node] for node in nodes), default=0.0))
    return counts, schedule.latency or 0


def _luts(schedule: Schedule) -> Counter[str]:
    """LUTs by layer, of functions and of chains' positions."""
    luts, net = Counter[str](), schedule.net
    carried = {gate.chain for _, gate in schedule.needed()
               if isinstance(gate, Bit) and gate.position == net.width(gate.chain)}
    for node, gate in schedule.needed():
        if isinstance(gate, Lut):
            luts[schedule.owner[node]] += node not in schedule.inside
        elif isinstance(gate, Chain):
            luts[schedule.owner[node]] += chain_luts(gate, node in carried, schedule.inside, net.fabric)
    if schedule.latency is not None:  # else a tool takes the inverter of an output into the function behind it
        for literal in {literal for literal in schedule.logic.wanted if literal & 1 and literal != TRUE}:
            luts[schedule.owner[literal >> 1]] += 1
    return luts


def _count_registers(schedule: Schedule, luts: Counter[str], registers: Counter[str]) -> None:
    """Add the registers behind every node, from one reader to the next: flip-flops, or LUTs that hold many in a row."""
    holds = schedule.net.fabric.holds
    for node, taps in schedule.taps.items():
        layer, before = schedule.owner[node], 0
        for tap in sorted(taps):
            row, before = tap - before, tap
            if row >= SHIFTED and holds:
                luts[layer] += ceil(row / holds)
            else:
                registers[layer] += row
    registers[schedule.graph.outputs[0]] += schedule.latency or 0  # those of `valid`

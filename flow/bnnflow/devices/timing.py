"""The longest path of a mapped netlist on UltraScale+, from yosys' JSON, in ns as Vivado has them after synthesis.

Delays are means over the longest paths of 22 timing reports of Vivado after synthesis (xcvu9p and xcvu13p, speed grade
-2), when no net is placed yet: docs/reports.md. Placed and routed nets are longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

from bnnflow.devices.cells import Cell, bits, cells_of, inputs, outputs, read_outside

__all__ = ["ALONG", "CLOCK_TO_Q", "LEVEL", "LUT", "MUX", "NET", "OFF", "ONTO", "SETUP", "carry_position",
           "longest_path"]

# Delays in ns. A net leads to every input but a carry; MUX is a multiplexer of two LUTs.
NET, LUT, MUX = 0.236, 0.06, 0.05
LEVEL = NET + LUT  # a LUT and the net to it
# In a carry chain: from S or DI to the next carry, past a position, and from a carry to a sum or to a LUT.
ONTO, ALONG, OFF = 0.16, 0.005, 0.08
CLOCK_TO_Q, SETUP = 0.077, -0.025
STARTS = ("FD", "SRL", "RAM")  # types of cells whose outputs begin a path, and whose inputs end one

Times = dict[Any, float]  # ns at which a bit leaves its cell; constants and ports do so at 0 and are left out


def longest_path(design: Mapping[str, Any]) -> float:
    """Nanoseconds of the longest path between registers or ports of the one module of `design` (xilinx cells)."""
    cells = cells_of(design)
    held = [cell for cell in cells if cell["type"].startswith(STARTS)]
    when = {bit: CLOCK_TO_Q for cell in held for bit in outputs(cell)}
    for cell in _logic(cells):
        _leave(cell, when)
    paths = [when.get(bit, 0.0) for bit in read_outside(design)]
    paths += [when.get(bit, 0.0) + NET + SETUP for cell in held for port, bit in bits(cell, "input") if port != "C"]
    return round(max(paths, default=0.0), 3)


def _logic(cells: Iterable[Cell]) -> Iterator[Cell]:
    """The cells without registers, each behind those whose outputs it reads."""
    cells = [cell for cell in cells if not cell["type"].startswith(STARTS)]
    driver = {bit: k for k, cell in enumerate(cells) for bit in outputs(cell)}
    before = {k: {driver[bit] for bit in inputs(cell) if bit in driver} for k, cell in enumerate(cells)}
    return (cells[k] for k in TopologicalSorter(before).static_order())


def carry_position(carry: float, enters: float) -> tuple[float, float]:
    """When the sum of a position of a carry chain is ready, and when the carry behind it is.

    `carry` is when the carry before it is ready, `enters` when S and DI are.
    """
    return max(carry, enters) + OFF, max(carry + ALONG, enters + ONTO)


def _leave(cell: Cell, when: Times) -> None:
    """Note when the outputs of a cell are ready."""
    if cell["type"].startswith("CARRY"):
        _leave_carry(cell, when)
        return
    own = MUX if cell["type"].startswith("MUXF") else LUT
    ready = max((when.get(bit, 0.0) for bit in inputs(cell)), default=0.0) + NET + own
    when.update((bit, ready) for bit in outputs(cell))


def _leave_carry(cell: Cell, when: Times) -> None:
    """Note when the sums and carries of a carry cell are ready, position by position."""
    wires = cell["connections"]
    begins = [when.get(bit, 0.0) for bit in wires["CI"]]
    carry = max(begins + [when[bit] + NET for bit in wires.get("CYINIT", ()) if bit in when])
    for s, di, o, co in zip(wires["S"], wires["DI"], wires["O"], wires["CO"]):
        when[o], carry = carry_position(carry, max(when.get(s, 0.0), when.get(di, 0.0)) + NET)
        when[co] = carry

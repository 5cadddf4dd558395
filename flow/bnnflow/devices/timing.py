"""The longest path of a mapped netlist on UltraScale+, from yosys' JSON: ns as Vivado has them after synthesis.

Delays are means over the longest paths of 22 timing reports of Vivado after synthesis (xcvu9p and xcvu13p, speed grade
-2), in which nets are not placed yet: docs/reports.md. Placed and routed nets are longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import Any

from bnnflow.devices.lut_packing import inputs

__all__ = ["longest_path", "position"]

NET, LUT, MUX = 0.236, 0.06, 0.05  # ns; a net leads to every input but a carry
ONTO, ALONG, OFF = 0.16, 0.005, 0.08  # a carry chain: from S or DI to the next carry, past a position, to a sum or LUT
CLOCK_TO_Q, SETUP = 0.077, -0.025
STARTS = ("FD", "SRL", "RAM")  # cells whose outputs begin a path, and whose inputs end one


def longest_path(design: Mapping[str, Any]) -> float:
    """Nanoseconds of the longest path between registers or ports of the one module of `design` (xilinx cells)."""
    (module,) = design["modules"].values()
    cells: list[Mapping[str, Any]] = list(module["cells"].values())
    held = [cell["type"].startswith(STARTS) for cell in cells]
    driver = {bit: k for k, cell in enumerate(cells) for port, bits in cell["connections"].items()
              if cell["port_directions"][port] == "output" for bit in bits}
    # When every bit is there, by the place where it leaves its cell; constants and ports are there from the start.
    when: dict[Any, float] = {bit: CLOCK_TO_Q for bit, k in driver.items() if held[k]}
    before = {k: {driver[bit] for bit in inputs(cell) if bit in driver} for k, cell in enumerate(cells) if not held[k]}
    for k in TopologicalSorter(before).static_order():
        if not held[k]:
            _leave(cells[k], when)
    ends = [bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]]
    paths = [when.get(bit, 0.0) for bit in ends]
    for cell, holds in zip(cells, held):
        if holds:
            paths += [when.get(bit, 0.0) + NET + SETUP for port, bits in cell["connections"].items()
                      if cell["port_directions"][port] == "input" and port != "C" for bit in bits]
    return round(max(paths, default=0.0), 3)


def position(carry: float, enters: float) -> tuple[float, float]:
    """When the sum of a position of a carry chain, and the carry behind it, are there."""
    return max(carry, enters) + OFF, max(carry + ALONG, enters + ONTO)


def _leave(cell: Mapping[str, Any], when: dict[Any, float]) -> None:
    """When the outputs of a cell are there."""
    wires = cell["connections"]
    if cell["type"].startswith("CARRY"):
        begins = [when.get(bit, 0.0) for bit in wires["CI"]]
        now = max(begins + [when[bit] + NET for bit in wires.get("CYINIT", ()) if bit in when])
        for s, di, o, co in zip(wires["S"], wires["DI"], wires["O"], wires["CO"]):
            when[o], now = position(now, max(when.get(s, 0.0), when.get(di, 0.0)) + NET)
            when[co] = now
        return
    begins = [when.get(bit, 0.0) for bit in inputs(cell)]
    own = MUX if cell["type"].startswith("MUXF") else LUT
    for port, bits in wires.items():
        if cell["port_directions"][port] == "output":
            for bit in bits:
                when[bit] = max(begins, default=0.0) + NET + own

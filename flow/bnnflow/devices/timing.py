"""The longest path of a mapped netlist before placement, from yosys' JSON, by the delays of a fabric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

from bnnflow.devices.cells import Cell, bits, cells_of, inputs, outputs, read_outside
from bnnflow.devices.fabric import PS, Fabric

__all__ = ["longest_path"]

# Types of cells whose outputs begin a path, and whose inputs end one; their clocks.
STARTS, CLOCKS = ("FD", "SRL", "RAM", "TRELLIS_FF", "SB_DFF"), ("C", "CLK")
MUXES = ("MUXF", "PFUMX", "L6MUX21")

Times = dict[Any, int]  # ps at which a bit leaves its cell; constants and ports do so at 0 and are left out


def longest_path(design: Mapping[str, Any], fabric: Fabric) -> float:
    """Nanoseconds of the longest path between registers or ports of the one module of `design`, made of a fabric."""
    cells = cells_of(design)
    held = [cell for cell in cells if cell["type"].startswith(STARTS)]
    when = {bit: fabric.clock_to_q for cell in held for bit in outputs(cell)}
    for cell in _logic(cells):
        _leave(cell, when, fabric)
    paths = [when.get(bit, 0) for bit in read_outside(design)]
    paths += [when.get(bit, 0) + fabric.net + fabric.setup for cell in held for port, bit in bits(cell, "input")
              if port not in CLOCKS]
    return max(paths, default=0) / PS


def _logic(cells: Iterable[Cell]) -> Iterator[Cell]:
    """The cells without registers, each behind those whose outputs it reads."""
    cells = [cell for cell in cells if not cell["type"].startswith(STARTS)]
    driver = {bit: k for k, cell in enumerate(cells) for bit in outputs(cell)}
    before = {k: {driver[bit] for bit in inputs(cell) if bit in driver} for k, cell in enumerate(cells)}
    return (cells[k] for k in TopologicalSorter(before).static_order())


def _leave(cell: Cell, when: Times, fabric: Fabric) -> None:
    """Note when the outputs of a cell are ready."""
    wires, kind = cell["connections"], cell["type"]
    if kind.startswith("CARRY"):
        begins = [when.get(bit, 0) for bit in wires["CI"]]
        carry = max(begins + [when[bit] + fabric.net for bit in wires.get("CYINIT", ()) if bit in when])
        _along(carry, zip(zip(wires["S"], wires["DI"]), wires["O"], wires["CO"]), when, fabric)
    elif kind == "CCU2C":
        operands = [[bit for port in "ABCD" for bit in wires[f"{port}{k}"]] for k in range(2)]
        begin = max((when.get(bit, 0) for bit in wires["CIN"]), default=0)
        _along(begin, zip(operands, (*wires["S0"], *wires["S1"]), (None, *wires["COUT"])), when, fabric)
    else:
        own = fabric.mux if kind.startswith(MUXES) else fabric.lut
        net = 0 if kind.startswith(("PFUMX", "L6MUX21")) else fabric.net  # within a slice
        ready = max((when.get(bit, 0) for bit in inputs(cell)), default=0) + net + own
        when.update((bit, ready) for bit in outputs(cell))


def _along(carry: int, positions: Iterable[tuple[Iterable[Any], Any, Any]], when: Times, fabric: Fabric) -> None:
    """Note when the sums and carries of (operands, sum, carry) of a carry cell are ready, position by position."""
    for operands, total, out in positions:
        enters = max(when.get(bit, 0) for bit in operands) + fabric.net
        when[total], carry = max(carry, enters) + fabric.off, max(carry + fabric.along, enters + fabric.onto)
        when[out] = carry

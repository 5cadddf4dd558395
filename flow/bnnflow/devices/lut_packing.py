"""LUT packing: the LUT positions that a mapped netlist takes on a Xilinx device, from yosys' JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from bnnflow.devices.cells import Cell, cells_of, inputs, read_outside

__all__ = ["lut_positions"]

PAIR = 5  # inputs that two LUTs of one position have between them


def lut_positions(design: Mapping[str, Any]) -> int:
    """Positions of six-input LUTs that the one module of `design` (yosys' write_json, xilinx cells) takes.

    Every position of a carry chain takes one, up to the last position whose sum or carry is read. The LUT that drives
    its S input is inside; where there is none, the position passes a signal through. Two other LUTs share a position if
    they have an input in common and at most five between them. A shift register takes a position.
    What a router adds (buffers against hold violations) is not in the netlist yet, and a synthesis with other
    optimisations finds fewer LUTs: docs/reports.md has what was measured.
    """
    cells = cells_of(design)
    read = {bit for cell in cells for bit in inputs(cell)} | read_outside(design)
    carries = [bit for cell in cells if cell["type"].startswith("CARRY") for bit in _selects(cell, read)]
    registers = [cell for cell in cells if cell["type"].startswith("SRL")]
    luts = _luts(cells, set(carries))
    return len(carries) + len(registers) + len(luts) - _pairs(luts)


def _luts(cells: Iterable[Cell], without: Collection[Any]) -> dict[int, frozenset[int]]:
    """The inputs of every LUT by the bit that it drives, unless it drives one of `without`."""
    luts = {cell["connections"]["O"][0]: frozenset(inputs(cell)) for cell in cells
            if cell["type"].startswith("LUT") or cell["type"] == "INV"}
    return {out: ins for out, ins in luts.items() if out not in without}


def _selects(cell: Cell, read: Collection[Any]) -> Sequence[Any]:
    """What the S inputs of a carry cell read, up to the last position whose outputs are among `read`."""
    wires = cell["connections"]
    used = [k for k in range(len(wires["S"])) if wires["O"][k] in read or wires["CO"][k] in read]
    selects: Sequence[Any] = wires["S"][: max(used, default=-1) + 1]
    return selects


def _pairs(luts: Mapping[int, frozenset[int]]) -> int:
    """How many pairs of LUTs share a position, of LUTs by the bit that they drive.

    The widest LUTs choose first, each the LUT with which it has the most inputs in common.
    """
    small = {out: ins for out, ins in luts.items() if len(ins) <= PAIR}
    readers = _readers(small)
    free, pairs = set(small), 0
    for out in sorted(small, key=lambda out: (-len(small[out]), out)):
        if out not in free:
            continue
        free.remove(out)
        shared = Counter(other for bit in small[out] for other in readers[bit] if other in free)
        partner = _partner(out, shared, small)
        if partner is not None:
            free.remove(partner)
            pairs += 1
    return pairs


def _readers(luts: Mapping[int, frozenset[int]]) -> dict[int, list[int]]:
    """The LUTs that read each bit."""
    readers = defaultdict(list)
    for out, ins in luts.items():
        for bit in ins:
            readers[bit].append(out)
    return readers


def _partner(out: int, shared: Mapping[int, int], luts: Mapping[int, frozenset[int]]) -> int | None:
    """The LUT that fits beside another one, of those with which it has `shared` inputs in common; None if none does."""
    fits = [(count, -other) for other, count in shared.items() if len(luts[out]) + len(luts[other]) - count <= PAIR]
    return -max(fits)[1] if fits else None

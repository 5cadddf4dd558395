"""LUT positions that a mapped netlist takes on a Xilinx device, from yosys' JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["inputs", "lut_positions"]

PAIR = 5  # inputs that two LUTs of one position have between them


def lut_positions(design: Mapping[str, Any]) -> int:
    """Positions of six-input LUTs that the one module of `design` (yosys' write_json, xilinx cells) takes.

    Every position of a carry chain up to the last one that is read takes one, with the LUT that drives its S input or
    as a mere passage. Two other LUTs share a position if they have an input in common and at most five between them. A
    shift register takes one. What a router adds (buffers against hold violations) is not there yet, and a synthesis
    with other optimisations finds less: docs/reports.md has what was measured.
    """
    (module,) = design["modules"].values()
    cells: list[Mapping[str, Any]] = list(module["cells"].values())
    luts = {cell["connections"]["O"][0]: frozenset(inputs(cell)) for cell in cells
            if cell["type"].startswith("LUT") or cell["type"] == "INV"}
    read = {bit for cell in cells for bit in inputs(cell)}
    read |= {bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]}
    chained: set[int] = set()
    positions = 0
    for cell in cells:
        if cell["type"].startswith("CARRY"):
            wires = cell["connections"]
            last = max((k for k in range(len(wires["S"])) if {wires["O"][k], wires["CO"][k]} & read), default=-1)
            positions += last + 1
            chained |= set(wires["S"][: last + 1])
    positions += len([cell for cell in cells if cell["type"].startswith("SRL")])
    rest = {out: inputs for out, inputs in luts.items() if out not in chained}
    return positions + len(rest) - _pairs({out: inputs for out, inputs in rest.items() if len(inputs) <= PAIR})


def inputs(cell: Mapping[str, Any]) -> Iterator[int]:
    """The bits that a cell of yosys' JSON reads, constants left out."""
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == "input":
            yield from (bit for bit in bits if not isinstance(bit, str))  # "0", "1", "x" are constants


def _pairs(luts: Mapping[int, frozenset[int]]) -> int:
    """How many pairs are found, the widest LUTs first, each with the one that shares most."""
    readers = defaultdict(list)
    for out, inputs in luts.items():
        for bit in inputs:
            readers[bit].append(out)
    free, pairs = set(luts), 0
    for out in sorted(luts, key=lambda out: (-len(luts[out]), out)):
        if out not in free:
            continue
        free.remove(out)
        shared = Counter(other for bit in luts[out] for other in readers[bit] if other in free)
        fits = [(count, -other) for other, count in shared.items() if len(luts[out]) + len(luts[other]) - count <= PAIR]
        if fits:
            free.remove(-max(fits)[1])
            pairs += 1
    return pairs

"""The cells of a mapped netlist, as yosys' JSON has them, and what each counts as, by yosys' name of the primitive."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["KINDS", "LUTS", "Cell", "bits", "cells_of", "count_cells", "inputs", "outputs", "read_outside"]

# (kind, names of cells of Xilinx, ECP5 and iCE40, how many one counts as): a block of 36 Kbit is two of 18.
KINDS = (("carry", r"CARRY[48]|SB_CARRY|CCU2C", 1), ("muxf", r"MUXF[789]|PFUMX|L6MUX21", 1),
         ("ff", r"FD[A-Z]{2}(_1)?|LD[CP]E|SB_DFF\w*|TRELLIS_FF", 1), ("dsp", r"DSP48E[12]|MULT18X18D|SB_MAC16", 1),
         ("bram", r"RAMB36E[12]", 2), ("bram", r"RAMB18E[12]|DP16KD|PDPW16KD", 1), ("uram", r"URAM288", 1))
# (inputs, LUTs) of a cell. An inverter that no LUT took in is one, and so is a shift register; ECP5's carry has two.
LUTS = {"SB_LUT4": (4, 1), "INV": (1, 1), "SRL16E": (6, 1), "SRLC32E": (6, 1), "CCU2C": (4, 2),
        **{f"LUT{k}": (k, 1) for k in range(1, 7)}}

Cell = Mapping[str, Any]  # of yosys' JSON: its `type`, `connections` and `port_directions`


def count_cells(cells: Mapping[str, int]) -> tuple[dict[int, int], dict[str, int]]:
    """(LUTs by their number of inputs, cells by their kind in KINDS) of cells by name, as yosys' `stat` counts them."""
    luts: Counter[int] = Counter()
    for name in cells.keys() & LUTS:
        width, each = LUTS[name]
        luts[width] += each * int(cells[name])
    found = Counter({kind: 0 for kind, _, _ in KINDS})
    for kind, pattern, each in KINDS:
        found[kind] += each * sum(int(count) for name, count in cells.items() if re.fullmatch(pattern, name))
    return dict(sorted(luts.items())), dict(found)


def cells_of(design: Mapping[str, Any]) -> list[Cell]:
    """The cells of the one module of a design (yosys' write_json)."""
    (module,) = design["modules"].values()
    return list(module["cells"].values())


def read_outside(design: Mapping[str, Any]) -> set[Any]:
    """The bits at the output ports of the one module of a design, constants among them."""
    (module,) = design["modules"].values()
    return {bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]}


def bits(cell: Cell, direction: str) -> Iterator[tuple[str, Any]]:
    """(port, bit) of all ports of a direction, "input" or "output"; a constant is a string, "0", "1" or "x"."""
    for port, connected in cell["connections"].items():
        if cell["port_directions"][port] == direction:
            for bit in connected:
                yield port, bit


def inputs(cell: Cell) -> Iterator[int]:
    """The bits that a cell reads, constants left out."""
    return (bit for _, bit in bits(cell, "input") if not isinstance(bit, str))


def outputs(cell: Cell) -> Iterator[int]:
    """The bits that a cell drives."""
    return (bit for _, bit in bits(cell, "output"))

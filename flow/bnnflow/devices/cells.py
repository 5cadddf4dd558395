"""What the cells of a mapped netlist count as, by the names that yosys gives the makers' primitives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

__all__ = ["KINDS", "LUTS", "count_cells"]

# What cells of Xilinx, ECP5 and iCE40 count as, and how much of it: a block of 36 Kbit is two of 18.
KINDS = (("carry", r"CARRY[48]|SB_CARRY|CCU2C", 1), ("muxf", r"MUXF[789]|PFUMX|L6MUX21", 1),
         ("ff", r"FD[A-Z]{2}(_1)?|LD[CP]E|SB_DFF\w*|TRELLIS_FF", 1), ("dsp", r"DSP48E[12]|MULT18X18D|SB_MAC16", 1),
         ("bram", r"RAMB36E[12]", 2), ("bram", r"RAMB18E[12]|DP16KD|PDPW16KD", 1), ("uram", r"URAM288", 1))
# (inputs, LUTs) of a cell. An inverter that no LUT took in is one, and so is a shift register; ECP5's carry has two.
LUTS = {"SB_LUT4": (4, 1), "INV": (1, 1), "SRL16E": (6, 1), "SRLC32E": (6, 1), "CCU2C": (4, 2),
        **{f"LUT{k}": (k, 1) for k in range(1, 7)}}


def count_cells(cells: Mapping[str, int]) -> tuple[dict[int, int], dict[str, int]]:
    """(LUTs of every number of inputs, how many of each kind in KINDS) of cells by name, as `stat` has them."""
    luts: Counter[int] = Counter()
    for name in cells.keys() & LUTS:
        inputs, each = LUTS[name]
        luts[inputs] += each * int(cells[name])
    found = Counter({kind: 0 for kind, _, _ in KINDS})
    for kind, pattern, each in KINDS:
        found[kind] += each * sum(int(count) for name, count in cells.items() if re.fullmatch(pattern, name))
    return dict(sorted(luts.items())), dict(found)

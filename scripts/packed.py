"""LUTs by yosys beside those of Vivado, for designs of which both Verilog and reports are at hand.

    python scripts/packed.py FOLDER...

Each FOLDER holds `rtl/` and Vivado's `*_post_synth_util.rpt`, `*_post_route_util.rpt` and `*_timing.rpt`, as in the
tests' data of calad0i/da4ml. The longest path of Vivado is set beside ours where its reports have one.

With several folders the LUTs of each are also estimated: its LUT positions, times the mean of Vivado's synthesised LUTs
per position of the others. Needs pyosys; run with 0.70.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

from pyosys import libyosys

from bnnflow.devices.fabric import ULTRASCALE
from bnnflow.devices.lut_packing import lut_positions
from bnnflow.devices.timing import longest_path
from bnnflow.facts.readers import read_report

# ROMs as logic first: yosys has no distributed ROM for this family.
SCRIPT = ("scratchpad -set abc9.verify 0", "hierarchy -top vmodel", "proc", "flatten", "opt", "memory_collect",
          "memory_map", "opt", "synth_xilinx -family xcup -flatten -noiopad -top vmodel")


def statistics(folder: Path, place: Path) -> None:
    """Synthesise a design, and write stat.json and netlist.json to `place`."""
    sources = sorted(str(file) for file in (folder / "rtl").rglob("*.v") if "wrapper" not in file.name)
    design = libyosys.Design()
    os.chdir(folder / "rtl/memfiles")  # where $readmemh looks
    read = "read_verilog -defer -sv " + " ".join(f'"{source}"' for source in sources)
    for command in (read, *SCRIPT, f"tee -q -o {place}/stat.json stat -json -tech xilinx", "select vmodel",
                    f"write_json -selected {place}/netlist.json"):
        libyosys.run_pass(command, design)


def lut(folder: Path, state: str) -> int:
    """Vivado's LUTs after a state of the design, "synth" or "route"."""
    (report,) = folder.glob(f"*_post_{state}_util.rpt")
    count = read_report(report).lut
    assert count
    return count


def path(folder: Path, state: str) -> str:
    """Vivado's longest path in ns after a state of the design."""
    (report,) = folder.glob(f"*_post_{state}_timing.rpt")
    found = re.search(r"Data Path Delay: +([\d.]+)ns", report.read_text())
    return found[1] if found else "none"


def main() -> None:
    """A row for every folder."""
    found = {}
    for folder in [Path(argument).resolve() for argument in sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            statistics(folder, place)
            size, netlist = read_report(place / "stat.json"), json.loads((place / "netlist.json").read_text())
            positions = lut_positions(netlist)
        print(f"{folder.name}: longest path {longest_path(netlist, ULTRASCALE)} ns; "
              f"Vivado synthesised {path(folder, 'synth')}, routed {path(folder, 'route')}")
        found[folder] = lut(folder, "synth"), lut(folder, "route"), positions, size.lut, size.lut_packed
    for folder, (synthesised, routed, positions, raw, packed) in found.items():
        print(f"{folder.name}: Vivado synthesised {synthesised:,}, routed {routed:,}; yosys: LUTs {raw:,}, "
              f"packed {packed:,}, positions {positions:,}")
        others = [row[0] / row[2] for other, row in found.items() if other != folder]
        if others:
            guess = round(positions * sum(others) / len(others))
            print(f"    from the others' positions: {guess:,}, {guess / synthesised:.3f} of the synthesised, "
                  f"{guess / routed:.3f} of the routed")


if __name__ == "__main__":
    main()

"""LUTs by yosys beside those that Vivado routed, for designs of which both Verilog and reports are at hand.

    python scripts/packed.py FOLDER...

Each FOLDER holds `rtl/` and Vivado's `*_post_route_util.rpt`, as in the tests' data of calad0i/da4ml. Needs pyosys; run
with 0.70.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pyosys import libyosys

from flow.reports.readers import read_report

# ROMs as logic first: yosys has no distributed ROM for this family.
SCRIPT = ("scratchpad -set abc9.verify 0", "hierarchy -top vmodel", "proc", "flatten", "opt", "memory_collect",
          "memory_map", "opt", "synth_xilinx -family xcup -flatten -noiopad -top vmodel")


def statistics(folder: Path, target: Path) -> None:
    """Synthesise a design and write its statistics."""
    sources = sorted(str(file) for file in (folder / "rtl").rglob("*.v") if "wrapper" not in file.name)
    design = libyosys.Design()
    os.chdir(folder / "rtl/memfiles")  # where $readmemh looks
    read = "read_verilog -defer -sv " + " ".join(f'"{source}"' for source in sources)
    for command in (read, *SCRIPT, f"tee -q -o {target} stat -json -tech xilinx"):
        libyosys.run_pass(command, design)


def main() -> None:
    """A row a folder."""
    for folder in (Path(argument).resolve() for argument in sys.argv[1:]):
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "stat.json"
            statistics(folder, target)
            ours = read_report(target)
        (report,) = folder.glob("*_post_route_util.rpt")
        routed = read_report(report)
        assert ours.lut and ours.lut_packed and routed.lut
        print(f"{folder.name}: routed {routed.lut:,}, packed {ours.lut_packed:,} ({ours.lut_packed / routed.lut:.3f}), "
              f"LUTs {ours.lut:,} ({ours.lut / routed.lut:.3f})")


if __name__ == "__main__":
    main()

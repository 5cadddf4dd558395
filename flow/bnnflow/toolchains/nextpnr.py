"""Place and route of Verilog on an ECP5 by nextpnr: a real clock, without a vendor's tools."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnnflow.errors import InputError, ToolError
from bnnflow.files import remembered
from bnnflow.ir import Graph
from bnnflow.toolchains import process as tools
from bnnflow.toolchains.yosys import FAMILIES, run_script

__all__ = ["DEVICES", "Placed", "place"]

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
    yosys, router = tools.command("yosys"), tools.command("nextpnr")
    sources = {**files, "flow_registered.v": _registered(top, graph, pipelined)}
    script = "\n".join(["scratchpad -set abc9.verify 0", f"read_verilog {' '.join(sources)}",
                        f"{FAMILIES['ecp5'][0]} -top flow_registered -json design.json", ""])
    options = [f"--{device}", "--package", "CABGA381", "--json", "design.json", "--out-of-context",
               "--freq", f"{1000 / period:.3f}", "--timing-allow-fail", "--seed", "1", "--report", "report.json"]

    def run() -> dict[str, Any]:
        return asdict(_run(yosys, script, [*router, *options], sources, device))

    key = [tools.version("yosys"), tools.version("nextpnr"), script, options, sources]
    return Placed(**remembered("nextpnr", key, run))


def _run(yosys: Sequence[str], script: str, router: Sequence[str], sources: Mapping[str, str], device: str) -> Placed:
    with tempfile.TemporaryDirectory(prefix="bnnflow-nextpnr-") as name:
        folder = Path(name)
        run_script(yosys, script, sources, folder, SECONDS)
        tools.call(router, folder, folder / "nextpnr.log", SECONDS)
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
    said = tools.version("nextpnr")
    version = re.search(r"Version nextpnr-([\w.]+)", said)
    return Placed(device, version[1] if version else said, 1000 / megahertz, used["lut"], used["ff"], available)


def _registered(top: str, graph: Graph, pipelined: bool) -> str:
    """A module with a register at every port of the design, so that all its paths lie between two."""
    ports = {f"x_{node.name}": node.size * node.domain.bits for node in graph.inputs} | {"valid_in": 1}
    results = {f"y_{name}": graph[name].size * graph[name].domain.bits for name in graph.outputs} | {"valid_out": 1}
    lines = ["module flow_registered (input wire clk, input wire rst,"]
    lines += [f"    input wire [{width - 1}:0] {name}," for name, width in ports.items()]
    lines.append(",\n".join(f"    output reg [{width - 1}:0] {name}" for name, width in results.items()) + ");")
    lines += [f"    reg [{width - 1}:0] r_{name};" for name, width in ports.items()]
    lines += [f"    wire [{width - 1}:0] w_{name};" for name, width in results.items()]
    pins = [f".{name}(r_{name})" for name in ports] + [f".{name}(w_{name})" for name in results]
    pins += [".clk(clk)", ".rst(rst)"] if pipelined else []
    lines += ["    always @(posedge clk) begin", *(f"        r_{name} <= {name};" for name in ports),
              *(f"        {name} <= w_{name};" for name in results), "    end",
              f"    {top} design ({', '.join(pins)});", "endmodule", ""]
    return "\n".join(lines)

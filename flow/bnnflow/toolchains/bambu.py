"""Bambu, an HLS compiler of open source: Verilog of C++ projects, which is simulated and compared with the graph.

Bambu gets what a vendor's front end makes of a project: LLVM's code, inlined and unrolled as the pragmas ask
(`bnnflow.toolchains.clang.code_of`), with words of 64 bits at its ports (`bnnflow.toolchains.words`). Verilator runs its
Verilog under a test bench of ours.
"""

from __future__ import annotations

import re
import string
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.backend import CPP
from bnnflow.backends.project import EXPECTED, INPUTS, RESULTS, Project, read_vectors
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts
from bnnflow.files import remembered
from bnnflow.ir import Graph
from bnnflow.toolchains import process
from bnnflow.toolchains.clang import CLANG, FIRMWARE, code_of
from bnnflow.toolchains.process import Program, Say
from bnnflow.toolchains.toolchain import Option, Toolchain
from bnnflow.toolchains.verilator import VERILATOR, run_verilog
from bnnflow.toolchains.words import Words

__all__ = ["BAMBU", "DEVICES", "TOOLCHAIN", "closest_device", "simulate", "synthesize_project"]

BAMBU = Program("bambu", ("bambu",), "BNNFLOW_BAMBU", "HLS of C++ projects to Verilog, simulated, without a vendor's tool",
                "put bambu (PandA-Bambu 2024.10) on PATH, or set BNNFLOW_BAMBU", version_begins="Version: ")
TOP = "flow_words_top"
HOURS = 1.0
CYCLES = 10_000_000  # of a sample, at most
COMPILER = "I386_CLANG16"  # the version of LLVM whose code it reads, as ours is
# Parts begin with ..., and Bambu's device of that family; the first that fits. It knows no other Xilinx families.
DEVICES = {
    "xc7a": "xc7a100t-1csg324-VVD", "xc7s": "xc7a100t-1csg324-VVD", "xc7z": "xc7z020-1clg484-VVD",
    "xc7k": "xc7vx690t-3ffg1930-VVD", "xc7v": "xc7vx690t-3ffg1930-VVD", "xcku0": "xcku060-3ffva1156-VVD",
    "xcku1": "xcku060-3ffva1156-VVD", "xcu55": "xcu55c-2Lfsvh2892-VVD", "": "xcu280-2Lfsvh2892-VVD",
}


def closest_device(part: str) -> str:
    """The device of Bambu's that is closest to a part: of its family, or a large UltraScale+."""
    return next(device for begins, device in DEVICES.items() if part.lower().startswith(begins))


@dataclass(frozen=True)
class _Design:
    """What Bambu made of a project: its Verilog and the files that this reads, by name, and what it said."""

    words: Words
    files: Mapping[str, str]
    log: str
    version: str

    @classmethod
    def of(cls, project: Project, graph: Graph, device: str, hours: float, say: Say | None) -> _Design:
        """Run Bambu, or take what it made of the same code before; raises ToolError where it is missing or fails."""
        process.need(BAMBU)
        if project.config.io_type != "io_parallel":
            raise InputError(f"{project.path} is an {project.config.io_type} project: Bambu is run on io_parallel ones")
        words, version = Words(project, graph), process.version(BAMBU)
        code = _unnamed(code_of(project, TOP, words.source(TOP, f"{FIRMWARE}/{project.top}.cpp")))
        arguments = [f"--top-fname={TOP}", "--generate-interface=INFER", "--architecture-xml=ports.xml",
                     f"--compiler={COMPILER}", "-m64", "-O1", f"--clock-period={project.config.clock_period}",
                     f"--device-name={device}"]

        def run() -> dict[str, Any]:
            with tempfile.TemporaryDirectory(prefix="bnnflow-bambu-") as name:
                folder = Path(name)
                (folder / "design.ll").write_text(code)
                (folder / "ports.xml").write_text(_ports(words))
                log = folder / "bambu.log"
                try:
                    process.call([process.need(BAMBU), "design.ll", *arguments], folder, log, hours * 3600, say=say)
                except ToolError as error:
                    raise ToolError(f"{error}\n{_remedy(project, hours)}") from error
                made = {file.name: file.read_text() for file in folder.iterdir() if file.suffix in (".v", ".mem")}
                return {"files": made, "log": log.read_text(errors="replace")}

        made = remembered("bambu", [version, code, _ports(words), arguments], run)
        if f"{TOP}.v" not in made["files"]:
            raise ToolError(f"bambu ended without {TOP}.v; {_remedy(project, hours)}")
        return cls(words, made["files"], made["log"], version)

    def run(self, folder: Path, given: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], tuple[int, int]]:
        """(The codes of all outputs, (fewest, most) cycles of a sample) for the codes of all inputs, by Verilator.

        Raises ToolError where a sample is not done after CYCLES.
        """
        samples = len(given[0])
        packed = np.concatenate([port.packed(codes) for port, codes in zip(self.words.inputs, given)], axis=1)
        for name, text in {**self.files, "bench.v": self._bench(samples)}.items():
            (folder / name).write_text(text)
        np.savetxt(folder / "words.txt", packed, fmt="%x")
        said = run_verilog(folder, f"{TOP}_tb", ["bench.v", f"{TOP}.v"])
        found = re.search(r"cycles (\d+) (\d+)", said)
        if not found or int(found[2]) >= CYCLES:
            raise ToolError(f"bambu: its Verilog is not done after {CYCLES:,} cycles of a sample:\n{said[-500:]}")
        rows = [[int(word, 16) for word in line.split()] for line in (folder / "results.txt").read_text().splitlines()]
        words = np.array(rows, np.uint64).reshape(samples, -1)
        places = [slice(port.words.start - self.words.taken, port.words.stop - self.words.taken)
                  for port in self.words.outputs]
        codes = [port.codes(words[:, place]) for port, place in zip(self.words.outputs, places)]
        return codes, (int(found[1]), int(found[2]))

    def _bench(self, samples: int) -> str:
        ins, outs = self.words.names[:self.words.taken], self.words.names[self.words.taken:]
        pins = ["clock", "reset", "start_port", "done_port", *ins, *outs, *(f"{name}_vld" for name in outs)]
        template = (files("bnnflow.hls_templates") / "flow_words_tb.v").read_text()
        return _Text(template).substitute(
            top=TOP, samples=samples, limit=CYCLES, pins=", ".join(f".{name}({name})" for name in pins),
            declarations="\n".join([*(f"    reg [63:0] {name} = 0;" for name in ins), *(
                f"    wire [63:0] {name};\n    wire {name}_vld;\n    reg [63:0] got_{name} [0:SAMPLES-1];\n"
                f"    integer count_{name} = 0;" for name in outs)]),
            gives="\n".join(f'            found = $fscanf(words, "%h", {name});' for name in ins),
            takes="\n".join(f"        if ({name}_vld) begin\n            got_{name}[count_{name}] = {name};\n"
                            f"            count_{name} = count_{name} + 1;\n        end" for name in outs),
            says="\n".join(f'            $fwrite(results, "%h ", got_{name}[k]);' for name in outs))

    def facts(self, name: str, device: str) -> Facts:
        """What Bambu says of it; raises ToolError where it says nothing."""
        area, ff, clock = (self._last(what) for what in (
            "Total estimated area", r"Total number of flip-flops in function \w+", r"Estimated max frequency \(MHz\)"))
        states = [int(found) for found in re.findall(r"Number of states: (\d+)", self.log)]
        notes = (f"LUTs are Bambu's own estimate, of {device}; {sum(states)} states",)
        return Facts(name, "C synthesis", BAMBU.name, self.version, device, lut=round(area), ff=round(ff),
                     dsp=round(self._last("Estimated number of DSPs")), clock_estimated=round(1000 / clock, 3), notes=notes)

    def _last(self, what: str) -> float:
        """The number that is said last of something, which is that of the whole design."""
        found = re.findall(rf"{what}:? *([\d.e+]+)", self.log)
        if not found:
            raise ToolError(f"bambu said nothing of {what!r}; this version was run with {TOOLCHAIN.versions[0]}")
        return float(found[-1])


class _Text(string.Template):
    """A template whose fields are @{name}: in Verilog `$` begins the names of system tasks."""

    delimiter = "@"


def _unnamed(code: str) -> str:
    """Code whose function's arguments P0, P1, ... have numbers instead, and nothing else has: as Bambu names them."""
    code = re.sub(r"%(\d+)(?![\w.$-])", r"%value\1", code)
    code = re.sub(r"^(\d+):", r"value\1:", code, flags=re.MULTILINE)
    return re.sub(r"%P(\d+)(?![\w.$-])", r"%\1", code)


def _ports(words: Words) -> str:
    """The ports in Bambu's words: what is given, and registers with a bit that says when they are written."""
    kinds = [("default", "unsigned long long")] * words.taken
    kinds += [("ptrdefault", "unsigned long long*")] * (words.count - words.taken)
    ports = list(zip(words.names, kinds))
    bundles = "".join(f'<bundle mode="{mode}" name="{name}"/>' for name, (mode, _) in ports)
    parameters = "".join(
        f'<parameter bundle="{name}" includes="" index="{k}" original_typename="{kind}" port="{name}" size_in_bytes="8" '
        f'typename="{kind}"/>' for k, (name, (_, kind)) in enumerate(ports))
    return (f'<?xml version="1.0"?>\n<module><function name="{TOP}" symbol="{TOP}"><bundles>{bundles}</bundles>'
            f"<parameters>{parameters}</parameters></function></module>\n")


def _remedy(project: Project, hours: float) -> str:
    return (f"Bambu takes {project.path} in smaller pieces only: fold it (strategy='Resource' with a larger reuse_factor), "
            f"or give it more time (hours={2 * hours:g})")


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """Run Bambu's Verilog on the vectors in the folder `run`."""
    graph = project.graph()
    design = _Design.of(project, graph, closest_device(project.config.part), HOURS, say)
    folder = run / "bambu"
    folder.mkdir()
    codes, _ = design.run(folder, read_vectors(run / INPUTS, graph.inputs))
    outputs = run / "tb_data" / RESULTS
    np.savetxt(outputs, np.concatenate([array.reshape(len(array), -1) for array in codes], axis=1), fmt="%d")
    return outputs, False


def synthesize_project(project: Project, device: str = "", hours: float = HOURS, say: Say | None = None) -> Facts:
    """What Bambu says of a project's design, and the cycles that its Verilog takes for the project's vectors.

    `device` is one of Bambu's, by default the closest to the project's part; `hours` is how long a run may take.

    Raises ToolError where Bambu, clang or Verilator is missing or fails, Mismatch where the Verilog computes something
    else than the graph.
    """
    graph, device = project.graph(), device or closest_device(project.config.part)
    design = _Design.of(project, graph, device, hours, say)
    expected = read_vectors(project.path / EXPECTED, [graph[name] for name in graph.outputs])
    with tempfile.TemporaryDirectory(prefix="bnnflow-bambu-") as name:
        got, cycles = design.run(Path(name), read_vectors(project.path / INPUTS, graph.inputs))
    differ = sum(int((ours != theirs).sum()) for ours, theirs in zip(expected, got))
    if differ:
        raise Mismatch(f"{project.path}: Bambu's Verilog and the graph differ in {differ} of "
                       f"{sum(array.size for array in got)} outputs; `bnnflow sim --tool bambu` says where")
    notes = (f"cycles are those of its Verilog in simulation, {len(got[0]):,} samples, all outputs those of the graph",)
    facts = design.facts(project.top, device)
    facts = replace(facts, latency=cycles, interval=cycles, clock_target=project.config.clock_period,
                    notes=(*facts.notes, *notes))
    return keep_facts(project, BAMBU.name, device, facts)


TOOLCHAIN = Toolchain(
    BAMBU, CPP, ("PandA 2024.10 (with clang 16.0.6, Verilator 5.048)",), simulate=simulate, synthesize=synthesize_project,
    options=(Option("device", "", "a device of Bambu's; by default the closest to the part"),
             Option("hours", HOURS, "most hours of a run")), helpers=(CLANG, VERILATOR))

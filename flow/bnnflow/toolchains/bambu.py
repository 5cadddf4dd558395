"""Bambu, an HLS compiler of open source: Verilog of C++ projects, which is simulated and compared with the graph.

Bambu gets what a vendor's front end makes of a project: LLVM's code, inlined and unrolled as the pragmas ask
(`bnnflow.toolchains.clang.code_of`). A design of arrays is one block with words at its ports
(`bnnflow.toolchains.words`), a design of streams a block for every kernel (`bnnflow.toolchains.streams`). Verilator
runs their Verilog under a test bench of ours.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnnflow.backends.backend import CPP
from bnnflow.backends.project import EXPECTED, INPUTS, RESULTS, Project, read_vectors
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts
from bnnflow.files import remembered
from bnnflow.ir.nodes import Int
from bnnflow.toolchains import process
from bnnflow.toolchains.clang import CLANG, code_of
from bnnflow.toolchains.code_size import code_sizes
from bnnflow.toolchains.process import Program, Say
from bnnflow.toolchains.streams import StreamPorts
from bnnflow.toolchains.toolchain import Option, Toolchain
from bnnflow.toolchains.verilator import VERILATOR, run_verilog
from bnnflow.toolchains.words import GIVEN, STREAM, TAKEN, TOP, Block, Range, WordPorts, cycles_said
from bnnflow.toolchains.yosys import YOSYS, Size
from bnnflow.toolchains.yosys import synthesize as logic_size

__all__ = ["BAMBU", "TOOLCHAIN", "closest_device", "simulate", "synthesize_project"]

BAMBU = Program("bambu", ("bambu",), "BNNFLOW_BAMBU", "HLS of C++ projects to Verilog, without a vendor's tool",
                "put bambu (PandA-Bambu 2024.10) on PATH, or set BNNFLOW_BAMBU", version_begins="Version: ")
HOURS = 4.0
# The code is clang 16's, with pointers of 64 bits; what was to be unrolled is, and nothing else may be.
FRONT_END = ("--compiler=I386_CLANG16", "-m64", "-O1")
# How parts begin, and the device of that family, or of one that is like it; a large UltraScale+ for all others.
DEVICES = {
    "xc7a": "xc7a100t-1csg324-VVD", "xc7s": "xc7a100t-1csg324-VVD", "xc7z": "xc7z020-1clg484-VVD",
    "xc7k": "xc7vx690t-3ffg1930-VVD", "xc7v": "xc7vx690t-3ffg1930-VVD", "xcku0": "xcku060-3ffva1156-VVD",
    "xcku1": "xcku060-3ffva1156-VVD", "": "xcu280-2Lfsvh2892-VVD",
}
MODES = {GIVEN: ("default", "unsigned long long", 8), TAKEN: ("ptrdefault", "unsigned long long*", 8),
         STREAM: ("fifo", "ac_channel&lt;unsigned long long&gt;&amp;", 1)}
# The bit is that of the start, in a pipeline: what the last stage gives when the block is done is taken instead.
PIPELINED_TAKEN = ("none", "unsigned long long*", 8)
MODULE = re.compile(r"^module (\w+)\b.*?^endmodule", re.MULTILINE | re.DOTALL)


def closest_device(part: str) -> str:
    """The device of Bambu's that is closest to a part."""
    return next(device for begins, device in DEVICES.items() if part.lower().startswith(begins))


@dataclass(frozen=True)
class _Module:
    """What Bambu made of a block: its Verilog and the memories that this reads, by the names of files, and its log.

    A `pipelined` one takes new words in every cycle.
    """

    block: Block
    pipelined: bool
    files: Mapping[str, str]
    log: str

    def facts(self, version: str, device: str) -> Facts:
        """What Bambu says of it: of a pipelined one no LUTs."""
        area, dsp, ff, clock, states = (self._last(what) for what in (
            "Total estimated area", "Estimated number of DSPs", r"Total number of flip-flops in function \w+",
            r"Estimated max frequency \(MHz\)", "Number of states"))
        return Facts(self.block.name, "C synthesis", BAMBU.name, version, device, lut=_rounded(area), ff=_rounded(ff),
                     dsp=_rounded(dsp), clock_estimated=round(1000 / clock, 3) if clock else None,
                     notes=(f"{self.block.name} has {_rounded(states)} states",))

    def _last(self, what: str) -> float | None:
        """The number that is said last of something, which is that of the whole block."""
        found = re.findall(rf"{what}:? *([\d.e+]+)", self.log)
        return float(found[-1]) if found else None


def _rounded(number: float | None) -> int | None:
    return None if number is None else round(number)


class _Design:
    """The modules that Bambu makes of a project's blocks; made before, of the same code, they cost nothing.

    Raises ToolError where Bambu or clang is missing or fails.
    """

    def __init__(self, project: Project, device: str, hours: float, say: Say | None):
        self.project, self.hours, self.say = project, hours, say
        self.device = device or closest_device(project.config.part)
        process.need(BAMBU)
        version = re.search(r"PandA ([\w.]+)", process.version(BAMBU))
        self.version = version[1] if version else ""
        graph = project.graph()
        self.ports = StreamPorts(project, graph) if project.config.io_type == "io_stream" else WordPorts(project, graph)
        self.modules = [self._module(block) for block in self.ports.blocks]

    def _module(self, block: Block) -> _Module:
        code = code_of(self.project, block.name, block.source)
        # Bambu pipelines functions, no loops. One that waits for a FIFO would hold up what is behind it; and of several
        # words that are taken each leaves the pipeline in a stage of its own, which nothing says.
        pipelined = (STREAM not in block.ports and block.ports.count(TAKEN) == 1
                     and not any(size.loops for size in code_sizes(code, block.name)))
        code, ports = _unnamed(code), _ports(block, pipelined)
        arguments = [f"--top-fname={block.name}", "--generate-interface=INFER", "--architecture-xml=ports.xml",
                     *FRONT_END, f"--clock-period={self.project.config.period}", f"--device-name={self.device}"]

        def run() -> dict[str, Any]:
            with tempfile.TemporaryDirectory(prefix="bnnflow-bambu-") as name:
                folder, log = Path(name), Path(name) / "bambu.log"
                (folder / "design.ll").write_text(code)
                (folder / "ports.xml").write_text(ports)
                try:
                    process.call([*process.command(BAMBU), "design.ll", *arguments], folder, log, self.hours * 3600,
                                 say=self.say)
                except ToolError as error:
                    raise ToolError(f"{error}\n({block.name} of {self.project.path}; strategy='Resource' with a larger "
                                    "reuse_factor makes less and other code of it; a longer time: "
                                    f"hours={2 * self.hours:g})") from error
                made = {file.name: file.read_text() for file in folder.iterdir() if file.suffix in (".v", ".mem")}
                return {"files": made, "log": log.read_text(errors="replace")}

        made = remembered("bambu", [process.version(BAMBU), code, ports, arguments], run)
        if f"{block.name}.v" not in made["files"]:
            raise ToolError(f"bambu ended without {block.name}.v:\n{made['log'][-1000:]}")
        return _Module(block, pipelined, made["files"], made["log"])

    @property
    def files(self) -> dict[str, str]:
        """The Verilog of all modules in one file, and the memories that it reads, by name."""
        memories: dict[str, str] = {}
        modules: dict[str, str] = {}
        for module in self.modules:
            text = module.files[f"{module.block.name}.v"]
            for name, memory in module.files.items():
                if name.endswith(".mem"):  # two blocks may number theirs alike
                    memories[f"{module.block.name}_{name}"] = memory
                    text = text.replace(f'"{name}"', f'"{module.block.name}_{name}"')
            for found in MODULE.finditer(text):  # of Bambu's library each has its own copy
                if modules.setdefault(found[1], found[0]) != found[0]:
                    raise ToolError(f"bambu: two blocks of {self.project.path} have each another module {found[1]}; "
                                    "build it with io_type='io_parallel'")
        return {"design.v": "`timescale 1ns / 1ps\n" + "\n".join(modules.values()) + "\n", **memories}

    def bench(self, codes: Sequence[Int]) -> dict[str, str]:
        """The design with a test bench that gives it the codes of all inputs: texts of files, by name."""
        return {**self.files, **self.ports.bench(codes, all(module.pipelined for module in self.modules))}

    def run(self, codes: Sequence[Int]) -> tuple[list[Int], Range, Range]:
        """(The codes of all outputs, cycles of a sample, and to the next one) for the codes of all inputs.

        Raises ToolError where Verilator is missing or fails, or the design stands still.
        """
        with tempfile.TemporaryDirectory(prefix="bnnflow-bambu-") as name:
            folder, texts = Path(name), self.bench(codes)
            _write(folder, texts)
            said = run_verilog(folder, f"{TOP}_tb", [file for file in texts if file.endswith(".v")])
            return self.ports.results(folder), *cycles_said(said)

    def logic(self) -> list[Size]:
        """What yosys makes of every module; raises ToolError where yosys is missing or fails."""
        family = "xc7" if self.device.startswith("xc7") else "xcup"
        return [logic_size(self.files, module.block.name, family) for module in self.modules]


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)


def _kept(folder: Path, texts: Mapping[str, str]) -> str:
    """Write files for the user; says where they are, or why they are not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, texts)
    except OSError as error:
        return f"its Verilog is not kept: {error}"
    return f"its Verilog, and the test bench: {folder}"


def _unnamed(code: str) -> str:
    """Code whose function's arguments P0, P1, ... have numbers instead, and nothing else has: as Bambu names them."""
    code = re.sub(r"%(\d+)(?![\w.$-])", r"%value\1", code)
    code = re.sub(r"^(\d+):", r"value\1:", code, flags=re.MULTILINE)
    return re.sub(r"%P(\d+)(?![\w.$-])", r"%\1", code)


def _ports(block: Block, pipelined: bool) -> str:
    """The ports of a block in Bambu's words, and whether it is pipelined."""
    modes = [PIPELINED_TAKEN if pipelined and port == TAKEN else MODES[port] for port in block.ports]
    bundles = "".join(f'<bundle mode="{mode}" name="P{k}"/>' for k, (mode, _, _) in enumerate(modes))
    parameters = "".join(
        f'<parameter bundle="P{k}" includes="" index="{k}" original_typename="{kind}" port="P{k}" '
        f'size_in_bytes="{size}" typename="{kind}"/>' for k, (_, kind, size) in enumerate(modes))
    style = ' pipeline_style="frp" pipeline_ii="1"' if pipelined else ""
    return (f'<?xml version="1.0"?>\n<module><function name="{block.name}" symbol="{block.name}"{style}>'
            f"<bundles>{bundles}</bundles><parameters>{parameters}</parameters></function></module>\n")


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """Run Bambu's Verilog on the vectors in the folder `run`."""
    codes, _, _ = _Design(project, "", HOURS, say).run(read_vectors(run / INPUTS, project.graph().inputs))
    outputs = run / "tb_data" / RESULTS
    np.savetxt(outputs, np.concatenate([array.reshape(len(array), -1) for array in codes], axis=1), fmt="%d")
    return outputs, False


def synthesize_project(project: Project, target: str = "", logic: bool = False, hours: float = HOURS,
                       say: Say | None = None) -> Facts:
    """What Bambu says of a project's design, and the cycles that its Verilog takes for the project's vectors.

    `target` is a device of Bambu's, by default the closest to the project's part; `hours` is how long a block may take.
    With `logic` LUTs and registers are those that yosys counts in the Verilog.

    Raises ToolError where Bambu, clang, Verilator or yosys is missing or fails, Mismatch where the Verilog computes
    something else than the graph, InputError for hours that are none.
    """
    if not hours > 0:
        raise InputError(f"hours={hours!r}: a number above 0")
    design, graph = _Design(project, target, hours, say), project.graph()
    expected = read_vectors(project.path / EXPECTED, [graph[name] for name in graph.outputs])
    codes = read_vectors(project.path / INPUTS, graph.inputs)
    got, latency, interval = design.run(codes)
    differ = sum(int((ours != theirs).sum()) for ours, theirs in zip(expected, got))
    if differ:
        raise Mismatch(f"{project.path}: Bambu's Verilog and the graph differ in {differ} of "
                       f"{sum(array.size for array in got)} outputs; `bnnflow sim --tool bambu` says where")
    modules = [module.facts(design.version, design.device) for module in design.modules]
    source, by = "C synthesis", "Bambu's own estimates"
    if logic:
        modules = [replace(module, lut=size.raw, ff=size.ff, carry=size.carry, muxf=size.muxf, source="logic synthesis")
                   for module, size in zip(modules, design.logic())]
        source, by = "logic synthesis", "what yosys counts in its Verilog"
    lut, ff, dsp, carry, muxf = (_total([getattr(module, name) for module in modules])
                                 for name in ("lut", "ff", "dsp", "carry", "muxf"))
    clocks = [module.clock_estimated for module in modules if module.clock_estimated]
    notes = (f"LUTs and registers are {by}, the clock is Bambu's estimate of {design.device}",
             f"cycles are those of its Verilog: {len(got[0]):,} samples simulated, all outputs those of the graph",
             _kept(project.runs / BAMBU.name, design.bench(codes)))
    facts = Facts(project.top, source, BAMBU.name, design.version, design.device, lut=lut, ff=ff, dsp=dsp, carry=carry,
                  muxf=muxf, latency=latency, interval=interval, clock_target=project.config.period,
                  clock_estimated=max(clocks, default=None), modules=tuple(modules),
                  notes=(*notes, *(note for module in modules for note in module.notes)))
    return keep_facts(project, BAMBU.name, "logic" if logic else "csynth", facts)


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum of what all modules say; None where one does not."""
    return None if None in counts else sum(count for count in counts if count is not None)


TOOLCHAIN = Toolchain(
    BAMBU, CPP, ("PandA 2024.10, with clang 16.0.6",), simulate=simulate, synthesize=synthesize_project,
    options=(Option("target", "", "its device, by default the one closest to the part"),
             Option("logic", False, "LUTs and registers by yosys"), Option("hours", HOURS, "most hours of a block")),
    helpers=(CLANG, VERILATOR, YOSYS))

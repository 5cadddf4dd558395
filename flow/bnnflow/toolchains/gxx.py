"""C simulation by g++, with the flags of the project's own Tcl script."""

from __future__ import annotations

from pathlib import Path

from bnnflow.backends.backend import CPP
from bnnflow.backends.project import Project
from bnnflow.files import kept
from bnnflow.toolchains import process
from bnnflow.toolchains.compiled import COMPILE_SECONDS, run_bench
from bnnflow.toolchains.process import GXX, Say
from bnnflow.toolchains.toolchain import Toolchain

__all__ = ["TOOLCHAIN", "compile_project"]

# The flags of hls4ml's Tcl; -O2 only speeds up the run.
FLAGS = ("-std=c++0x", "-O2", "-w")


def compile_project(project: Project, program: Path, log: Path) -> None:
    """Compile a project with its own test bench and the ap_types that it brings along."""
    process.call(
        [process.need(GXX), *FLAGS, "-Ifirmware/ap_types", "-I.", f"{project.top}_test.cpp",
         f"firmware/{project.top}.cpp", "-o", str(program.absolute())], project.path, log, COMPILE_SECONDS)


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """Compile a project, or take the program that is kept of the same sources, compiler and flags; run it in `run`."""
    digest = project.sources_digest(" ".join([process.need(GXX), process.version(GXX), *FLAGS]))
    program = kept(f"csim-{digest}", run, lambda path: compile_project(project, path, run / "compile.log"))
    return run_bench(program, run)


TOOLCHAIN = Toolchain(GXX, CPP, ("g++ 12.2.0",), simulate=simulate)

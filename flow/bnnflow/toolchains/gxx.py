"""C simulation by g++, with the flags of the project's own Tcl script."""

from __future__ import annotations

import os
from pathlib import Path

from bnnflow.backends.backend import CPP
from bnnflow.backends.project import INPUTS, RESULTS, Project
from bnnflow.files import kept
from bnnflow.toolchains import process
from bnnflow.toolchains.compiled import COMPILE_SECONDS, RUN_SECONDS, run_bench
from bnnflow.toolchains.process import GXX, Say
from bnnflow.toolchains.toolchain import Toolchain

__all__ = ["TOOLCHAIN", "compile_project"]

# The standard of hls4ml's Tcl; the others only speed up the run.
FLAGS = ("-std=c++0x", "-O2", "-march=native", "-w")
FEWEST = 8  # samples of a process: it starts in milliseconds


def compile_project(project: Project, program: Path, log: Path) -> None:
    """Compile a project with its own test bench and the ap_types that it brings along; objects lie beside `log`."""
    folder, sources = log.parent, (f"firmware/{project.top}.cpp", f"{project.top}_test.cpp")
    objects = [str((folder / f"{Path(source).stem}.o").absolute()) for source in sources]
    compiler, path = process.need(GXX), project.path.absolute()
    process.side_by_side([[compiler, *FLAGS, f"-I{path / 'firmware/ap_types'}", f"-I{path}", "-c", str(path / source),
                           "-o", made] for source, made in zip(sources, objects)], folder, COMPILE_SECONDS)
    process.call([compiler, *objects, "-o", str(program.absolute())], folder, log, COMPILE_SECONDS)


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """Compile a project, or take the program that is kept of the same sources, compiler, machine and flags; run it.

    All processors work, each on samples in a row.
    """
    compiler = [process.need(GXX), *FLAGS, process.machine(FLAGS, run)]
    digest = project.sources_digest(" ".join(compiler))
    program = kept(f"csim-{digest}", run, lambda path: compile_project(project, path, run / "compile.log"))
    samples = (run / INPUTS).read_bytes().count(b"\n")
    workers = max(1, min(os.cpu_count() or 1, samples // FEWEST))
    if workers == 1:
        return run_bench(program, run)
    firsts = [samples * k // workers for k in range(workers + 1)]
    results = [run / "tb_data" / f"{k}.log" for k in range(workers)]
    commands = [[str(program.absolute()), str(first), str(end - first), str(part.absolute())]
                for first, end, part in zip(firsts, firsts[1:], results)]
    codes = process.side_by_side(commands, run, RUN_SECONDS, ok=(0, 1))
    outputs = run / "tb_data" / RESULTS
    outputs.write_bytes(b"".join(part.read_bytes() for part in results if part.exists()))
    return outputs, any(codes)


TOOLCHAIN = Toolchain(GXX, CPP, ("g++ 12.2.0",), simulate=simulate)

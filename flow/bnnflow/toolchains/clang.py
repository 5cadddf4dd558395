"""What an HLS compiler does before it schedules, by clang: how much is left to schedule, without a vendor's tool.

The sources of a project get marks for their pragmas (`hls_pragmas`). clang makes LLVM's code of them, with headers of
ours in which `ap_int<N>` is a native integer of N bits (`native/`), and LLVM inlines and unrolls it as the marks ask
(`unroll`). That code is counted (`code_size`), and the same code runs as a simulation.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bnnflow.backends.backend import CPP
from bnnflow.backends.hls.code_size import too_much
from bnnflow.backends.project import Project
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts
from bnnflow.files import kept, remembered
from bnnflow.toolchains import process
from bnnflow.toolchains.code_size import CodeSize, code_sizes
from bnnflow.toolchains.compiled import COMPILE_SECONDS, run_bench
from bnnflow.toolchains.hls_pragmas import marked
from bnnflow.toolchains.process import GXX, Program, Say
from bnnflow.toolchains.toolchain import Toolchain
from bnnflow.toolchains.unroll import as_asked

__all__ = ["CLANG", "FIRMWARE", "TOOLCHAIN", "code_of", "design_sizes", "synthesize_project"]


def _start(path: str) -> list[str]:
    """The arguments that start clang, be it a program of its own or the one in zig, which then takes g++'s headers."""
    if Path(path).name != "zig":
        return [path]
    return [path, "clang", "--driver-mode=g++", f"--target={platform.machine()}-linux-gnu",
            "-resource-dir", str(Path(path).parent / "lib")]


CLANG = Program("clang", (*(f"clang++-{version}" for version in range(16, 23)), "clang++"), "BNNFLOW_CLANG",
                "size of C++ projects for an HLS compiler, before it schedules",
                "pip install 'bnnflow[clang]' (or clang 16 or later), or set BNNFLOW_CLANG",
                package="ziglang/zig", start=_start)
FIRMWARE = "firmware"  # hls4ml's folder of a design's sources
HEADERS = "native"
SOURCE = ("-std=c++17", "-w", "-fno-exceptions", "-DNDEBUG", "-include", "flow_marks.h")
NO_PASS = ("-O1", "-Xclang", "-disable-llvm-passes", "-D__SYNTHESIS__")
UNROLL = ("-w", "-O1", "-fno-vectorize", "-fno-slp-vectorize", "-mllvm", "-pragma-unroll-threshold=2000000000")
CODE = ("-S", "-emit-llvm", "-fno-discard-value-names")
MACHINE = ("-O1", "-fPIC", "-c")


@dataclass(frozen=True)
class _Compiler:
    """clang as it is found, the folder of our headers, and all that identifies both and the flags."""

    command: Sequence[str]
    headers: Path
    identity: str

    @classmethod
    @contextlib.contextmanager
    def found(cls) -> Iterator[_Compiler]:
        """That of this machine; raises ToolError where there is none."""
        command = process.command(CLANG)
        with as_file(files("bnnflow.toolchains") / HEADERS) as headers:
            texts = [file.read_text() for file in sorted(headers.glob("*.h"))]
            flags = (*SOURCE, *NO_PASS, *UNROLL, *MACHINE)
            yield cls(command, headers, " ".join([process.version(CLANG), *flags, *texts]))

    def __call__(self, folder: Path, result: str, *arguments: str) -> None:
        """Compile in a folder."""
        process.call([*self.command, *arguments, "-o", result], folder, folder / f"{result}.log", COMPILE_SECONDS)


def _asked(project: Project, folder: Path, clang: _Compiler, around: tuple[str, str] | None = None) -> str:
    """The code of a project's design before LLVM optimises it; also asked.ll in the folder.

    `around` is the name of another function, all one with the design that it calls, and C++ that includes both.
    """
    shutil.copytree(project.path / FIRMWARE, folder / FIRMWARE, ignore=shutil.ignore_patterns("ap_types", "*.txt"))
    for file in (folder / FIRMWARE).rglob("*"):
        if file.suffix in (".h", ".cpp"):
            file.write_text(marked(file.read_text(errors="replace")))
    top, source = project.top, f"{FIRMWARE}/{project.top}.cpp"
    if around:
        top, source = around[0], f"{around[0]}.cpp"
        (folder / source).write_text(around[1])
    clang(folder, "marked.ll", *SOURCE, *NO_PASS, *CODE, f"-I{clang.headers}", "-I.", source)
    asked = as_asked((folder / "marked.ll").read_text(), top, apart=not around)
    (folder / "asked.ll").write_text(asked)
    return asked


def code_of(project: Project, name: str, source: str) -> str:
    """LLVM's code of one function, unrolled as the pragmas ask, in C++ that includes a project's design and calls it.

    Raises ToolError where clang is missing or refuses the sources.
    """
    with tempfile.TemporaryDirectory(prefix="bnnflow-clang-") as folder, _Compiler.found() as clang:
        _asked(project, Path(folder), clang, (name, source))
        clang(Path(folder), "design.ll", *UNROLL, *CODE, "asked.ll")
        return (Path(folder) / "design.ll").read_text()


def simulate(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """Run the very code that is counted, as machine code, under the project's own test bench."""
    folder = run / "clang"
    folder.mkdir()
    with _Compiler.found() as clang:
        digest = project.sources_digest(clang.identity + _asked(project, folder, clang))
        program = kept(f"clang-{digest}", run, lambda path: _compile(project, path, folder, clang))
    return run_bench(program, run)


def _compile(project: Project, program: Path, folder: Path, clang: _Compiler) -> None:
    bench = f"{project.top}_test.cpp"
    shutil.copyfile(project.path / bench, folder / bench)
    clang(folder, "design.ll", *UNROLL, *CODE, "asked.ll")
    clang(folder, "design.o", "-w", *MACHINE, "design.ll")
    clang(folder, "bench.o", *SOURCE, *MACHINE, f"-I{clang.headers}", "-I.", bench)
    process.call([process.need(GXX), "design.o", "bench.o", "-o", str(program.absolute())], folder, folder / "link.log",
                 COMPILE_SECONDS)


def design_sizes(project: Project) -> tuple[CodeSize, ...]:
    """The size of each function that an HLS compiler is left with, the top function first.

    Raises ToolError where clang is missing or refuses the sources.
    """
    with tempfile.TemporaryDirectory(prefix="bnnflow-clang-") as name, _Compiler.found() as clang:
        folder = Path(name)
        asked = _asked(project, folder, clang)

        def run() -> dict[str, Any]:
            clang(folder, "design.ll", *UNROLL, *CODE, "asked.ll")
            sizes = code_sizes((folder / "design.ll").read_text(), project.top)
            return {"functions": [asdict(size) for size in sizes]}

        rows = remembered("clang", [project.top, clang.identity, asked], run)["functions"]
    return tuple(CodeSize(**{**row, "arrays": tuple(row["arrays"])}) for row in rows)


def synthesize_project(project: Project, say: Say | None = None) -> Facts:
    """How much of a C++ project is left to schedule, function by function, with a note on all that is too much."""
    sizes = design_sizes(project)
    version = re.search(r"version ([\d.]+)", process.version(CLANG))
    modules = tuple(_facts(size.name, [size], version[1] if version else "") for size in sizes)
    whole = _facts(project.top, sizes, modules[0].version)
    notes = tuple(_findings(project.top, sizes))
    return keep_facts(project, CLANG.name, "size", replace(whole, modules=modules, notes=notes))


def _facts(name: str, sizes: Sequence[CodeSize], version: str) -> Facts:
    return Facts(name, "HLS front end", CLANG.name, version, instructions=sum(size.instructions for size in sizes),
                 loops=sum(size.loops for size in sizes), divisions=sum(size.divisions for size in sizes),
                 variable_reads=sum(size.variable_reads for size in sizes))


def _findings(top: str, sizes: Sequence[CodeSize]) -> Iterator[str]:
    """What an HLS compiler will have trouble with."""
    total = sum(size.instructions for size in sizes)
    yield from too_much(total, [(size.name, size.instructions) for size in sizes])
    for size in sizes:
        if size.divisions:
            yield f"{size.name} divides {size.divisions:,} times: powers of two would be shifts"
        yield from (f"{size.name} has {count:,} multiplexers of all elements of {array}: it is divided into registers, "
                    "and read at an index that is known at run time only" for array, count in size.registers.items())


TOOLCHAIN = Toolchain(CLANG, CPP, ("clang 16.0.6 (ziglang 0.11.0)",), simulate=simulate, synthesize=synthesize_project,
                      helpers=(GXX,))

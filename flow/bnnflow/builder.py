"""Build and simulate: projects are written whole or not at all, and every output bit is compared."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.project import (
    GRAPH,
    INPUTS,
    RUNS,
    Project,
    read_vectors,
    thermometer_table,
    write_vectors,
)
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.estimates.baseline import estimate_baseline
from bnnflow.estimates.estimate import estimate as table_estimate
from bnnflow.estimates.kernels import synthesized_cost
from bnnflow.facts.facts import Facts, save_facts
from bnnflow.files import cache_folder, whole_file
from bnnflow.ir import Graph, Op
from bnnflow.ir.evaluate import check_codes
from bnnflow.ir.passes import split_encoder
from bnnflow.ir.store import save
from bnnflow.toolchains import process as tools
from bnnflow.toolchains import vitis as vendor
from bnnflow.toolchains.nextpnr import place
from bnnflow.toolchains.yosys import Size
from bnnflow.toolchains.yosys import synthesize as logic_synthesis

__all__ = ["SIMULATORS", "SYNTHESIZERS", "build", "estimate", "simulate", "synthesize", "trace_project"]

# The flags of hls4ml's Tcl; -O2 only speeds up the run.
GXX_FLAGS = ("-std=c++0x", "-O2", "-w")
# Delays in the test bench are coroutines of C++20.
VERILATOR_FLAGS = ("--cc", "--exe", "--main", "--timing", "-Wno-fatal", "-Wno-WIDTH", "-Wno-TIMESCALEMOD", "-O3")
VERILATED_FLAGS = ("-std=c++20", "-fcoroutines", "-w", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE=0", "-DVM_TIMING=1",
                   "-pthread")
ONCE, OFTEN = "-O0", "-O1"  # for code that runs once a simulation, and in every step
COMPILE_SECONDS, RUN_SECONDS = 1800.0, 3600.0
CACHED = 50  # compiled simulations that are kept


# --- build ----------------------------------------------------------------------------------------------------------


def build(graph: Graph, config: BuildConfig, vectors: Any = None) -> Project:
    """Write the HLS or Verilog project of `graph` to `config.output_dir`.

    It is made in a folder beside it and moved into place, so that an interrupted build leaves what was there; an
    existing project of ours is replaced, anything else is left alone. `vectors`: input codes (n, *shape) for the test
    bench (a list for several inputs), by default edge, tie and random ones; with the encoder outside they are still
    those of the graph, and the project gets the planes they make.

    Raises InputError for an unusable output folder, graph or vectors.
    """
    codes = None if vectors is None else check_codes(graph, vectors)
    if codes is not None and not len(codes[0]):
        raise InputError("vectors: no samples; give at least one, or none at all for the default vectors")
    front = None
    if config.encoder == "outside":
        front, graph = split_encoder(graph)
        if codes is not None:
            codes = check_codes(graph, front(codes))
    target = Path(config.output_dir).absolute()
    _check_target(target)
    work = _work_folder(target)
    try:
        inside = work / "new"
        arrays = config.target.write(graph, replace(config, output_dir=inside), codes, target)
        save(graph, inside / GRAPH)
        if front is not None:
            (inside / "thermometer.csv").write_text(thermometer_table(front))
        project = Project(inside, config.project_name, config.backend, graph.digest, {}, arrays)
        project.write_manifest(config, {name: importlib.metadata.version(name) for name in ("hls4ml", "numpy")})
        if target.exists():
            os.rename(target, work / "old")
        os.rename(inside, target)
    finally:
        _settle(work, target)
    return Project.open(target)


def _check_target(target: Path) -> None:
    try:
        _recover(target)
    except OSError as error:
        raise InputError(f"output_dir {str(target)[:200]}: {error.strerror}") from error
    if target.exists() and not target.is_dir():
        raise InputError(f"output_dir {target} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not Project.is_project(target):
        raise InputError(f"output_dir {target} exists and is not a bnnflow project; name another, or empty it")


def _prefix(target: Path) -> str:
    return f".{target.name}.build-"


def _work_folder(target: Path) -> Path:
    """A folder beside the target, on the same file system, named after this process."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{_prefix(target)}{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"output_dir {target}: cannot write in {target.parent}: {error.strerror}") from error


def _settle(work: Path, target: Path) -> None:
    """Bring back the project that was being replaced, or give its runs to the one that replaced it; remove `work`."""
    old = work / "old"
    if old.is_dir() and not target.exists():
        os.rename(old, target)
    elif (old / RUNS).is_dir() and not (target / RUNS).exists():
        os.rename(old / RUNS, target / RUNS)  # hours of work, found again where the sources are the same
    shutil.rmtree(work, ignore_errors=True)


def _recover(target: Path) -> None:
    """Tidy after builds that were killed: bring back a project that was being replaced, remove half-written ones."""
    if not target.parent.is_dir():
        return
    for left in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        owner = left.name.removeprefix(_prefix(target)).split("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            _settle(left, target)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- simulate -------------------------------------------------------------------------------------------------------


def simulate(folder: str | os.PathLike[str], codes: Any = None, tool: str | None = None, via: str = "",
             say: Callable[[str], None] | None = None) -> Any:
    """Run the project's own sources and test bench and compare every output with the stored graph.

    `codes`: input codes (n, *shape), by default the project's own vectors. `tool`: for C++ "gxx" (the default: g++ with
    the flags of the project's Tcl), "vitis" or "vivado", behind the prefix `via` ("ssh host"; the temporary folder must
    be the same there: set TMPDIR to a shared one), whose log `say` gets line by line; for Verilog "verilator", whose
    bench also compares the cycle in which each output appears. Returns the outputs, int64 (n, *shape). Lists where
    there are several.

    Raises Mismatch with the first differing sample and output, ToolError where the tool is missing or fails.
    """
    project = Project.open(folder)
    target = project.target
    tool = tool or target.simulator
    if tool not in SIMULATORS:
        raise InputError(f"tool {tool!r}: use one of {', '.join(SIMULATORS)}")
    if (target.language == "Verilog") != (tool == "verilator"):
        raise InputError(f"{project.path} is a {project.backend} project; tool {tool!r} cannot simulate it")
    graph = project.graph()
    if codes is None:
        codes = read_vectors(project.path / INPUTS, graph.inputs)
    codes = check_codes(graph, codes)
    if not len(codes[0]):
        raise InputError("no samples to simulate")
    with tempfile.TemporaryDirectory(prefix="bnnflow-sim-") as name:
        run = Path(name)
        expected = write_vectors(run, graph, codes)
        log, bench_failed = SIMULATORS[tool](project, run, via, say)
        got = read_vectors(log, [graph[name] for name in graph.outputs])
    what = target.simulation
    if len(got[0]) != len(codes[0]):
        raise ToolError(f"{tool}: the simulation gave {len(got[0])} samples of {len(codes[0])}; it stopped early: "
                        "run it again, and if it stays so build the project again")
    _record(project, tool, codes, expected, got)
    for name, ours, theirs in zip(graph.outputs, expected, got):
        wrong = theirs != ours
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Mismatch(
                f"{project.path}: {what} ({tool}) and graph differ: sample {at[0]}, node {name!r}, element "
                f"{at[1:]}: graph {ours[at]}, {what} {theirs[at]}; {int(wrong.sum())} of {wrong.size} outputs"
            )
    if bench_failed:
        raise Mismatch(f"{project.path}: the test bench reports errors although its outputs equal the graph's; "
                       "the bench was changed, build the project again")
    return got[0] if len(got) == 1 else got


def _record(project: Project, tool: str, codes: Sequence[Any], expected: Sequence[Any], got: Sequence[Any]) -> None:
    """Keep what was compared beside the project's runs, for its report; one that cannot be written to has none."""
    row = {
        # A vendor's tool takes seconds to say its version, and may be behind a prefix.
        "tool": tool, "version": "" if tool in SYNTHESIZERS else tools.version(tool),
        "samples": len(codes[0]), "outputs": sum(a.size for a in got),
        "differ": sum(int((a != b).sum()) for a, b in zip(expected, got)),
        "vectors": hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in codes)).hexdigest(),
    }
    with contextlib.suppress(OSError, InputError):
        project.runs.mkdir(parents=True, exist_ok=True)
        with whole_file(project.runs / f"sim-{tool}.json") as path:
            path.write_text(json.dumps(row) + "\n")


def trace_project(folder: str | os.PathLike[str], codes: Any) -> dict[str, NDArray[np.int64]]:
    """Codes of every node as the project's own C++ computes them: {node: int64 (n, *shape)}, by g++.

    A copy of the top function prints every array or stream; kernels, ROMs and calls are the project's own. Windows, and
    nodes inside a chain that one kernel of an io_stream project computes, have none.
    Raises as `simulate` does, but does not compare.
    """
    project = Project.open(folder)
    if project.target.language != "C++":
        raise InputError(f"{project.path} is a {project.backend} project; layers are compared in C++: use backend='Vitis'")
    graph = project.graph()
    codes = check_codes(graph, codes)
    with tempfile.TemporaryDirectory(prefix="bnnflow-trace-") as name:
        run = Path(name)
        copy = project.copied(run / "project")
        top = copy / f"firmware/{project.top}.cpp"
        text = top.read_text()
        made = [node for node in graph if node.op is not Op.INPUT and node.name in project.arrays]
        lines = text.splitlines()
        for node in made:
            array = project.arrays[node.name]
            # The first call that names an array is the one that makes it.
            call = re.compile(rf"\s*nnet::flow_.*\b{array}\b")
            at = next((k for k, line in enumerate(lines) if call.match(line)), None)
            if at is None:
                raise InputError(f"{top.name}: the array of node {node.name!r} is not in it; build the project again")
            lines.insert(at + 1, f'    flow_dump("{node.name}", {array}, {node.size});')
        top.write_text(DUMP + "\n".join(lines) + "\n")
        write_vectors(run, graph, codes)
        log = run / "trace.log"
        program = run / "trace"
        _compile(Project(copy, project.top, project.backend, project.graph_digest, {}), program, run / "compile.log")
        # Codes go to standard output, between the bench's own words.
        tools.call([str(program)], run, log, RUN_SECONDS, ok=(0, 1))
        rows = [line.split()[1:] for line in log.read_text().splitlines() if line.startswith("TRACE ")]
    found = {node.name: np.array([row[1:] for row in rows if row[0] == node.name], np.int64) for node in made}
    for node in made:
        if found[node.name].shape != (len(codes[0]), node.size):
            raise ToolError(f"the traced simulation gave {found[node.name].shape} codes of {node.name!r}; it stopped "
                            "early")
    given = dict(zip((node.name for node in graph.inputs), codes))
    return {**given, **{node.name: found[node.name].reshape(-1, *node.shape) for node in made}}


DUMP = """#include "nnet_utils/nnet_flow_stream.h"
#include <cstdio>
template <class T> static void flow_print(const T &value) {
    std::printf(" %lld", (long long)ap_int<64>(nnet::flow_code(value)).to_int64());
}
template <class T> static void flow_dump(const char *name, T *values, int size) {
    std::printf("TRACE %s", name);
    for (int i = 0; i < size; i++) {
        flow_print(values[i]);
    }
    std::puts("");
}
template <class T> static void flow_dump(const char *name, hls::stream<T> &stream, int size) {
    std::printf("TRACE %s", name);
    for (unsigned p = 0; p < size / T::size; p++) {
        T pixel = stream.read();
        for (unsigned c = 0; c < T::size; c++) {
            flow_print(pixel[c]);
        }
        stream.write(pixel);
    }
    std::puts("");
}
"""


def _compile(project: Project, program: Path, log: Path) -> None:
    """g++ with the flags of the project's Tcl, the bundled ap_types and the project's own test bench."""
    tools.call(
        [tools.need("gxx"), *GXX_FLAGS, "-Ifirmware/ap_types", "-I.", f"{project.top}_test.cpp",
         f"firmware/{project.top}.cpp", "-o", str(program.absolute())], project.path, log, COMPILE_SECONDS)


def _runs_here(tool: str, via: str) -> None:
    if via:
        raise InputError(f"via={via!r}: {tool} runs here; a prefix is for vitis and vivado")


def _gxx(project: Project, run: Path, via: str, say: Any) -> tuple[Path, bool]:
    """Compile (cached by the digest of all sources, compiler and flags), then run in `run`."""
    _runs_here("g++", via)
    compiler = tools.need("gxx")
    digest = project.sources_digest(" ".join([compiler, tools.version("gxx"), *GXX_FLAGS]))
    return _bench(_cached(f"csim-{digest}", run, lambda program: _compile(project, program, run / "compile.log")), run)


def _verilator(project: Project, run: Path, via: str, say: Any) -> tuple[Path, bool]:
    """Verilator's C++ of the Verilog and its test bench, compiled with its runtime (cached), then run in `run`."""
    _runs_here("verilator", via)
    verilator, compiler = tools.command("verilator"), tools.need("gxx")
    include = Path(verilator[0]).resolve().parent.parent / "include"
    made_with = " ".join([tools.version("verilator"), compiler, tools.version("gxx"), *VERILATOR_FLAGS,
                          *VERILATED_FLAGS, ONCE, OFTEN])
    digest, runtime_digest = project.sources_digest(made_with), hashlib.sha256(made_with.encode()).hexdigest()
    compiled = [compiler, *VERILATED_FLAGS, f"-I{include}", f"-I{include / 'vltstd'}", "-I."]

    def compile_runtime(merged: Path) -> None:
        parts = [str(include / f"verilated{part}.cpp") for part in ("", "_timing", "_threads")]
        tools.call([*compiled, OFTEN, "-r", "-nostdlib", *parts, "-o", str(merged.absolute())], run,
                   run / "compile.log", COMPILE_SECONDS)

    def compile_it(program: Path) -> None:
        model = run / "model"
        sources = [file.relative_to(project.path).as_posix() for part in ("tb", "rtl")
                   for file in sorted((project.path / part).glob("*.v"))]
        tools.call([*verilator, *VERILATOR_FLAGS, "--top-module", f"{project.top}_tb", "--prefix", "bench", "--Mdir",
                    str(model), *sources], project.path, run / "verilator.log", COMPILE_SECONDS,
                   environment={"VERILATOR_ROOT": str(include.parent)})
        files = sorted(model.glob("*.cpp"))
        tools.side_by_side([[*compiled, ONCE if "__Slow" in file.name else OFTEN, "-c", file.name] for file in files],
                           model, COMPILE_SECONDS)
        runtime = _cached(f"verilated-{runtime_digest}", run, compile_runtime)
        tools.call([compiler, "-pthread", *(f"{file.stem}.o" for file in files), str(runtime.absolute()), "-o",
                    str(program.absolute())], model, run / "compile.log", COMPILE_SECONDS)

    log, failed = _bench(_cached(f"verilator-{digest}", run, compile_it), run)
    return log, failed or ", errors 0" not in (run / "run.log").read_text()


def _cached(name: str, run: Path, compile_it: Callable[[Path], None]) -> Path:
    """The compiled simulation of that name, made now where it is not kept."""
    # Not in the project: a project from elsewhere must not bring the program that vouches for it.
    cache = cache_folder()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(cache, os.W_OK):  # no place to keep it: compile into the run folder
        cache = run
    program = cache / name
    try:
        os.utime(program)  # the newest now: what another process throws away meanwhile is older
    except FileNotFoundError:
        for old in sorted(cache.glob(f"{name.split('-')[0]}-*"), key=_last_used)[:-CACHED]:
            old.unlink(missing_ok=True)
        partial = cache / f".{name}.{os.getpid()}"  # hidden: not one of those thrown away
        compile_it(partial)
        os.replace(partial, program)
    return program


def _last_used(file: Path) -> float:
    """Seconds since the epoch; 0 where another process has thrown the file away meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _bench(program: Path, run: Path) -> tuple[Path, bool]:
    """Run a compiled test bench in `run`: (its outputs, True where it reports errors)."""
    code = tools.call([str(program.absolute())], run, run / "run.log", RUN_SECONDS, ok=(0, 1))
    log = run / "tb_data/csim_results.log"
    if code and not log.exists():
        raise ToolError(f"the test bench failed: {(run / 'run.log').read_text()[:500]}")
    return log, code != 0


SIMULATORS: dict[str, Callable[[Project, Path, str, vendor.Say | None], tuple[Path, bool]]] = {
    "gxx": _gxx, "verilator": _verilator, "vitis": vendor.simulator("vitis"), "vivado": vendor.simulator("vivado"),
}


# --- estimate and synthesize ----------------------------------------------------------------------------------------


def estimate(design: Graph | str | os.PathLike[str], config: BuildConfig | None = None, baseline: bool = False,
             synthesize: bool = False) -> Facts:
    """Facts of a graph with the options of a build, or of a project, which has its own.

    By the table of `bnnflow.estimates.costs`, netlists counted; with `synthesize` by yosys, kernel for kernel
    (`bnnflow.estimates.kernels`), kept with the project for its report; with `baseline` of stock hls4ml's kernels
    (`bnnflow.estimates.baseline`).

    Raises InputError for what a build would refuse, and for both `baseline` and `synthesize`; ToolError where yosys is
    missing or fails.
    """
    if baseline and synthesize:
        raise InputError("stock kernels are known from a table only; give baseline or synthesize")
    project, graph = (None, design) if isinstance(design, Graph) else _opened(design)
    if baseline:
        return estimate_baseline(graph)
    options = config or (project.config if project else BuildConfig())
    if options.encoder == "outside" and not (project and project.config.encoder == "outside"):
        graph = split_encoder(graph)[1]
    options.target.check(graph, options)
    cycles = project.cycles if project and config is None else 0
    facts = table_estimate(graph, options, synthesized_cost(graph, options) if synthesize else None, cycles)
    if synthesize and project and config is None:
        return _kept(project, "kernels", "synthesis", facts)
    return facts


def _opened(folder: str | os.PathLike[str]) -> tuple[Project, Graph]:
    project = Project.open(folder)
    return project, project.graph()


def _kept(project: Project, tool: str, what: str, facts: Facts) -> Facts:
    """Keep what a tool said of these very sources; hours of work are not lost on a project that cannot be written."""
    folder = project.runs / tool
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_facts([facts], folder / f"facts-{what}.json")
    except (OSError, InputError) as error:
        return replace(facts, notes=(*facts.notes, f"not kept for the report: {error}"))
    return facts


def synthesize(folder: str | os.PathLike[str], tool: str | None = None, **options: Any) -> Facts:
    """Facts of a project as a synthesis tool gives them; kept, so that the same again costs nothing.

    `tool`: for C++ "vitis" or "vivado" (by default that of its backend), with the options of
    `bnnflow.toolchains.vitis.synthesize`: `steps` ("csynth", "cosim", "export", "logic"), `via`, `hours`, `say`. For Verilog
    "yosys", with `family` ("xc7", "xcup", "ice40", "ecp5") and `layers` (True: every layer alone, too), or "nextpnr"
    (place and route on an ECP5) with `device` ("25k", "45k", "85k").

    Raises InputError for a tool that does not take such a project, ToolError where the tool is missing or fails,
    Mismatch where co-simulation differs.
    """
    project = Project.open(folder)
    tool = tool or project.target.synthesizer
    if tool not in SYNTHESIZERS:
        raise InputError(f"tool {tool!r}: use one of {', '.join(SYNTHESIZERS)}")
    if (tool in ("yosys", "nextpnr")) != (project.target.language == "Verilog"):
        need = "backend='Vitis' or 'Vivado'" if project.target.language == "Verilog" else "backend='Verilog'"
        raise InputError(f"{tool}: {project.path} is a {project.backend} project; build it with {need}")
    return SYNTHESIZERS[tool](project, **options)


def _yosys(project: Project, family: str = "xcup", layers: bool = False, say: Callable[[str], None] | None = None
           ) -> Facts:
    """Logic synthesis of a Verilog project by yosys."""
    files, timing = _rtl(project)
    modules = [file.removesuffix(".v") for file in files if file.startswith(f"{project.top}_layer_")]
    size = logic_synthesis(files, project.top, family, modules if layers else ())

    def facts(name: str, part: Size) -> Facts:
        return Facts(name, "logic synthesis", "yosys", part.tool, part.family, lut=part.raw, ff=part.ff,
                     lut_packed=part.packed, lut_sites=part.sites, carry=part.carry, muxf=part.muxf, depth=part.depth,
                     clock_estimated=part.delay, modules=tuple(facts(*inner) for inner in part.layers.items()))

    note = () if size.delay is None else (NOT_PLACED,)
    return _kept(project, "yosys", family, replace(facts(project.top, size), **timing, notes=note))


def _nextpnr(project: Project, device: str = "85k", say: Callable[[str], None] | None = None) -> Facts:
    """Place and route of a Verilog project on an ECP5."""
    files, timing = _rtl(project)
    placed = place(files, project.top, project.graph(), "clock_target" in timing,
                   timing.get("clock_target", project.options["clock_period"]), device)
    note = "with a register at every port, counted here; nothing is placed near pins"
    part = f"lfe5u-{device.removesuffix('k')}"
    facts = Facts(project.top, "routed", "nextpnr", placed.tool, part, lut=placed.lut, ff=placed.ff,
                  clock_estimated=placed.clock, available=placed.available, notes=(note,))
    return _kept(project, "nextpnr", device, replace(facts, **timing))


def _rtl(project: Project) -> tuple[dict[str, str], dict[str, Any]]:
    """(Verilog files by name, what is known of their timing) of a project."""
    files = {file.name: file.read_text() for file in sorted((project.path / "rtl").glob("*.v"))}
    cycles = project.cycles
    clock = {"clock_target": project.options["clock_period"]} if cycles else {}
    return files, {"latency": (cycles, cycles), "interval": (1, 1), **clock}


NOT_PLACED = ("the clock is that of the longest path with delays as Vivado has them before placement; routed nets are "
              "longer (docs/reports.md)")
SYNTHESIZERS: dict[str, Callable[..., Facts]] = {
    "yosys": _yosys, "nextpnr": _nextpnr,
    **{tool: partial(vendor.synthesize, tool=tool) for tool in ("vitis", "vivado")},
}

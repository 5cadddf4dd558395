"""Simulations of a project's own sources: every output bit is compared with the stored graph."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.backend import BACKENDS, CPP
from bnnflow.backends.project import INPUTS, Project, read_vectors, write_vectors
from bnnflow.errors import InputError, Mismatch, ToolError, choice
from bnnflow.facts.kept import SimulationRecord, keep_simulation
from bnnflow.ir import Graph
from bnnflow.ir.evaluate import check_codes, given_codes, parts, per_input
from bnnflow.ir.nodes import Int
from bnnflow.toolchains import process
from bnnflow.toolchains.compiled import run_bench
from bnnflow.toolchains.gxx import compile_project
from bnnflow.toolchains.process import Say
from bnnflow.toolchains.toolchain import Toolchain, chosen, simulators

__all__ = ["simulate", "trace_project", "tracing"]


def simulate(folder: str | os.PathLike[str], codes: Any = None, tool: str | None = None, via: str = "",
             say: Say | None = None) -> Any:
    """Run the project's own sources and test bench and compare every output with the stored graph.

    `codes`: input codes (n, *shape), or real values where they are floats, by default the project's own vectors; they
    may be memory-mapped files, and are simulated in parts that fit into memory. `tool`: for C++ "gxx" (the default: g++
    with the flags of the project's Tcl), "vitis" or "vivado", behind the prefix `via` ("ssh host"; the temporary folder
    must be the same there: set TMPDIR to a shared one), whose log `say` gets line by line; for Verilog "verilator",
    whose bench also compares the cycle in which each output appears. Returns the outputs, int64 (n, *shape). Lists
    where there are several.

    Raises Mismatch with the first differing sample and output, ToolError where the tool is missing or fails.
    """
    project = Project.open(folder)
    toolchain = chosen(project, tool or project.target.simulator, simulators())
    if via and not toolchain.vendor:
        vendors = choice(name for name, other in simulators().items() if other.vendor)
        raise InputError(f"via={via!r}: {toolchain.name} runs here; a prefix is for {vendors}")
    graph = project.graph()
    arrays = per_input(graph, read_vectors(project.path / INPUTS, graph.inputs) if codes is None else codes)
    if not len(arrays[0]):
        raise InputError("no samples to simulate")
    results = [np.empty((len(arrays[0]), *graph[name].shape), np.int64) for name in graph.outputs]
    record, digest = _no_record(toolchain), hashlib.sha256()
    # A vendor's tool takes minutes to start.
    whole = {node.name: array for node, array in zip(graph.inputs, arrays)}
    for first, part in [(0, whole)] if toolchain.vendor else parts(graph, arrays):
        checked = given_codes(graph, part, first)
        expected, got, bench_failed = _run(project, toolchain, graph, checked, via, say)
        for array in checked:
            digest.update(np.ascontiguousarray(array).data)
        record = _with_part(record, digest.hexdigest(), expected, got)
        keep_simulation(project, record)
        _compare(project, toolchain, graph, expected, got, first)
        if bench_failed:
            raise Mismatch(f"{project.path}: the test bench reports errors although its outputs equal the graph's; "
                           "the bench was changed, build the project again")
        for result, value in zip(results, got):
            result[first : first + len(value)] = value
    return results[0] if len(results) == 1 else results


def _run(project: Project, toolchain: Toolchain, graph: Graph, codes: Sequence[Int], via: str, say: Say | None
         ) -> tuple[list[Int], list[Int], bool]:
    """(Outputs of the graph, outputs of the simulation, True where the test bench reports errors)."""
    assert toolchain.simulate is not None
    with tempfile.TemporaryDirectory(prefix="bnnflow-sim-") as name:
        run = Path(name)
        expected = write_vectors(run, graph, codes)
        outputs, bench_failed = toolchain.simulate(project, run, via, say)
        got = read_vectors(outputs, [graph[name] for name in graph.outputs])
    if len(got[0]) != len(codes[0]):
        raise ToolError(f"{toolchain.name}: the simulation gave {len(got[0])} samples of {len(codes[0])}; it stopped "
                        "early: run it again, and if it stays so build the project again")
    return expected, got, bench_failed


def _no_record(toolchain: Toolchain) -> SimulationRecord:
    """What was compared, for the project's report, before anything was."""
    version = "" if toolchain.vendor else process.version(toolchain.program)
    return SimulationRecord(tool=toolchain.name, version=version, samples=0, outputs=0, differ=0, vectors="")


def _with_part(record: SimulationRecord, vectors: str, expected: Sequence[Int], got: Sequence[Int]) -> SimulationRecord:
    """A record with the outputs of some more samples; `vectors` is the digest of all until then."""
    return replace(record, samples=record.samples + len(got[0]), vectors=vectors,
                   outputs=record.outputs + sum(array.size for array in got),
                   differ=record.differ + sum(int((ours != theirs).sum()) for ours, theirs in zip(expected, got)))


def _compare(project: Project, toolchain: Toolchain, graph: Graph, expected: Sequence[Int], got: Sequence[Int],
             first: int) -> None:
    """Raises Mismatch for the first output that differs; `first` is the number of the first sample."""
    what = project.target.simulation
    for name, ours, theirs in zip(graph.outputs, expected, got):
        wrong = theirs != ours
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Mismatch(
                f"{project.path}: {what} ({toolchain.name}) and graph differ: sample {at[0] + first}, node {name!r}, "
                f"element {at[1:]}: graph {ours[at]}, {what} {theirs[at]}; {int(wrong.sum())} of {wrong.size} outputs"
            )


def trace_project(folder: str | os.PathLike[str], codes: Any) -> dict[str, NDArray[np.int64]]:
    """Codes of every node as the project's own C++ computes them: {node: int64 (n, *shape)}, by g++; see `tracing`."""
    with tracing(folder) as traced:
        return traced(codes)


@contextmanager
def tracing(folder: str | os.PathLike[str]) -> Iterator[Callable[[Any], dict[str, NDArray[np.int64]]]]:
    """What gives the codes of every node as a project's own C++ computes them, compiled once: codes (n, *shape) ->
    {node: int64 (n, *shape)}.

    The backend says which lines print every array or stream, and in a copy of the project these are put into its own
    top function. Windows, and nodes that a kernel of an io_stream project computes on the way to another, have no array
    and are left out.

    Raises as `simulate` does, but does not compare; InputError where the top function is another one.
    """
    project = Project.open(folder)
    graph = project.graph()
    with tempfile.TemporaryDirectory(prefix="bnnflow-trace-") as name:
        run = Path(name)
        nodes, copy = _traced_copy(project, graph, run)
        compile_project(copy, run / "program", run / "compile.log")
        yield lambda codes: _traced(graph, nodes, run, check_codes(graph, codes))


def _traced(graph: Graph, nodes: Sequence[str], run: Path, codes: Sequence[Int]) -> dict[str, NDArray[np.int64]]:
    """The codes of all nodes for input codes, by the program in `run`, which prints those of `nodes`."""
    write_vectors(run, graph, codes)
    outputs, _ = run_bench(run / "program", run)
    got = read_vectors(outputs, [graph[name] for name in graph.outputs])
    # Codes go to standard output, between the bench's own words.
    rows: dict[str, list[Int]] = {node: [] for node in nodes}
    with (run / "run.log").open() as log:
        for line in log:
            mark, _, rest = line.partition(" ")
            node, _, numbers = rest.partition(" ")
            if mark == "TRACE" and node in rows:
                rows[node].append(np.fromstring(numbers, np.int64, sep=" "))
    found = {node: _codes_of(graph, node, of_node, len(codes[0])) for node, of_node in rows.items()}
    given = dict(zip((node.name for node in graph.inputs), codes))
    # Of an output what leaves the project counts, not what its array held on the way.
    return {**given, **found, **dict(zip(graph.outputs, got))}


def _traced_copy(project: Project, graph: Graph, run: Path) -> tuple[Sequence[str], Project]:
    """(The nodes that are printed, a copy of the project in the folder `run` that prints them)."""
    if project.target.traced is None:
        backends = choice(backend.name for backend in BACKENDS.values() if backend.traced)
        raise InputError(f"{project.path} is a {project.backend} project; layers are compared in {CPP}: use "
                         f"backend {backends}")
    top = project.target.traced(graph, project.config, run / "again")
    copy = project.copied(run / "project")
    own = copy / top.file
    printing = top.printing(own.read_text(errors="replace")) if own.is_file() else None
    if printing is None:
        raise InputError(f"{project.path / top.file} is not the top function of the project's graph; build the project "
                         "again")
    own.write_text(printing)
    return tuple(top.prints), replace(project, path=copy)


def _codes_of(graph: Graph, node: str, rows: Sequence[Int], samples: int) -> Int:
    """The codes of a node (samples, *shape) of one row a sample."""
    if [row.size for row in rows] != samples * [graph[node].size]:
        raise ToolError(f"the traced simulation gave {len(rows)} of {samples} samples of {node!r}, or parts of them; "
                        "it stopped early")
    return np.reshape(rows, (samples, *graph[node].shape))

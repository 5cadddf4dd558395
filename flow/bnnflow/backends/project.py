"""What is written and where: build options, and a written project."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.ir import Graph, Index, Node, Steps
from bnnflow.ir.nodes import is_clean
from bnnflow.ir.store import load
from bnnflow.tables import html_table

__all__ = ["MANIFEST", "BuildConfig", "Project", "read_vectors", "write_vectors"]

# What the top function cannot be called: keywords of C++ and Verilog.
KEYWORDS = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const constexpr
    const_cast continue decltype default delete do double dynamic_cast else enum explicit export extern false
    float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq
    private protected public register reinterpret_cast return short signed sizeof static static_assert
    static_cast struct switch template this thread_local throw true try typedef typeid typename union unsigned
    using virtual void volatile wchar_t while xor xor_eq always assign begin buf bufif0 bufif1 casex casez cell
    cmos config deassign defparam design disable edge end endcase endconfig endfunction endgenerate endmodule
    endprimitive endspecify endtable endtask event force forever fork function generate genvar highz0 highz1
    ifnone incdir include initial inout input instance integer join large liblist library localparam macromodule
    medium module nand negedge nmos nor noshowcancelled notif0 notif1 output parameter pmos posedge primitive
    pull0 pull1 pulldown pullup rcmos real realtime reg release repeat rnmos rpmos rtran rtranif0 rtranif1
    scalared showcancelled small specify specparam strong0 strong1 supply0 supply1 table task time tran tranif0
    tranif1 tri tri0 tri1 triand trior trireg use vectored wait wand weak0 weak1 wire wor xnor main std nnet hls
    ap_int ap_uint ap_fixed ap_ufixed parameters defines assert errno stdin stdout stderr samples errors""".split()
)
MANIFEST = "flow.json"
GRAPH = "flow.npz"
RUNS = "runs"  # of the vendors' tools; what they leave behind
INPUTS, EXPECTED = "tb_data/flow_inputs.dat", "tb_data/flow_expected.dat"
RESULTS = "csim_results.log"  # the test bench's outputs
FORMAT = 1


def _is_top(name: object) -> bool:
    return (isinstance(name, str) and is_clean(name) and name.lower() not in KEYWORDS
            and not re.fullmatch(r"(layer|config)\d.*|flow_.*|.*_(in|t)|[A-Z_0-9]+", name))


REUSE = "a whole number of cycles, at least 1"
STRATEGIES = ("Latency", "Resource", "distributed_arithmetic")
STRATEGY = "use 'Latency', 'Resource' or 'distributed_arithmetic'"


def _is_reuse(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= int(value) <= 2**20


def _is_strategy(value: object) -> bool:
    return isinstance(value, str) and value.lower() in map(str.lower, STRATEGIES)


@dataclass(frozen=True)
class BuildConfig:
    """Options of a build, in hls4ml's names and units: `clock_period` in ns.

    `strategy` "Latency" unrolls every node; with a `reuse_factor` above 1 a new input is taken every so many cycles.
    "Resource" makes loops: every node computes its outputs in `reuse_factor` passes, which must divide the outputs of
    every sum. `layers` overrides both for nodes of the graph: {node: {"reuse_factor": 4, "strategy": "Resource"}}.
    One Resource node makes the top function DATAFLOW, else it is one pipeline. "distributed_arithmetic" unrolls a sum
    and what follows it, up to its codes, into one netlist of small functions and additions, that of backend "Verilog"
    (docs/logic.md); its `reuse_factor` is 1, and a node of its own is one whose strategy `layers` says is another. In
    io_stream every kernel takes a pixel each `reuse_factor` cycles, whatever the strategy.

    `encoder`: "inside" builds the thermometer's comparators, "outside" takes its planes as the project's input (the
    levels belong in the ADC) and writes them to `thermometer.csv`.

    `backend` "Verilog" writes RTL instead of C++, every node unrolled: `pipelined` with a new input every cycle and
    registers for the `clock_period`, or combinational. `io_type`, `strategy`, `reuse_factor`, `layers` do not apply.

    Raises InputError for a value that hls4ml or the vendor tools would misread.
    """

    output_dir: str | os.PathLike[str] = "prj"
    backend: str = "Vitis"
    io_type: str = "io_parallel"
    part: str = "xcvu13p-flga2577-2-e"
    clock_period: float = 5.0
    reuse_factor: int = 1
    strategy: str = "Latency"
    project_name: str = "myproject"
    encoder: str = "inside"
    pipelined: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def need(condition: bool, name: str, remedy: str) -> None:
            if not condition:
                raise InputError(f"{name}={getattr(self, name)!r}: {remedy}")

        need(str(self.backend) in ("Vitis", "Vivado", "Verilog"), "backend", "use 'Vitis', 'Vivado' or 'Verilog'")
        need(isinstance(self.pipelined, bool), "pipelined", "use True or False")
        need(self.io_type in ("io_parallel", "io_stream"), "io_type", "use 'io_parallel' or 'io_stream'")
        need(isinstance(self.output_dir, (str, os.PathLike)), "output_dir", "use a path")
        need(isinstance(self.part, str) and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{2,63}", self.part)), "part",
             "letters, digits and dashes only, as in xcvu9p-flga2104-2-e")
        kinds = (int, float, np.integer, np.floating)
        number = isinstance(self.clock_period, kinds) and not isinstance(self.clock_period, bool)
        need(number and 0.1 <= self.clock_period <= 1000, "clock_period", "a number of ns from 0.1 to 1000")
        need(_is_reuse(self.reuse_factor), "reuse_factor", REUSE)
        need(_is_strategy(self.strategy), "strategy", STRATEGY)
        known = {"reuse_factor": (_is_reuse, REUSE), "strategy": (_is_strategy, STRATEGY)}
        need(isinstance(self.layers, Mapping), "layers", 'use {node: {"reuse_factor": ..., "strategy": ...}}')
        for name, options in self.layers.items():
            need(isinstance(options, Mapping), "layers", f'{name!r} needs {{"reuse_factor": ..., "strategy": ...}}')
            for key, value in options.items():
                if key not in known:
                    raise InputError(f"layers[{name!r}]: no option {key!r}; use reuse_factor or strategy")
                if not known[key][0](value):
                    raise InputError(f"layers[{name!r}]: {key}={value!r}: {known[key][1]}")
        need(self.encoder in ("inside", "outside"), "encoder", "use 'inside' or 'outside'")
        need(_is_top(self.project_name), "project_name",
             "must be a C++ name: a letter, then letters, digits or _, not a keyword")
        if self.backend == "Verilog":
            only: dict[str, Any] = {"io_type": "io_parallel", "strategy": "Latency", "reuse_factor": 1, "layers": {}}
            for name, value in only.items():
                need(getattr(self, name) == value, name, f"Verilog is fully unrolled; leave it at {value!r}")
        else:
            need(self.pipelined, "pipelined", "only backend='Verilog' can be combinational")

        object.__setattr__(self, "reuse_factor", int(self.reuse_factor))  # NumPy's numbers do not go into YAML
        object.__setattr__(self, "clock_period", float(self.clock_period))

    def strategy_of(self, node: str) -> str:
        """"latency", "resource" or "distributed_arithmetic"."""
        return str(self.layers.get(node, {}).get("strategy", self.strategy)).lower()

    def reuse_of(self, node: str) -> int:
        """The reuse factor of a node."""
        return int(self.layers.get(node, {}).get("reuse_factor", self.reuse_factor))


@dataclass(frozen=True)
class Project:
    """A written project: its folder and what its manifest says."""

    path: Path
    top: str
    backend: str
    graph_digest: str
    options: dict[str, Any]
    arrays: dict[str, str] = field(default_factory=dict)  # C array of each node in the top function

    def __fspath__(self) -> str:
        """Its folder: every verb that takes one takes a project."""
        return str(self.path)

    def _repr_html_(self) -> str:
        rows = [*self.options.items(), ("graph", self.graph_digest)]
        return html_table(f"Project {self.path}", ("option", "value"), rows)

    @staticmethod
    def is_project(path: Path) -> bool:
        """True for a folder that holds a manifest of ours."""
        return (path / MANIFEST).is_file()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Project:
        """Read the manifest of a project; raises InputError where there is none or it is damaged."""
        folder = Path(path)
        if not cls.is_project(folder):
            raise InputError(f"{folder} is not a bnnflow project (no {MANIFEST}); make one with `bnnflow build`")
        try:
            data = json.loads((folder / MANIFEST).read_text())
            if data["bnnflow_project"] != FORMAT:
                raise InputError(f"{folder}: project format {data['bnnflow_project']!r}, not {FORMAT}; build again")
            project = cls(folder, data["top"], data["backend"], data["graph_digest"], data["options"],
                          {str(k): str(v) for k, v in data["arrays"].items()})
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{folder / MANIFEST} is damaged: {error}; build the project again") from error
        for name in (project.top, *project.arrays.values()):
            if not is_clean(name) or (name == project.top and not _is_top(name)):
                raise InputError(f"{folder / MANIFEST}: {name!r} is not a name")
        return project

    @property
    def cycles(self) -> int:
        """The latency that the Verilog of a project states; 0 where it is combinational, or C++.

        Raises InputError where it does not.
        """
        if self.backend != "Verilog":
            return 0
        top = self.path / "rtl" / f"{self.top}.v"
        text = top.read_text(errors="replace") if top.exists() else ""
        found = re.search(r"^// Latency: (\d+) cycles", text, re.MULTILINE)
        if not found:
            raise InputError(f"{top} does not state its latency; build the project again")
        return int(found[1])

    def graph(self) -> Graph:
        """The graph this project was made from; raises InputError where it is not the one of the manifest."""
        graph = load(self.path / GRAPH)
        if graph.digest != self.graph_digest:
            raise InputError(f"{self.path}: {GRAPH} is not the graph this project was built from; build it again")
        return graph

    @property
    def config(self) -> BuildConfig:
        """The options this project was built with; raises InputError where the manifest has others."""
        try:
            return BuildConfig(output_dir=self.path, **self.options)
        except (TypeError, InputError) as error:
            raise InputError(f"{self.path / MANIFEST} is damaged: {error}; build the project again") from error

    def write_manifest(self, config: BuildConfig, versions: dict[str, str]) -> None:
        """Write flow.json."""
        options = {k: v for k, v in asdict(config).items() if k != "output_dir"}
        data = {"bnnflow_project": FORMAT, "top": self.top, "backend": self.backend, "graph_digest": self.graph_digest,
                "options": options, "arrays": self.arrays, "versions": versions}
        (self.path / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")

    def copied(self, folder: Path) -> Path:
        """A copy in `folder` that can be written to, without what runs have left."""
        shutil.copytree(self.path, folder, ignore=shutil.ignore_patterns(f"{self.top}_prj", RUNS, RESULTS))
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        return folder

    def sources_digest(self, extra: str) -> str:
        """SHA-256 (hex) of every source that a simulation compiles, and of `extra` (compiler and flags)."""
        h = hashlib.sha256(extra.encode())
        inner = (file for part in ("firmware", "rtl", "tb") for file in (self.path / part).rglob("*"))
        for file in sorted([*self.path.glob("*"), *inner]):
            if file.suffix in (".h", ".cpp", ".v") and file.is_file():
                h.update(f"\0{file.relative_to(self.path).as_posix()}\0".encode())
                h.update(file.read_bytes())
        return h.hexdigest()

    @property
    def runs(self) -> Path:
        """The folder of the runs on these very sources and scripts, one folder a tool, its facts in facts-*.json."""
        scripts = [self.path / name for name in ("project.tcl", "build_prj.tcl")]
        text = "".join(script.read_text() for script in scripts if script.exists())
        return self.path / RUNS / self.sources_digest(text)[:16]


def thermometer_table(front: Graph) -> str:
    """The levels of an encoder that is built elsewhere, as CSV: plane, the input element it compares, from which code
    and real value on it is high (falling: low).
    """
    lines = ["node,plane,input,element,code,value,direction"]
    for name in front.outputs:
        node = front[name]
        steps, source = node.params, front[node.inputs[0]]
        assert isinstance(steps, Steps)
        for plane in range(node.size):
            owner, element = source, plane
            while isinstance(owner.params, Index):
                element, below = int(owner.params.flat[element]), [front[n] for n in owner.inputs]
                for owner in below:
                    if element < owner.size:
                        break
                    element -= owner.size
            channel = plane % len(steps.start)
            for threshold in steps.thresholds[channel]:
                real = float(owner.domain.scale * int(threshold) + owner.domain.offset)
                direction = "rising" if steps.sign[channel] > 0 else "falling"
                lines.append(f"{name},{plane},{owner.name},{element},{threshold},{real!r},{direction}")
    return "\n".join(lines) + "\n"


def write_vectors(folder: Path, graph: Graph, codes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Write input codes (one array an input) and the graph's outputs for the test bench; returns those outputs."""
    expected = graph(list(codes))
    expected = expected if isinstance(expected, list) else [expected]
    (folder / "tb_data").mkdir(exist_ok=True)
    for name, arrays in ((INPUTS, codes), (EXPECTED, expected)):
        np.savetxt(folder / name, np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1), fmt="%d")
    return expected


def read_vectors(file: Path, nodes: Sequence[Node]) -> list[NDArray[np.int64]]:
    """Integer codes (n, *shape) of each of `nodes` from a file of the test bench.

    Raises InputError where it is missing or damaged.
    """
    try:
        rows = np.loadtxt(file, dtype=np.int64, ndmin=2)
        rows = rows.reshape(-1, sum(node.size for node in nodes))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: missing or damaged vectors: {error}") from error
    parts = np.split(rows, np.cumsum([node.size for node in nodes])[:-1], axis=1)
    return [part.reshape(-1, *node.shape) for part, node in zip(parts, nodes)]

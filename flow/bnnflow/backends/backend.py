"""What a backend is, the table of backends, and the options of a build."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bnnflow.backends.netlist.goals import AREA, GOALS, Goal, goal_of
from bnnflow.devices.fabric import Fabric
from bnnflow.devices.parts import UNKNOWN, part_of
from bnnflow.errors import InputError, as_given, as_text, choice, in_words_of
from bnnflow.ir import Graph, Node
from bnnflow.ir.nodes import Int, is_clean

__all__ = ["AUTO", "BACKENDS", "CPP", "LAST", "RTL", "STRATEGIES", "Backend", "BuildConfig", "Kernels", "TracedTop",
           "is_top", "option_of", "register", "unknown_nodes"]

# The languages of projects: a toolchain takes those of its own (`bnnflow.toolchains`).
CPP, RTL = "C++", "Verilog"
AUTO = "auto"  # a clock period that is to be found

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


# Of every kernel the nodes that it computes, each reading the one before, and the names of the tensors that it reads.
Kernels = list[tuple[tuple[Node, ...], list[str]]]


def _nothing() -> None:
    """What is to be done for a backend that needs nothing but the core."""


def _no_latency(folder: Path, top: str) -> int:
    """The latency of sources that do not state one."""
    return 0


@dataclass(frozen=True)
class TracedTop:
    """The source file of a project's top function, and the lines with which it prints the codes of its arrays.

    `file` is its path in the project, `text` what this version writes there. `prints` has for every node that is
    printed the number of the line of `text`, from 0, behind which its codes are known, and the line that prints them:
    for each sample "TRACE", the node's name and its codes, all between blanks. `helpers` are what these lines call.
    """

    file: str
    text: str
    prints: Mapping[str, tuple[int, str]]
    helpers: str = ""

    def printing(self, own: str) -> str | None:
        """`own`, the file as it is in a project, with the lines that print.

        Another version, or somebody's hand, may have written it with other words: lines correspond as in a comparison
        of both texts. None where a line that is to be followed by one that prints has none that corresponds to it.
        """
        text, lines = self.text.splitlines(), own.splitlines()
        place: dict[int, int] = {}
        for kind, first, end, own_first, own_end in SequenceMatcher(None, text, lines, autojunk=False).get_opcodes():
            if kind == "equal" or end - first == own_end - own_first:
                place |= dict(zip(range(first, end), range(own_first, own_end)))
        if not all(at in place for at, _ in self.prints.values()):
            return None
        behind = {place[at]: line for at, line in self.prints.values()}
        rows = [row for k, line in enumerate(lines) for row in (line, behind.get(k)) if row is not None]
        return "\n".join([self.helpers, *rows, ""])


@dataclass(frozen=True)
class Backend:
    """A way to write a graph as a project: all that options, verbs, toolchains and estimates know of it.

    `language` is what its projects are written in: toolchains of that language take them. `simulation` is what running
    one is called in messages. `simulator` and `synthesizer` name the toolchains that are used where none is asked for.
    `sources` are patterns (of `Path.glob`) of all files of a project that a toolchain compiles.

    `check` raises InputError, with all problems at once, for a graph that the backend cannot write. `write` raises it
    too, or makes the folder `config.output_dir`, which will be moved to the given one, and writes the sources there,
    with input codes for the test bench, or default ones for None; it returns the name, in the top function, of the
    array of every node that has one. `kernels` says which nodes are computed together.

    `ready` raises ToolError where a package is missing that `write` needs. `packages` are the distributions that have a
    hand in what is written.

    `one_netlist`: the whole design is one netlist of LUTs and is counted as such, not kernels with costs of their own.
    `fixed` has the options of a build, or of its layers, that do not apply: {option: (the value it must have, why)}.
    `fastest` finds the clock period in ns with which a result comes the soonest; None where there is no such choice.
    `cycles` reads the latency, in cycles, that the sources in a folder state for a top module; 0 where they state none.
    `traced` writes the top function once more, in a folder that it may fill, and says how it prints what is in its
    arrays; None where there are none to print. Only C++ is compiled for it.

    Raises InputError for a `traced` of another language.
    """

    name: str
    language: str
    simulation: str
    simulator: str
    synthesizer: str
    check: Callable[[Graph, BuildConfig], None]
    write: Callable[[Graph, BuildConfig, Sequence[Int] | None, Path], dict[str, str]]
    kernels: Callable[[Graph, BuildConfig], Kernels]
    sources: tuple[str, ...]
    one_netlist: bool = False
    fixed: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    fastest: Callable[[Graph, BuildConfig], float] | None = None
    cycles: Callable[[Path, str], int] = _no_latency
    traced: Callable[[Graph, BuildConfig, Path], TracedTop] | None = None
    ready: Callable[[], None] = _nothing
    packages: tuple[str, ...] = ("numpy",)

    def __post_init__(self) -> None:
        if self.traced and self.language != CPP:
            raise InputError(f"backend {self.name!r}: only {CPP} is compiled for a trace; leave out traced")


BACKENDS: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Add a backend to the table; raises InputError where another one has its name."""
    if BACKENDS.setdefault(backend.name, backend) is not backend:
        raise InputError(f"a backend {backend.name!r} is registered already")
    return backend


def is_top(name: object) -> bool:
    """True for a name that the top function or module of a project can have in C++ and Verilog."""
    return (isinstance(name, str) and is_clean(name) and name.lower() not in KEYWORDS
            and not re.fullmatch(r"(layer|config)\d.*|flow_.*|.*_(in|t)|[A-Z_0-9]+", name))


LAST = 2**20  # cycles that a reuse factor can ask for
REUSE = f"a whole number of cycles, from 1 to {LAST}"
STRATEGIES = ("Latency", "Resource", "distributed_arithmetic")
STRATEGY = f"use {choice(STRATEGIES)}"


def _is_reuse(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= int(value) <= LAST


def _is_strategy(value: object) -> bool:
    return isinstance(value, str) and value.lower() in map(str.lower, STRATEGIES)


NETLIST = f"use {choice(GOALS)}, or a number of ns from 0.1 to 1000"
LANES = f"a whole number, from 1 to {LAST}"
# Of every option of a node: whether a value can be right, and what it must be.
LAYER_OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {
    "reuse_factor": (_is_reuse, REUSE), "strategy": (_is_strategy, STRATEGY), "pe": (_is_reuse, LANES),
    "simd": (_is_reuse, LANES), "netlist": (lambda value: goal_of(value) is not None, NETLIST),
}


@dataclass(frozen=True)
class BuildConfig:
    """Options of a build, in hls4ml's names and units: `clock_period` in ns.

    `clock_period` "auto", for backend "Verilog", is that of at most 5 ns with the fewest ns from input to output; what
    is built has the number that was found.

    `strategy` "Latency" unrolls every node; with a `reuse_factor` above 1 a new input is taken every so many cycles.
    "Resource" makes loops of sums and maxima, with what follows them element by element: the smallest hardware that
    computes one in at most `reuse_factor` cycles. In io_stream it does so for every position, whatever the strategy.
    `layers` overrides both for nodes of the graph: {node: {"reuse_factor": 4, "strategy": "Resource"}}; "pe" and "simd"
    say instead how many outputs and taps of a node are computed in a cycle (FINN's words; they must divide): where a
    node has both, the `reuse_factor` of the build says nothing of it.
    One Resource node makes the top function DATAFLOW, else it is one pipeline. "distributed_arithmetic" unrolls a sum
    and what follows it, up to the codes, into one netlist of small functions and additions, the same that backend
    "Verilog" makes (docs/logic.md); its `reuse_factor` is 1, and a node to which `layers` gives another strategy stays
    out of such netlists.

    `encoder`: "inside" builds the thermometer's comparators, "outside" takes its planes as the project's input (the
    levels belong in the ADC) and writes them to `thermometer.csv`.

    `backend` "Verilog" writes RTL instead of C++, every node unrolled: `pipelined` with a new input every cycle and
    registers for the `clock_period`, or combinational. `io_type`, `strategy`, `reuse_factor` do not apply.

    `netlist` is what netlists (backend "Verilog", strategy "distributed_arithmetic") are to be best at: "area", the
    fewest LUTs; "balanced", the least product of LUTs and ns; "delay", the fewest ns; or a number of ns, the fewest
    LUTs of which the logic of no sum, up to its codes, takes longer. ns are those of UltraScale+ before placement
    (`bnnflow.devices.timing`). `layers` overrides it for sums: {"dense1": {"netlist": "delay"}}.

    Raises InputError for a value that hls4ml or the vendor tools would misread.
    """

    output_dir: str | os.PathLike[str] = "prj"
    backend: str = "Vitis"
    io_type: str = "io_parallel"
    part: str = "xcvu13p-flga2577-2-e"
    clock_period: float | Literal["auto"] = 5.0
    reuse_factor: int = 1
    strategy: str = "Latency"
    project_name: str = "myproject"
    encoder: str = "inside"
    pipelined: bool = True
    netlist: Goal = AREA
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def need(condition: bool, name: str, remedy: str) -> None:
            if not condition:
                raise InputError(f"{as_given(**{name: getattr(self, name)}) or name}: {remedy}")

        need(str(self.backend) in BACKENDS, "backend", f"use {choice(BACKENDS)}")
        need(isinstance(self.pipelined, bool), "pipelined", "use True or False")
        need(self.io_type in ("io_parallel", "io_stream"), "io_type", "use io_parallel or io_stream")
        need(isinstance(self.output_dir, (str, os.PathLike)), "output_dir", "use a path")
        need(isinstance(self.part, str) and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{2,63}", self.part)), "part",
             "letters, digits and dashes only, as in xcvu9p-flga2104-2-e")
        clock: Any = self.clock_period
        finders = [name for name, backend in BACKENDS.items() if backend.fastest is not None]
        if isinstance(clock, str) and clock == AUTO:
            need(self.target.fastest is not None and self.pipelined, "clock_period",
                 f"only a pipelined project of backend {choice(finders)} has a clock to find; give a number of ns")
        else:
            kinds = (int, float, np.integer, np.floating)
            number = isinstance(clock, kinds) and not isinstance(clock, bool)
            need(number and 0.1 <= clock <= 1000, "clock_period",
                 "a number of ns from 0.1 to 1000" + (f', or "{AUTO}"' if self.target.fastest else ""))
            object.__setattr__(self, "clock_period", float(clock))
        need(_is_reuse(self.reuse_factor), "reuse_factor", REUSE)
        need(_is_strategy(self.strategy), "strategy", STRATEGY)
        need(goal_of(self.netlist) is not None, "netlist", NETLIST)
        need(isinstance(self.layers, Mapping), "layers", 'use {node: {"reuse_factor": ..., "strategy": ...}}')
        for name, options in self.layers.items():
            need(isinstance(options, Mapping), "layers", f'{name!r} needs {{"reuse_factor": ..., "strategy": ...}}')
            for key, value in options.items():
                if key not in LAYER_OPTIONS:
                    raise InputError(f"{self._option_of(name)}: no option {key!r}; use {choice(LAYER_OPTIONS)}")
                if not LAYER_OPTIONS[key][0](value):
                    raise InputError(f"{self._option_of(name)}: {key}={as_text(value)}: {LAYER_OPTIONS[key][1]}")
        need(self.encoder in ("inside", "outside"), "encoder", "use inside or outside")
        need(is_top(self.project_name), "project_name",
             "must be a C++ name: a letter, then letters, digits or _, not a keyword")
        for name, (value, why) in self.target.fixed.items():
            need(getattr(self, name, value) == value, name, why)
            for node, row in self.layers.items():
                if row.get(name, value) != value:
                    raise InputError(f"{as_given(layers={node: {name: row[name]}})}: {why}")
        # NumPy's numbers do not go into YAML and JSON, nor do mappings that are no dictionaries.
        plain = {name: {str(key): goal_of(value) if key == "netlist" else
                        str(value) if isinstance(value, str) else int(value) for key, value in row.items()}
                 for name, row in self.layers.items()}
        object.__setattr__(self, "netlist", goal_of(self.netlist))
        object.__setattr__(self, "layers", plain)
        object.__setattr__(self, "reuse_factor", int(self.reuse_factor))

    def _option_of(self, node: str) -> str:
        """What gives a node options of its own, in messages."""
        return in_words_of(f"layers[{node!r}]", f"--layer {node}")

    @property
    def period(self) -> float:
        """The clock period in ns; raises InputError where it is still to be found for a graph (`clocked`)."""
        if self.clock_period == AUTO:
            raise InputError(f"{as_given(clock_period=AUTO)}: not known without a graph; give a number of ns")
        return float(self.clock_period)

    def clocked(self, graph: Graph) -> BuildConfig:
        """The same options with the number of ns for a graph (without its encoder where that is outside)."""
        if self.clock_period != AUTO:
            return self
        assert self.target.fastest is not None
        return replace(self, clock_period=self.target.fastest(graph, self))

    @property
    def stream(self) -> bool:
        """True where tensors come pixel by pixel."""
        return self.io_type == "io_stream"

    def is_loop(self, node: str) -> bool:
        """True where a node of arrays is computed in several passes."""
        return not self.stream and self.strategy_of(node) == "resource"

    @property
    def target(self) -> Backend:
        """The backend of that name."""
        return BACKENDS[str(self.backend)]

    def strategy_of(self, node: str) -> str:
        """"latency", "resource" or "distributed_arithmetic"."""
        return str(self.layers.get(node, {}).get("strategy", self.strategy)).lower()

    def netlist_of(self, node: str) -> Goal:
        """What the netlist of a node is to be best at."""
        goal: Goal = self.layers.get(node, {}).get("netlist", self.netlist)
        return goal

    @property
    def fabric(self) -> Fabric:
        """What the logic of the part consists of, for which netlists are made in Verilog."""
        part = part_of(self.part)
        return (part.family if part else UNKNOWN).fabric

    def reuse_of(self, node: str) -> int:
        """The reuse factor of a node."""
        return int(self.layers.get(node, {}).get("reuse_factor", self.reuse_factor))


def option_of(node: str) -> str:
    """The option that names a node, in messages."""
    return in_words_of("layers", f"--layer {node}:...")


def unknown_nodes(graph: Graph, config: BuildConfig) -> Iterator[str]:
    """What is wrong with options for nodes that are not there."""
    for name in config.layers:
        if name not in graph.by_name:
            yield (f"{option_of(name)} names {name!r}, which is no node; the nodes are "
                   f"{', '.join(node.name for node in graph)}")

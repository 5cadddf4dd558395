"""Estimates without any tool: from the table of `costs` in well under a second, of counted netlists in seconds.

A better cost of a kernel, such as that by logic synthesis (`kernels`), has the form of `table_cost` and is handed to
`estimate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.folding import folding_of
from bnnflow.devices.parts import PARTS, UNKNOWN, VIRTEXUP, Family, Part, part_of
from bnnflow.estimates.costs import Cost, Costs, Folding, Work, rom
from bnnflow.estimates.netlists import USABLE, counted_cost, timing
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph, Node, Window
from bnnflow.version import __version__

__all__ = ["estimate", "fitting"]

START = 1  # cycles until a kernel of a DATAFLOW top function begins
FACTORS = tuple(2**k for k in range(17))  # of reuse that `fitting` tries
TOTALS = ("lut", "ff", "dsp", "bram", "weight_bits", "buffer_bits")  # fields of Facts that are sums over kernels


def estimate(graph: Graph, config: BuildConfig | None = None, cost: Costs | None = None, cycles: int = 0) -> Facts:
    """Facts of the project that `config` would make, with a module for every kernel.

    `cost` gives the cost of a kernel; by default netlists are counted, and all else is taken from the table.
    `cycles` is the latency of the whole where it is known, because the Verilog of a pipelined project states it. That
    Verilog may be of another version of bnnflow, whose registers stand elsewhere.

    Latency is that of the last element of the output; bits of line buffers are in `buffer_bits`. Combinational Verilog
    has no registers: its latency is one cycle of the estimated period.
    """
    config = config or BuildConfig()
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    shortest, path = _shortest_period(graph, config, family)
    late = not config.pipelined or config.clock_period < shortest
    base = Facts(config.project_name, "table estimate", "bnnflow", __version__, config.part,
                 clock_target=config.clock_period, clock_estimated=shortest if late else None)
    if late and not config.target.one_netlist:  # it is pipelined for the clock that it can have
        config = replace(config, clock_period=shortest)
    modules, end = _Design(graph, config, cost or counted_cost(graph, config), family).modules(base)
    interval = max([module.interval[1] for module in modules if module.interval], default=1)
    latency = _latency(graph, config, cycles) or end + interval * (config.io_type == "io_stream")
    return replace(_summed(base, modules), latency=(latency, latency), interval=(interval, interval),
                   available=part.available if part else {},
                   notes=tuple(_notes(modules, config, part, f"{path} takes {shortest:g} ns" if late else "")))


def _summed(base: Facts, modules: Sequence[Facts]) -> Facts:
    """`base` with the counts of all modules, and with the source of the first that is not of the table."""
    by = next((module for module in modules if module.source != base.source), base)
    counts = {key: sum(getattr(module, key) for module in modules) for key in TOTALS}
    return replace(base, source=by.source, tool=by.tool, version=by.version, uram=0, modules=tuple(modules), **counts)


def _shortest_period(graph: Graph, config: BuildConfig, family: Family) -> tuple[float, str]:
    """(the shortest clock period in ns that the design can have, what takes so long)."""
    if config.target.one_netlist:
        _, path = timing(graph, config)
        return round(path * family.level_ns / VIRTEXUP.level_ns, 3), "the longest path"
    return round(family.level_ns / USABLE, 3), "a level of logic"  # with a register behind every level


def _latency(graph: Graph, config: BuildConfig, stated: int) -> int:
    """The latency in cycles of a design whose registers are known, `stated` by its sources or counted; else 0."""
    if not config.pipelined:
        return 1
    return stated or (timing(graph, config)[0] if config.target.one_netlist else 0)


def _notes(modules: Sequence[Facts], config: BuildConfig, part: Part | None, late: str) -> Iterator[str]:
    """How the counts were found, and why they may not be those asked for; `late`: what is slower than the clock."""
    yield f"not yet measured with vendor tools: {_how(modules)}"
    if config.pipelined and late:
        yield f"{late}, longer than the clock asked for"
    if part is None:
        yield f"part {config.part} is not in the table; its totals and speed are not known"


def _how(modules: Sequence[Facts]) -> str:
    """How the LUTs of the modules were found."""
    kinds = Counter(module.source for module in modules)
    how = {"kernel synthesis": "LUTs of {} kernels by logic synthesis, each alone",
           "netlist count": "{} kernels counted in their netlists"}
    said = [text.format(f"{kinds[source]} of {len(modules)}") for source, text in how.items() if kinds[source]]
    if kinds["netlist count"] < len(modules):
        said.append("all else by table" if said else "counts by table")
    return "; ".join(said)


# --- kernels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Design:
    """A graph with the options of a build, the cost of its kernels, and the family that it is built for."""

    graph: Graph
    config: BuildConfig
    cost: Costs
    family: Family

    @property
    def stream(self) -> bool:
        """True where the project takes and gives a pixel at a time."""
        return self.config.io_type == "io_stream"

    @property
    def dataflow(self) -> bool:
        """True where the top function is DATAFLOW, with a register behind every kernel, instead of one pipeline."""
        return self.stream or any(self.config.strategy_of(node.name) == "resource" for node in self.graph)

    def modules(self, base: Facts) -> tuple[list[Facts], int]:
        """(facts of every kernel, filled into `base`; cycles until all outputs of a sample are there).

        A kernel begins when the last of the tensors that it reads is there.
        """
        modules: list[Facts] = []
        ready = dict.fromkeys(self.graph.by_name, 0)  # cycles until a tensor is there
        for nodes, reads in self.config.target.kernels(self.graph, self.config):
            last = nodes[-1].name
            ready[last] = max((ready[name] for name in reads), default=0)
            if not nodes[0].traits.outside:
                module, latency = self._module(base, nodes, reads)
                modules.append(module)
                ready[last] += latency + (START if self.dataflow else 0)
        return modules, max(ready[name] for name in self.graph.outputs)

    def _module(self, base: Facts, nodes: Sequence[Node], reads: Sequence[str]) -> tuple[Facts, int]:
        """(facts of the kernel that computes `nodes`, in order of evaluation; its latency in cycles).

        `reads` are the names of the tensors that it takes.
        """
        last, reuse, loop = nodes[-1], self.config.reuse_of(nodes[0].name), self._is_loop(nodes[0])
        found = self.cost([self._work(node, reuse if loop else 1) for node in nodes])
        lines = self._line_buffer(nodes, reads) if self.stream else _LineBuffer()
        synthesized = found.source == "kernel synthesis"
        lut = found.lut * (1 if synthesized else self.family.lut_factor) + lines.lut
        cycles = self._cycles(found)
        latency = cycles + reuse * lines.first + (reuse - 1 if loop else 0)
        interval = reuse * lines.steps
        width = (last.shape[-1] if self.stream else last.size) * last.domain.bits  # of the result's register
        ff = width * cycles if found.cycles is None else round(found.ff)
        facts = replace(
            base, name=last.name, source=found.source or base.source, lut=ceil(lut), dsp=found.dsp,
            bram=found.bram + lines.bram, ff=ff + width * self.dataflow + lines.window_bits,
            latency=(latency, latency), interval=(interval, interval), weight_bits=found.weight_bits,
            buffer_bits=lines.row_bits + lines.window_bits, notes=_computes(nodes) + found.notes)
        if synthesized:
            facts = replace(facts, tool=f"bnnflow {__version__} and yosys", version=found.version,
                            lut_packed=ceil(lut - found.lut + found.packed), carry=ceil(found.carry))
        return facts, latency

    def _is_loop(self, head: Node) -> bool:
        """True where the kernel that begins with `head` computes its result in several passes over an array."""
        return self.config.strategy_of(head.name) == "resource" and not self.stream

    def _work(self, node: Node, reuse: int) -> Work:
        """A node, folded `reuse` times: first the positions are divided, then the outputs of one."""
        sources = tuple(self.graph.by_name.get(name, node) for name in node.inputs)
        if self.stream:
            return Work(node, sources, Folding(1))
        positions = prod(node.shape[:-1])
        at_once = max(1, positions // reuse)
        return Work(node, sources, Folding(at_once, max(1, reuse // positions), positions // at_once))

    def _cycles(self, found: Cost) -> int:
        """Cycles from the codes that a kernel computes on to its result."""
        if found.cycles is not None:
            return found.cycles
        period = USABLE * self.config.clock_period
        return ceil(found.levels * self.family.level_ns / period) if self.config.pipelined else 0

    def _line_buffer(self, nodes: Sequence[Node], reads: Sequence[str]) -> _LineBuffer:
        """What a kernel that takes a pixel at a time keeps of an image: nothing where it reads no window."""
        by_name = self.graph.by_name
        source = by_name.get(nodes[0].inputs[0])  # None for a join, which is wires and not in the graph
        if source is None or not isinstance(source.params, Window):
            taken = [prod(by_name[name].shape[:-1]) for name in reads if name in by_name]
            return _LineBuffer(width=max([prod(nodes[-1].shape[:-1]), *taken]))
        window, image = source.params, by_name[source.inputs[0]]
        spans = [(k - 1) * dilation + 1 for k, dilation in zip(window.kernel, window.dilation)]
        padded = [n + sum(pad) for n, pad in zip(window.size, window.pads)]
        (rows, columns), (height, width) = [1, *spans][-2:], [1, *padded][-2:]
        return _LineBuffer(rows, columns, height, width, image.shape[-1] * image.domain.bits)


def _computes(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The note of a kernel of several nodes."""
    return (f"computes {', '.join(node.name for node in nodes)}",) if len(nodes) > 1 else ()


@dataclass(frozen=True)
class _LineBuffer:
    """What a kernel keeps of an image that it takes pixel by pixel: rows, and the window that it computes on.

    The window spans `rows` x `columns` pixels (dilation included) of an image of `height` x `width` (padding included);
    with one spatial axis it is one row. `pixel`: bits of a pixel. The default keeps nothing of an image of one pixel.
    """

    rows: int = 1
    columns: int = 1
    height: int = 1
    width: int = 1
    pixel: int = 0

    @property
    def steps(self) -> int:
        """Steps of the loop over an image; absent pixels take one, too."""
        return self.height * self.width

    @property
    def first(self) -> int:
        """Steps until the first window is whole."""
        return (self.rows - 1) * self.width + self.columns - 1

    @property
    def row_bits(self) -> int:
        """Bits of the rows, in memories."""
        return (self.rows - 1) * self.width * self.pixel

    @property
    def window_bits(self) -> int:
        """Bits of the window, in registers."""
        return self.rows * self.columns * self.pixel

    @property
    def lut(self) -> float:
        """LUTs of the memories."""
        return (self.rows - 1) * sum(lut for lut, _ in self._memories)

    @property
    def bram(self) -> int:
        """Blocks of 18 Kbit of the memories."""
        return (self.rows - 1) * sum(blocks for _, blocks in self._memories)

    @property
    def _memories(self) -> list[tuple[float, int]]:
        """(LUTs, blocks of 18 Kbit) of the memories of a row, one for every word of 64 bits of a pixel."""
        whole, rest = divmod(self.pixel, 64)
        return [rom(bits, self.width) for bits in [64] * whole + [rest] * (rest > 0)]


# --- what would fit -------------------------------------------------------------------------------------------------


def fitting(graph: Graph, config: BuildConfig) -> tuple[list[BuildConfig], list[str]]:
    """(options with strategy Resource that fit the part, the fastest first; devices that the design itself fits)."""
    facts = estimate(graph, config)
    devices = [device for device, part in PARTS.items() if replace(facts, available=part.available).fits]
    return [options for options in _smaller(graph, config) if estimate(graph, options).fits], devices


def _smaller(graph: Graph, config: BuildConfig) -> Iterator[BuildConfig]:
    """The options with strategy Resource, for larger and larger reuse factors.

    Every sum and maximum gets the largest reuse factor that it can have up to a power of two. There are none in
    io_stream, where a reuse factor makes nothing smaller, and where the whole design is one netlist, which has none.
    """
    possible = {node.name: passes(node) for node in graph if node.traits.taps}
    if config.io_type == "io_stream" or config.target.one_netlist or not possible:
        return
    largest = max(factors[-1] for factors in possible.values())
    for factor in FACTORS:
        yield _folded(config, factor, possible)
        if factor >= largest:
            return


def _folded(config: BuildConfig, factor: int, possible: Mapping[str, Sequence[int]]) -> BuildConfig:
    """The options with strategy Resource and, for every node, the largest `possible` reuse factor up to `factor`."""
    most = {name: max(n for n in factors if n <= factor) for name, factors in possible.items()}
    return replace(config, strategy="Resource", reuse_factor=factor,
                   layers={name: {"reuse_factor": n} for name, n in most.items() if n != factor})

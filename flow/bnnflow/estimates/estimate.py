"""Estimates without any tool: from the table of `costs` in well under a second, of counted netlists in seconds.

A better cost of a kernel, such as that by logic synthesis (`kernels`), has the form of `table_cost` and is handed to
`estimate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from bnnflow.backends.backend import CPP, BuildConfig
from bnnflow.backends.hls.code_size import LIMITS, DesignSize, too_much
from bnnflow.backends.hls.cycles import cycles_of, schedule_of
from bnnflow.backends.hls.fifo import StreamKernel
from bnnflow.backends.hls.fifo import depths as stream_depths
from bnnflow.backends.hls.folding import Folding, folding_of
from bnnflow.backends.hls.fusion import code_size, is_dataflow, prepared, quick
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.backends.hls.loops import loop_of
from bnnflow.devices.parts import UNKNOWN, Family, Part, part_of
from bnnflow.errors import InputError
from bnnflow.estimates.buffers import Buffer, buffer_of, stream_buffer
from bnnflow.estimates.costs import Cost, Costs, Work, follower
from bnnflow.estimates.netlists import USABLE, counted_cost, timing
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph, Node
from bnnflow.ir.nodes import Int
from bnnflow.version import __version__

__all__ = ["estimate", "period_of"]

START = 1  # cycles until a kernel of a DATAFLOW top function begins
TOTALS = ("lut", "ff", "dsp", "bram", "weight_bits", "buffer_bits")  # fields of Facts that are sums over kernels


def estimate(graph: Graph, config: BuildConfig | None = None, cost: Costs | None = None, cycles: int = 0,
             advise: bool = False) -> Facts:
    """Facts of the project that `config` would make, with a module for every kernel.

    `cost` gives the cost of a kernel; by default netlists are counted, and all else is taken from the table.
    `cycles` is the latency of the whole where it is known, because the Verilog of a pipelined project states it. That
    Verilog may be of another version of bnnflow, whose registers stand elsewhere. `advise`: where HLS compilers would
    have trouble with its code, a note names options with which they have none, found by trying.

    Latency is that of the last element of the output; bits of line buffers are in `buffer_bits`. Combinational Verilog
    has no registers: its latency is one cycle of the estimated period.
    """
    config = config or BuildConfig()
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    shortest, path = _shortest_period(graph, config, family)
    late = not config.pipelined or config.period < shortest
    base = Facts(config.project_name, "table estimate", "bnnflow", __version__, config.part,
                 clock_target=config.period, clock_estimated=shortest if late else None)
    if late and not config.target.one_netlist:  # it is pipelined for the clock that it can have
        config = replace(config, clock_period=shortest)
    modules, end = _Design(graph, config, cost or counted_cost(graph, config), family).modules(base)
    size = _code_size(graph, config)
    advice = quick(graph, config) if advise and size and size.past(LIMITS) else ""
    modules = [_with_size(module, size) for module in modules]
    interval = max([module.interval[1] for module in modules if module.interval], default=1)
    latency = _latency(graph, config, cycles) or end
    return replace(_summed(base, modules), latency=(latency, latency), interval=(interval, interval),
                   available=part.available if part else {}, instructions=size.instructions if size else None,
                   notes=(*_notes(modules, config, part, f"{path} takes {shortest:g} ns" if late else ""),
                          *(_said(size) if size else ()), *_advised(advice)))


def _code_size(graph: Graph, config: BuildConfig) -> DesignSize | None:
    """The instructions that an HLS compiler is left with; None of Verilog, and of a graph that it would not take."""
    if config.target.language != CPP:
        return None
    try:
        return code_size(graph, config)
    except InputError:
        return None


def _with_size(module: Facts, size: DesignSize | None) -> Facts:
    """A kernel with its instructions."""
    found = [kernel.instructions for kernel in size.kernels if kernel.node == module.name] if size else []
    return replace(module, instructions=found[0] if found else None)


def _said(size: DesignSize) -> Iterator[str]:
    """The size of a design, and what of it is more than is known to do no harm."""
    count, node = size.largest
    where = f"the function of node {node!r}" if node else "the top function"
    yield f"{size.instructions:,} instructions for an HLS compiler, {count:,} of them in {where}"
    yield from too_much(size.instructions, [(where, count)])


def _advised(advice: str) -> Iterator[str]:
    if advice:
        yield f"{advice} for at most {LIMITS['function']:,} instructions a function, and {LIMITS['design']:,} in all"


def period_of(config: BuildConfig) -> float:
    """The clock period in ns that kernels in loops can have: the one asked for, or that of a level of logic."""
    part = part_of(config.part)
    return max(config.period, _level(part.family if part else UNKNOWN))


def _level(family: Family) -> float:
    """The shortest clock period in ns with a register behind every level of logic."""
    return round(family.level_ns / USABLE, 3)


def _summed(base: Facts, modules: Sequence[Facts]) -> Facts:
    """`base` with the counts of all modules, and with the source of the first that is not of the table."""
    by = next((module for module in modules if module.source != base.source), base)
    counts = {key: sum(getattr(module, key) for module in modules) for key in TOTALS}
    return replace(base, source=by.source, tool=by.tool, version=by.version, uram=0, modules=tuple(modules), **counts)


def _shortest_period(graph: Graph, config: BuildConfig, family: Family) -> tuple[float, str]:
    """(the shortest clock period in ns that the design can have, what takes so long)."""
    if config.target.one_netlist:
        _, path = timing(graph, config)
        return round(path * family.delay_factor, 3), "the longest path"
    return _level(family), "a level of logic"


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
class _Kernel:
    """A kernel of the design: the nodes that it computes in a row, the tensors that it reads, its loop, its folding.

    Only C++ has loops.
    """

    nodes: tuple[Node, ...]
    reads: Sequence[str]
    loop: KernelCall | None
    folding: Folding

    @property
    def last(self) -> Node:
        """The node that it makes."""
        return self.nodes[-1]

    @property
    def cycles(self) -> int:
        """Cycles of its loop for an image."""
        return cycles_of(self.loop) if self.loop else 1


class _Design:
    """A graph with the options of a build, the cost of its kernels, and the family that it is built for."""

    def __init__(self, graph: Graph, config: BuildConfig, cost: Costs, family: Family):
        self.graph, self.config, self.cost, self.family = graph, config, cost, family
        self.loops = config.target.language == CPP
        nodes = prepared(graph, config) if self.loops else graph
        self.known = {node.name: node for node in nodes}
        self.kernels = [self._kernel(nodes, reads) for nodes, reads in config.target.kernels(graph, config)]

    @property
    def dataflow(self) -> bool:
        """True where the top function is DATAFLOW, with a register behind every kernel, instead of one pipeline."""
        return is_dataflow(self.graph, self.config)

    def _kernel(self, nodes: tuple[Node, ...], reads: Sequence[str]) -> _Kernel:
        head, config = nodes[0], self.config
        source = self.known.get(head.inputs[0], head) if head.inputs else head
        folding = folding_of(head, source, config)
        loop = loop_of(nodes, self.known, config) if self.loops and not head.traits.outside else None
        return _Kernel(nodes, reads, loop, folding)

    def modules(self, base: Facts) -> tuple[list[Facts], int]:
        """(facts of every kernel, filled into `base`; cycles until all outputs of a sample are there)."""
        modules: list[Facts] = []
        depths = self._depths() if self.config.stream else {}
        # Cycles until each pixel of a tensor, or all of it, is there.
        ready: dict[str, Int] = {node.name: np.zeros(prod(node.shape[:-1]), np.int64) for node in self.graph.inputs}
        for kernel in self.kernels:
            if kernel.nodes[0].traits.outside:
                continue
            module, steps = self._module(base, kernel, depths.get(kernel.last.name, ()))
            modules.append(module)
            ready[kernel.last.name] = self._ready(kernel, [ready[name] for name in kernel.reads], steps)
        return modules, max(int(ready[name].max()) for name in self.graph.outputs)

    def _ready(self, kernel: _Kernel, reads: Sequence[Int], steps: int) -> Int:
        """Cycles until what a kernel makes is there; of a stream, each pixel. `steps` are those of its pipeline.

        A kernel on arrays begins when the last of the tensors that it reads is there, one on streams with the first
        pixel; an iteration of its loop waits for the pixels that it reads.
        """
        if not self.config.stream or kernel.loop is None:
            start = max([int(read.max()) for read in reads], default=0)
            return np.array([start + kernel.cycles - 1 + steps + START * self.dataflow])
        schedule = schedule_of(kernel.loop)
        late = np.full(len(schedule.at), START)
        for k, read in enumerate(reads):
            (places,) = np.nonzero(~schedule.write & (schedule.stream == k))
            late[places] = read - schedule.at[places]
        times: Int = schedule.at + np.maximum.accumulate(np.maximum(late, START))
        return times[schedule.write] + steps + 1

    def _module(self, base: Facts, kernel: _Kernel, depths: Sequence[int]) -> tuple[Facts, int]:
        """(facts of a kernel with the streams of these depths behind it, the steps of its pipeline in cycles)."""
        last, reuse, stream = kernel.last, self.config.reuse_of(kernel.nodes[0].name), self.config.stream
        found = self.cost([self._work(kernel, node) for node in kernel.nodes])
        kept = sum((stream_buffer(last.shape[-1] * last.domain.bits, depth) for depth in depths), self._buffer(kernel))
        synthesized = found.source == "kernel synthesis"
        own = synthesized or self.config.target.one_netlist  # counted in LUTs of the family
        more = kept.lut * self.family.lut_factor
        steps = self._steps(found)
        loop = stream or self.config.is_loop(kernel.nodes[0].name)
        interval = kernel.cycles if loop else reuse
        latency = (schedule_of(kernel.loop).cycles if stream and kernel.loop else kernel.cycles) - 1 + steps
        # Registers of the pipeline, and of the result.
        width = (last.shape[-1] if stream else last.size) * last.domain.bits
        f = kernel.folding
        made = width // ((1 if f.apart else f.passes) * (1 if stream else f.turns))
        ff = found.ff + made * steps if found.cycles is None else found.ff
        facts = replace(
            base, name=last.name, source=found.source or base.source, dsp=found.dsp, bram=found.bram + kept.bram,
            lut=ceil(found.lut * (1 if own else self.family.lut_factor) + more),
            ff=round(ff) + kept.ff + width * (self.dataflow and not stream), latency=(latency, latency),
            interval=(interval, interval), weight_bits=found.weight_bits, buffer_bits=kept.bits,
            notes=_computes(kernel.nodes) + found.notes, **self._folded(kernel))
        if synthesized:
            facts = replace(facts, tool=f"bnnflow {__version__} and yosys", version=found.version,
                            lut_packed=ceil(found.packed + more), carry=ceil(found.carry))
        return facts, steps

    def _folded(self, kernel: _Kernel) -> dict[str, Any]:
        """What Facts say of a kernel's folding."""
        if kernel.loop is None:
            return {}
        f = kernel.folding
        lanes = {"pe": f.outputs if f.apart else f.pe, "simd": f.simd} if kernel.nodes[0].traits.taps else {}
        return {**lanes, "cycles": kernel.cycles}

    def _work(self, kernel: _Kernel, node: Node) -> Work:
        """A node of a kernel; what follows the first one is computed in its passes."""
        if node is not kernel.nodes[0]:
            return follower(node, self.known, kernel.folding)
        return Work(node, tuple(self.known.get(name, node) for name in node.inputs), kernel.folding)

    def _steps(self, found: Cost) -> int:
        """Cycles from the codes that a kernel computes on to its result."""
        if found.cycles is not None:
            return found.cycles
        period = USABLE * self.config.period
        return ceil(found.levels * self.family.level_ns / period) if self.config.pipelined else 0

    # --- streams and buffers ------------------------------------------------------------------------------------------

    def _buffer(self, kernel: _Kernel) -> Buffer:
        """What the loop of a kernel keeps."""
        return Buffer() if kernel.loop is None else buffer_of(kernel.loop)

    def _depths(self) -> dict[str, list[int]]:
        """The depths of the streams of every tensor between kernels, those of its copies for several readers too."""
        names: dict[str, list[str]] = {}  # of the streams of a tensor
        left: dict[str, list[str]] = {}  # those that are still to be read
        uses = Counter([name for kernel in self.kernels for name in kernel.reads])
        uses.update(self.graph.outputs)
        found: list[StreamKernel] = []
        for kernel in self.kernels:
            name, pixels = kernel.last.name, prod(kernel.last.shape[:-1])
            if kernel.loop is not None:
                found.append(StreamKernel(kernel.loop, [left[read].pop() for read in kernel.reads], [name]))
            names[name], left[name] = [name], [name]
            for k in range(1, uses[name]):
                copies = [f"{name} {k} {i}" for i in (1, 2)]
                fork = KernelCall("flow_split", "", {"n_pixel": pixels})
                found.append(StreamKernel(fork, [left[name].pop()], copies))
                names[name] += copies
                left[name] += copies
        room = stream_depths(found)
        return {name: [room[stream] for stream in streams if stream in room] for name, streams in names.items()}


def _computes(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The note of a kernel of several nodes."""
    return (f"computes {', '.join(node.name for node in nodes)}",) if len(nodes) > 1 else ()

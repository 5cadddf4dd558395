"""Estimates without any tool: from the table of `costs` in well under a second, of netlists counted in seconds.

A better cost of a kernel, say by logic synthesis (`kernels`), has the form of `table_cost` and is handed to `estimate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.sums import passes
from bnnflow.devices.parts import PARTS, UNKNOWN, VIRTEXUP, Family, part_of
from bnnflow.estimates.costs import Costs, Hardware, Work, rom
from bnnflow.estimates.netlists import USABLE, counted_cost, timing
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph, Node, Op, Window
from bnnflow.version import __version__

__all__ = ["estimate", "fitting"]

START = 1  # cycles until a kernel of DATAFLOW begins
FACTORS = tuple(2**k for k in range(17))  # of reuse that `fitting` tries


def estimate(graph: Graph, config: BuildConfig | None = None, cost: Costs | None = None, cycles: int = 0) -> Facts:
    """Facts of the project that `config` would make, a module a kernel, by `cost`: of netlists counted, else by table.

    `cycles` is the latency of the whole where it is known: the Verilog of a pipelined project states it. It may be of
    another version of bnnflow, whose registers stand elsewhere.
    Latency is to the last element of the output; bits of line buffers are in `buffer_bits`. Combinational Verilog has
    no registers: its latency is one cycle of the estimated period.
    """
    config = config or BuildConfig()
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    stream = config.io_type == "io_stream"
    folded = stream or any(config.strategy_of(node.name) == "resource" for node in graph)
    base = Facts("", "table estimate", "bnnflow", __version__, config.part, clock_target=config.clock_period)
    whole, what = config.target.one_netlist, "a level of logic"
    if whole:
        stages, path = timing(graph, config)
        cycles, what, shortest = cycles or stages, "the longest path", path * family.level_ns / VIRTEXUP.level_ns
    else:
        shortest = family.level_ns / USABLE  # a register behind every level of logic
    shortest = round(shortest, 3)
    if not config.pipelined or config.clock_period < shortest:
        base = replace(base, clock_estimated=shortest)
        if not whole:
            config = replace(config, clock_period=shortest)
    cost = cost or counted_cost(graph, config)
    modules: list[Facts] = []
    ready = dict.fromkeys(graph.by_name, 0)  # cycles
    for nodes, reads in config.target.kernels(graph, config):
        last = nodes[-1].name
        ready[last] = max((ready[name] for name in reads), default=0)
        if nodes[0].op is not Op.INPUT:
            module = _module(graph, nodes, reads, config, cost, family, folded)
            modules.append(replace(base, **module))
            ready[last] += module["latency"][1] + (START if folded else 0)
    latency = max(ready[name] for name in graph.outputs)
    interval = max([m.interval[1] for m in modules if m.interval] or [1])
    counts = ("lut", "ff", "dsp", "bram", "weight_bits", "buffer_bits")
    by = next((m for m in modules if m.source != base.source), base)
    facts = replace(base, name=config.project_name, **{key: sum(getattr(m, key) for m in modules) for key in counts},
                    uram=0, latency=(latency + interval * stream,) * 2, interval=(interval, interval),
                    available=part.available if part else {}, modules=tuple(modules),
                    source=by.source, tool=by.tool, version=by.version,
                    notes=(f"not yet measured with vendor tools: {_how(modules)}",))
    if config.pipelined and facts.clock_estimated:
        note = f"{what} takes {facts.clock_estimated:g} ns, longer than the clock asked for"
        facts = replace(facts, notes=(*facts.notes, note))
    if part is None:
        note = f"part {config.part} is not in the table; its totals and speed are not known"
        facts = replace(facts, notes=(*facts.notes, note))
    if not config.pipelined:
        return replace(facts, latency=(1, 1))
    return replace(facts, latency=(cycles, cycles)) if cycles else facts


def _how(modules: Sequence[Facts]) -> str:
    """What the counts come from."""
    kinds = Counter(module.source for module in modules)
    how = {"kernel synthesis": "LUTs of {} kernels by logic synthesis, each alone",
           "netlist count": "{} kernels counted in their netlists"}
    said = [text.format(f"{kinds[source]} of {len(modules)}") for source, text in how.items() if kinds[source]]
    if kinds["netlist count"] < len(modules):
        said.append("all else by table" if said else "counts by table")
    return "; ".join(said)


def _module(graph: Graph, nodes: Sequence[Node], reads: Sequence[str], config: BuildConfig,
            cost: Costs, family: Family, folded: bool) -> dict[str, Any]:
    """Fields of the `Facts` of one kernel, which computes `nodes` in a row."""
    head, last, stream = nodes[0], nodes[-1], config.io_type == "io_stream"
    loops = config.strategy_of(head.name) == "resource" and not stream
    reuse = config.reuse_of(head.name)
    found = cost([Work(node, tuple(graph.by_name.get(name, node) for name in node.inputs),
                       _there(node, reuse if loops else 1, stream)) for node in nodes])
    cycles = found.cycles
    if cycles is None:
        cycles = ceil(found.levels * family.level_ns / (USABLE * config.clock_period)) if config.pipelined else 0
    synthesized = found.source == "kernel synthesis"
    lut = found.lut * (1 if synthesized else family.lut_factor)
    width, interval = last.size * last.domain.bits, reuse
    wait, lines, registers, blocks = reuse - 1 if loops else 0, 0, 0, 0
    if stream:
        width, interval = last.shape[-1] * last.domain.bits, reuse * _pixels(graph, nodes, reads)
        wait, (lines, registers) = reuse * _first(graph, head), _lines(graph, head)
        more, blocks = _memory(graph, head)
        lut += more
    fields: dict[str, Any] = {
        "name": last.name, "lut": ceil(lut), "dsp": found.dsp, "bram": found.bram + blocks,
        "ff": (round(found.ff) if found.cycles is not None else width * cycles) + width * folded + registers,
        "latency": (cycles + wait, cycles + wait), "interval": (interval, interval),
        "weight_bits": found.weight_bits, "buffer_bits": lines + registers,
        "notes": (f"computes {', '.join(node.name for node in nodes)}",) if len(nodes) > 1 else (),
    }
    if found.source:
        fields |= {"source": found.source, "notes": (*fields["notes"], *found.notes)}
    if synthesized:
        fields |= {"tool": f"bnnflow {__version__} and yosys", "version": found.version,
                   "lut_packed": ceil(lut - found.lut + found.packed), "carry": ceil(found.carry)}
    return fields


def _there(node: Node, reuse: int, stream: bool) -> Hardware:
    """All positions at once (arrays), one (streams); a loop shares positions first, then the outputs of one."""
    if stream:
        return Hardware(1)
    positions = prod(node.shape[:-1])
    at_once = max(1, positions // reuse)
    return Hardware(at_once, max(1, reuse // positions), positions // at_once)


def _window(graph: Graph, node: Node) -> tuple[Window, Node] | None:
    """The window that a sum or maximum reads, and the image below."""
    source = graph.by_name.get(node.inputs[0])
    if source is None or not isinstance(source.params, Window):
        return None
    return source.params, graph[source.inputs[0]]


def _spans(window: Window) -> tuple[list[int], list[int]]:
    """(rows and columns of the kernel as it lies, of the padded image); one axis is a row."""
    span = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation)]
    padded = [n + sum(pad) for n, pad in zip(window.size, window.pads)]
    return [1, *span][-2:], [1, *padded][-2:]


def _pixels(graph: Graph, nodes: Sequence[Node], reads: Sequence[str]) -> int:
    """Steps of a kernel's loop over pixels, absent ones included."""
    found = _window(graph, nodes[0])
    if found:
        return prod(_spans(found[0])[1])
    taken = [prod(graph.by_name[name].shape[:-1]) for name in reads if name in graph.by_name]
    return max([prod(nodes[-1].shape[:-1]), *taken])


def _first(graph: Graph, node: Node) -> int:
    """Steps until the first window is whole."""
    found = _window(graph, node)
    if not found:
        return 0
    (rows, cols), (_, width) = _spans(found[0])
    return (rows - 1) * width + cols - 1


def _lines(graph: Graph, node: Node) -> tuple[int, int]:
    """Bits of the rows that a kernel keeps, and of the window that it computes on."""
    found = _window(graph, node)
    if not found:
        return 0, 0
    (rows, cols), (_, width) = _spans(found[0])
    pixel = found[1].shape[-1] * found[1].domain.bits
    return (rows - 1) * width * pixel, rows * cols * pixel


def _memory(graph: Graph, node: Node) -> tuple[float, int]:
    """(LUTs, blocks of 18 Kbit) of the rows: one memory a row and word of 64 bits."""
    found = _window(graph, node)
    if not found:
        return 0.0, 0
    (rows, _), (_, width) = _spans(found[0])
    pixel = found[1].shape[-1] * found[1].domain.bits
    whole, rest = divmod(pixel, 64)
    memories = [rom(bits, width) for bits in [64] * whole + [rest] * (rest > 0)]
    return (rows - 1) * sum(lut for lut, _ in memories), (rows - 1) * sum(blocks for _, blocks in memories)


def fitting(graph: Graph, config: BuildConfig) -> tuple[list[BuildConfig], list[str]]:
    """(options with strategy Resource that fit the part, the fastest first; devices that the design itself fits).

    Every sum and maximum gets the largest reuse factor that it can have up to a power of two. In io_stream a reuse
    factor makes nothing smaller, and Verilog has none, so that none is offered.
    """
    fit: list[BuildConfig] = []
    sums = {node.name: passes(node) for node in graph if node.op in (Op.DOT, Op.MAX)}
    loops = config.io_type == "io_parallel" and not config.target.one_netlist and sums
    for factor in FACTORS if loops else ():
        most = {name: max(n for n in possible if n <= factor) for name, possible in sums.items()}
        options = replace(config, strategy="Resource", reuse_factor=factor,
                          layers={name: {"reuse_factor": n} for name, n in most.items() if n != factor})
        if estimate(graph, options).fits:
            fit.append(options)
        if factor >= max(possible[-1] for possible in sums.values()):
            break
    facts = estimate(graph, config)
    return fit, [device for device, part in PARTS.items() if replace(facts, available=part.available).fits]

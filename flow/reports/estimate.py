"""Estimates without any tool: a table of costs by op, in well under a second for any network.

The costs count what a kernel of ours computes: bits that enter adders, comparators, bits of ROM and of line buffers.
The one measured constant is that of adders, by yosys; nothing here has been measured with a vendor's tool yet. A better
cost, say of a synthesised netlist, has the form of `table_cost` and is handed to `estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

import flow
from flow.backends.hls_window import passes
from flow.backends.project import BuildConfig
from flow.backends.units import ASKED, CHAINS
from flow.ir import Affine, Graph, Node, Op, Steps, Sum, Table, Weights, Window
from flow.ir.graph import Int
from flow.reports.facts import Facts
from flow.reports.parts import PARTS, UNKNOWN, Family, part_of

__all__ = ["COST", "Cost", "Hardware", "estimate", "fitting", "netlist_cost",
           "table_cost"]

# LUTs for each bit that enters an adder: 3,443 for the 2,486 bits of a ternary layer, its thresholds' 150 aside (yosys,
# `+` chains, UltraScale+).
LUT_PER_BIT = 1.32
# Of those, what the netlists of backend="Verilog" need: four layers by yosys had 0.20 to 0.39 (docs/reports.md).
NETLIST = 0.4
LUT4_FACTOR = 1.6  # LUTs of four inputs for one of six
USABLE = 0.73  # of a clock period, as hls4ml's clock uncertainty of 27 % leaves it
START = 1  # cycles until a kernel of DATAFLOW begins
FACTORS = tuple(2**k for k in range(17))  # of reuse that `fitting` tries


@dataclass(frozen=True)
class Cost:
    """LUTs, flip-flops, DSPs and blocks of 18 Kbit, `levels` of logic from input to output, bits of constants."""

    lut: float = 0
    ff: float = 0
    dsp: int = 0
    bram: int = 0
    levels: float = 0
    weight_bits: int = 0


@dataclass(frozen=True)
class Hardware:
    """How much of a node is there at once: `positions` of its image, each of its outputs in `passes` turns."""

    positions: int
    passes: int = 1


def _dot(node: Node, source: Node, there: Hardware) -> Cost:
    """Sums: a popcount takes the bits of its taps; other codes are added digit by digit of their levels."""
    weights = node.params
    assert isinstance(weights, Weights)
    levels, domain = weights.effective, source.domain
    lowest = int(levels.min())
    counts = np.bincount((levels - lowest).ravel())  # of every level; levels are small, sorting them all is slow
    level_bits = max(1, int(np.count_nonzero(counts) - 1).bit_length())
    one_bit = domain.lo >= 0 and domain.hi <= 1
    bits = weights.mask.size * level_bits
    if there.passes > 1:  # weights come from a ROM: every tap is there, with what chooses it
        outputs, taps = node.shape[-1] / there.passes, levels.shape[0]
        each = taps * (1 + LUT_PER_BIT if one_bit else (domain.bits + 1) * max(1, level_bits - 1))
        width = ceil(max(1.0, outputs) * taps * level_bits)
        lut, bram = _rom(width, min(there.passes, node.shape[-1]))
        lut, bram = lut + there.positions * max(1.0, outputs) * each, bram
    else:
        lut, bram = there.positions * float(_adders(levels, lowest, counts, domain.bits, one_bit).sum()), 0
    return Cost(lut, bram=bram, levels=1 + log2(max(2, weights.reach)), weight_bits=bits)


def _adders(levels: Int, lowest: int, counts: Int, width: int, one_bit: bool) -> NDArray[np.float64]:
    """LUTs of the adders of every output; `counts` are those of the levels from `lowest` on."""
    kinds = np.flatnonzero(counts) + lowest
    gain = int(np.gcd.reduce(np.abs(kinds))) or 1
    digits = np.zeros(len(counts), np.int64)
    digits[kinds - lowest] = [_digits(abs(int(kind)) // gain) for kind in kinds]
    entering = digits[levels - lowest].sum(axis=0).astype(np.float64)
    if not one_bit:
        bits: NDArray[np.float64] = np.maximum(entering - 1, 0) * (width + np.log2(np.maximum(entering, 1)) / 2)
        return bits
    if len(kinds) == 2 and digits.max() > 1:  # one value for all taps, counted once for all outputs, and the other's
        second = (levels == kinds[0]).sum(axis=0)
        fewer = np.minimum(second, len(levels) - second) + len(levels) / levels.shape[1]
        entering = np.minimum(entering, fewer)
    lut: NDArray[np.float64] = LUT_PER_BIT * entering
    return lut


def _digits(value: int) -> int:
    """Nonzero digits of the canonical signed form."""
    return (value ^ 3 * value).bit_count()


def _rom(width: int, depth: int) -> tuple[float, int]:
    """(LUTs, blocks of 18 Kbit) of a ROM: LUTs of 64 bits where it is shallow."""
    return (width * ceil(depth / 64), 0) if depth <= 128 else (0, ceil(width / 36) * ceil(depth / 512))


def _step(node: Node, source: Node, there: Hardware) -> Cost:
    """Comparators, one a cut that the input can reach; their bits are counted where there are several."""
    steps = node.params
    assert isinstance(steps, Steps)
    cuts = int(((steps.cuts > source.domain.lo) & (steps.cuts <= source.domain.hi)).sum())
    width = source.domain.bits
    each = ceil(width / 2) + 1 if there.passes > 1 else max(1, ceil((width - 1) / 5))
    places = prod(node.shape) // max(1, len(steps.start)) * there.positions / max(1, prod(node.shape[:-1]))
    counted = max(0, cuts - len(steps.start))  # of channels with several cuts
    lut = places * (cuts * each + LUT_PER_BIT * counted) / there.passes
    return Cost(lut, levels=1 + (steps.cuts.shape[1] > 1) * log2(max(2, steps.cuts.shape[1])),
                weight_bits=steps.cuts.size * width)


def _lut(node: Node, source: Node, there: Hardware) -> Cost:
    table = node.params
    assert isinstance(table, Table)
    lut, bram = _rom(node.domain.bits, table.codes.shape[1])
    each = there.positions * node.shape[-1] / there.passes
    return Cost(lut * each, bram=ceil(bram * each), levels=2, weight_bits=table.codes.size * node.domain.bits)


def _affine(node: Node, source: Node, there: Hardware) -> Cost:
    affine = node.params
    assert isinstance(affine, Affine)
    width = int(np.abs(affine.mul).max(initial=1)).bit_length() + 1
    each = there.positions * node.shape[-1] / there.passes
    products = ceil(source.domain.bits / 26) * ceil(width / 17)
    return Cost(each * node.domain.bits, dsp=ceil(each * products), levels=6,
                weight_bits=node.shape[-1] * (width + 32))


def _add(node: Node, source: Node, there: Hardware) -> Cost:
    total = node.params
    assert isinstance(total, Sum)
    digits = sum(_digits(abs(int(scale))) for scale in total.scale) - (total.constant == 0)
    return Cost(there.positions * node.shape[-1] / there.passes * digits * node.domain.bits, levels=2)


def _max(node: Node, source: Node, there: Hardware) -> Cost:
    taps = source.shape[-1] // node.shape[-1]
    each = ceil((taps - 1) / 5) if source.domain.size == 2 else (taps - 1) * 1.5 * source.domain.bits
    return Cost(there.positions * node.shape[-1] / there.passes * each, levels=2 * log2(max(2, taps)))


def _wires(node: Node, source: Node, there: Hardware) -> Cost:
    return Cost()


COST: dict[Op, Callable[[Node, Node, Hardware], Cost]] = {
    Op.INPUT: _wires, Op.GATHER: _wires, Op.WINDOW: _wires, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine,
}


def table_cost(node: Node, source: Node, there: Hardware) -> Cost:
    """The cost of a node whose (first) input is `source`, in LUTs of six inputs."""
    return COST[node.op](node, source, there)


def netlist_cost(node: Node, source: Node, there: Hardware) -> Cost:
    """The cost of a node in a netlist of ours (Verilog, distributed_arithmetic): no DSPs, sums shared and in chains."""
    found = table_cost(node, source, there)
    if isinstance(node.params, Affine):
        digits = sum(_digits(abs(int(factor))) for factor in node.params.mul)
        return replace(found, lut=digits * source.domain.bits * node.size // node.shape[-1], dsp=0)
    return replace(found, lut=NETLIST * found.lut) if node.op is Op.DOT else found


def estimate(graph: Graph, config: BuildConfig | None = None,
             cost: Callable[[Node, Node, Hardware], Cost] | None = None) -> Facts:
    """Facts of the project that `config` would make, a module a kernel, from a table; no tool is run.

    Latency is to the last element of the output; bits of line buffers are in `buffer_bits`. Combinational Verilog has
    no registers: its latency is one cycle of the estimated period.
    """
    config = config or BuildConfig()
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    stream = config.io_type == "io_stream"
    folded = stream or any(config.strategy_of(node.name) == "resource" for node in graph)
    base = Facts("", "table estimate", "bnnflow", flow.__version__, config.part, clock_target=config.clock_period)
    modules: list[Facts] = []
    ready, levels = dict.fromkeys(graph.by_name, 0), dict.fromkeys(graph.by_name, 0.0)  # cycles and LUTs in a row
    for nodes, reads in CHAINS[config.io_type](graph, config):
        last = nodes[-1].name
        ready[last] = max((ready[name] for name in reads), default=0)
        levels[last] = max((levels[name] for name in reads), default=0.0)
        if nodes[0].op is not Op.INPUT:
            netlist = config.backend == "Verilog" or config.strategy_of(nodes[0].name) == ASKED
            counted = cost or (netlist_cost if netlist else table_cost)
            module, deep = _module(graph, nodes, reads, config, counted, family, folded)
            modules.append(replace(base, **module))
            ready[last] += module["latency"][1] + (START if folded else 0)
            levels[last] += deep
    latency = max(ready[name] for name in graph.outputs)
    interval = max([m.interval[1] for m in modules if m.interval] or [1])
    counts = ("lut", "ff", "dsp", "bram", "weight_bits", "buffer_bits")
    facts = replace(base, name=config.project_name, **{key: sum(getattr(m, key) for m in modules) for key in counts},
                    uram=0, latency=(latency + interval * stream,) * 2, interval=(interval, interval),
                    available=part.available if part else {}, modules=tuple(modules),
                    notes=("not yet measured with vendor tools: counts by table",))
    if part is None:
        note = f"part {config.part} is not in the table; its totals and speed are not known"
        facts = replace(facts, notes=(*facts.notes, note))
    if config.pipelined:
        return facts
    path = max(levels[name] for name in graph.outputs) * family.level_ns
    return replace(facts, latency=(1, 1), clock_estimated=round(max(path, family.level_ns), 3))


def _module(graph: Graph, nodes: Sequence[Node], reads: Sequence[str], config: BuildConfig,
            cost: Callable[[Node, Node, Hardware], Cost], family: Family, folded: bool) -> tuple[dict[str, Any], float]:
    """(fields of `Facts`, levels of logic) of one kernel, which computes `nodes` in a row."""
    head, last, stream = nodes[0], nodes[-1], config.io_type == "io_stream"
    loops = config.strategy_of(head.name) == "resource" and not stream
    reuse = config.reuse_of(head.name)
    costs = [cost(node, graph.by_name.get(node.inputs[0], node), _there(node, reuse if loops else 1, stream))
             for node in nodes]
    levels = sum(c.levels for c in costs)
    cycles = ceil(levels * family.level_ns / (USABLE * config.clock_period)) if config.pipelined else 0
    lut = sum(c.lut for c in costs) * (1 if family.lut_inputs == 6 else LUT4_FACTOR)
    width, interval = last.size * last.domain.bits, reuse
    wait, lines, registers, blocks = reuse - 1 if loops else 0, 0, 0, 0
    if stream:
        width, interval = last.shape[-1] * last.domain.bits, reuse * _pixels(graph, nodes, reads)
        wait, (lines, registers) = reuse * _first(graph, head), _lines(graph, head)
        more, blocks = _memory(graph, head)
        lut += more
    return {
        "name": last.name, "lut": ceil(lut), "ff": width * (cycles + folded) + registers,
        "dsp": sum(c.dsp for c in costs), "bram": sum(c.bram for c in costs) + blocks,
        "latency": (cycles + wait, cycles + wait), "interval": (interval, interval),
        "weight_bits": sum(c.weight_bits for c in costs), "buffer_bits": lines + registers,
        "notes": (f"computes {', '.join(node.name for node in nodes)}",) if len(nodes) > 1 else (),
    }, levels


def _there(node: Node, reuse: int, stream: bool) -> Hardware:
    """All positions at once (arrays), one (streams); a loop shares positions first, then the outputs of one."""
    positions = 1 if stream else prod(node.shape[:-1])
    return Hardware(max(1, positions // reuse), max(1, reuse // positions))


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
    memories = [_rom(bits, width) for bits in [64] * whole + [rest] * (rest > 0)]
    return (rows - 1) * sum(lut for lut, _ in memories), (rows - 1) * sum(blocks for _, blocks in memories)


def fitting(graph: Graph, config: BuildConfig) -> tuple[list[BuildConfig], list[str]]:
    """(options with strategy Resource that fit the part, the fastest first; devices that the design itself fits).

    Every sum and maximum gets the largest reuse factor that it can have up to a power of two. In io_stream a reuse
    factor makes nothing smaller, and Verilog has none, so that none is offered.
    """
    fit: list[BuildConfig] = []
    sums = {node.name: passes(node) for node in graph if node.op in (Op.DOT, Op.MAX)}
    loops = config.io_type == "io_parallel" and config.backend != "Verilog" and sums
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

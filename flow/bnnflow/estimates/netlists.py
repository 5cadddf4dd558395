"""Costs counted in netlists of ours: LUTs, registers, cycles and nanoseconds, in seconds and without any tool.

A Verilog project is one netlist and is counted as a whole. A kernel in C++ with strategy "distributed_arithmetic" is a
netlist of its own: one position of it is counted, and of a large one only some of the outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil, prod

import numpy as np

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.fusion import ASKED, MAX_GIVEN
from bnnflow.backends.hls.one_position import at_one_position
from bnnflow.backends.netlist.counts import Count, netlist_counts
from bnnflow.backends.netlist.goals import GOALS, Goal
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.devices.fabric import PS, Fabric
from bnnflow.estimates.costs import Cost, Costs, Work, table_cost
from bnnflow.ir import Graph, Op, Steps, Weights
from bnnflow.ir.ramps import MANY

__all__ = ["SOURCE", "USABLE", "counted_cost", "front", "piece", "spaced", "terms", "timing"]

SOURCE = "netlist count"
USABLE = 0.73  # of a clock period in HLS, as hls4ml's clock uncertainty of 27 % leaves it
BITS = 2**17  # that enter the adders of a kernel of which all outputs are counted


def counted_cost(graph: Graph, config: BuildConfig) -> Costs:
    """The cost of kernels of the project that `config` would make of `graph`: netlists counted, all else by the table.

    Raises InputError for a graph that is too large for a netlist.
    """
    if config.target.one_netlist:
        return _parts(graph, config)

    def cost(kernel: Sequence[Work]) -> Cost:
        asked = config.strategy_of(kernel[0].node.name) == ASKED
        goal = config.netlist_of(kernel[0].node.name)
        return _alone(kernel, config.period * USABLE, goal) if asked else table_cost(kernel)

    return cost


def timing(graph: Graph, config: BuildConfig) -> tuple[int, float]:
    """(cycles, 0 without registers; ns of the longest path before placement) of a Verilog project."""
    counts, latency = _whole(graph, config)
    return latency, max(count.ns for count in counts.values()) + config.fabric.register / PS * config.pipelined


def _whole(graph: Graph, config: BuildConfig) -> tuple[dict[str, Count], int]:
    goals = tuple([(node.name, config.netlist_of(node.name)) for node in graph])
    return _counted(graph, config.period if config.pipelined else None, goals, config.fabric)


@lru_cache(maxsize=2)  # an estimate reads it several times
def _counted(graph: Graph, clock_period: float | None, goals: tuple[tuple[str, Goal], ...],
             fabric: Fabric) -> tuple[dict[str, Count], int]:
    return netlist_counts(to_logic(graph, goals=dict(goals), fabric=fabric), clock_period)


def front(graph: Graph, config: BuildConfig) -> dict[str, tuple[float, int, float]]:
    """{goal: (LUTs, cycles, ns of the longest path)} of the Verilog that each goal would make of a graph."""
    found: dict[str, tuple[float, int, float]] = {}
    for goal in GOALS:
        asked = replace(config, netlist=goal, layers={})
        counts, _ = _whole(graph, asked)
        found[goal] = sum(count.lut for count in counts.values()), *timing(graph, asked)
    return found


def _parts(graph: Graph, config: BuildConfig) -> Costs:
    """The costs of kernels in the netlist of the whole graph."""
    counts, latency = _whole(graph, config)
    stage: dict[str, int] = {}  # the pipeline stage at whose end a node's codes are known; wires have none of their own
    for node in graph:
        stage[node.name] = max([counts[node.name].stage, *(stage[name] for name in node.inputs)])
    owner = _owners(graph, config)
    ends = set(graph.by_name).difference(*(node.inputs for node in graph))

    def cost(kernel: Sequence[Work]) -> Cost:
        last, names = kernel[-1].node.name, {work.node.name for work in kernel}
        mine = [count for name, count in counts.items() if owner.get(name) == last]
        begins = max(stage[source.name] for work in kernel for source in work.sources if source.name not in names)
        done = latency if last in ends else stage.get(last, begins)  # a join of inputs is wires, not in the graph
        return _netlist(kernel, mine, done - begins)

    return cost


def _owners(graph: Graph, config: BuildConfig) -> dict[str, str]:
    """{node: last node of the kernel that its gates are counted for}; registers of inputs are their first reader's."""
    owner: dict[str, str] = {}
    for nodes, _ in config.target.kernels(graph, config):
        waiting = [node.name for node in nodes if not node.traits.outside]
        while waiting:
            name = waiting.pop()
            if name in graph.by_name and owner.setdefault(name, nodes[-1].name) == nodes[-1].name:
                waiting += [source for source in graph[name].inputs
                            if source not in owner and graph[source].op in (Op.INPUT, Op.WINDOW)]
    return owner


def _alone(kernel: Sequence[Work], clock_period: float, goal: Goal) -> Cost:
    """The cost of a kernel that is a netlist by itself."""
    found = piece(kernel, BITS)
    if found is None:
        return table_cost(kernel)
    graph, share, what = found
    counts, latency = netlist_counts(to_logic(graph, goals=goal), clock_period)
    return replace(_netlist(kernel, counts.values(), latency, share), notes=(f"counted: {what}",))


def _netlist(kernel: Sequence[Work], counts: Collection[Count], cycles: int, share: float = 1.0) -> Cost:
    """The cost of a kernel that consists of `share` netlists with these `counts`."""
    return replace(table_cost(kernel), lut=share * sum(count.lut for count in counts),
                   ff=share * sum(count.ff for count in counts), dsp=0, bram=0, cycles=cycles, source=SOURCE)


def piece(kernel: Sequence[Work], bits: int) -> tuple[Graph, float, str] | None:
    """A piece of a kernel whose size says that of the whole: one position, and of a large kernel some of its outputs.

    At most so many `bits` enter the piece's adders, unless outputs cannot be left out. Returns (the piece as a graph,
    how many such pieces make up the kernel, words for its part of the outputs); None where no netlist can be made of
    the kernel alone, as its inputs are too wide or it moves codes between positions.
    """
    head = kernel[0].node
    wide = any(source.domain.bits > MAX_GIVEN for source in kernel[0].sources)
    if wide or any(work.node.traits.wires for work in kernel):
        return None
    outputs = head.shape[-1]
    lanes = spaced(outputs, max(1, bits // terms(kernel[0])) if _separable(kernel) else outputs)
    what = "all of it" if len(lanes) == outputs else f"{len(lanes)} of {outputs} outputs"
    graph = at_one_position([work.node for work in kernel], kernel[0].sources, outputs=lanes)
    return graph, prod(head.shape[:-1]) * outputs / len(lanes), what


def _separable(kernel: Sequence[Work]) -> bool:
    """True where a kernel can be made with some of its outputs: they share all inputs, and nothing reads an ARGMAX."""
    grouped = isinstance(kernel[0].node.params, Weights) and kernel[0].node.params.groups > 1
    # What reads the result of an ARGMAX has a table of all classes.
    return not grouped and not any(work.node.op is Op.ARGMAX for work in kernel[:-1])


def terms(work: Work) -> int:
    """Bits that enter the adders of an output."""
    params, width = work.node.params, work.sources[0].domain.bits
    if isinstance(params, Weights):
        return max(1, ceil(np.count_nonzero(params.effective) * width / work.node.shape[-1]))
    return width * (min(params.thresholds.shape[1], MANY) if isinstance(params, Steps) else 1) or 1


def spaced(count: int, most: int) -> list[int]:
    """At most so many of 0..count-1, evenly spaced."""
    return [k * count // min(count, most) for k in range(min(count, most))]

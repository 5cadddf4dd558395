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
from bnnflow.backends.netlist.counts import Count, netlist_counts
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.netlist.schedule import REGISTER_DELAY
from bnnflow.estimates.costs import Cost, Costs, Work, table_cost
from bnnflow.ir import Affine, Graph, Node, Op, Steps, Table, Weights, Window
from bnnflow.ir.nodes import Params
from bnnflow.ir.verify import RULES

__all__ = ["SOURCE", "USABLE", "counted_cost", "piece", "spaced", "terms", "timing"]

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
        return _alone(kernel, config.clock_period * USABLE) if asked else table_cost(kernel)

    return cost


def timing(graph: Graph, config: BuildConfig) -> tuple[int, float]:
    """(cycles, 0 without registers; ns of the longest path, on UltraScale+ before placement) of a Verilog project."""
    counts, latency = _whole(graph, config)
    return latency, max(count.ns for count in counts.values()) + REGISTER_DELAY * config.pipelined


def _whole(graph: Graph, config: BuildConfig) -> tuple[dict[str, Count], int]:
    return _counted(graph, config.clock_period if config.pipelined else None)


@lru_cache(maxsize=2)  # an estimate reads it several times
def _counted(graph: Graph, clock_period: float | None) -> tuple[dict[str, Count], int]:
    return netlist_counts(to_logic(graph), clock_period)


def _parts(graph: Graph, config: BuildConfig) -> Costs:
    """The costs of kernels in the netlist of all."""
    counts, latency = _whole(graph, config)
    stage: dict[str, int] = {}  # in which the codes of a node are there; wires have none of their own
    owner: dict[str, str] = {}  # the kernel that has a node's gates: registers of inputs are the first reader's
    for node in graph:
        stage[node.name] = max([counts[node.name].stage, *(stage[name] for name in node.inputs)])
    for nodes, _ in config.target.kernels(graph, config):
        waiting = [node.name for node in nodes if node.op is not Op.INPUT]
        while waiting:
            name = waiting.pop()
            if name in graph.by_name and owner.setdefault(name, nodes[-1].name) == nodes[-1].name:
                waiting += [source for source in graph[name].inputs
                            if source not in owner and graph[source].op in (Op.INPUT, Op.WINDOW)]
    ends = set(graph.by_name).difference(*(node.inputs for node in graph))

    def cost(kernel: Sequence[Work]) -> Cost:
        last, names = kernel[-1].node.name, {work.node.name for work in kernel}
        mine = [count for name, count in counts.items() if owner.get(name) == last]
        begins = max(stage[source.name] for work in kernel for source in work.sources if source.name not in names)
        there = latency if last in ends else stage.get(last, begins)  # a join of inputs is wires, not in the graph
        return _netlist(kernel, mine, there - begins)

    return cost


def _alone(kernel: Sequence[Work], clock_period: float) -> Cost:
    """The cost of a kernel that is a netlist by itself."""
    found = piece(kernel, BITS)
    if found is None:
        return table_cost(kernel)
    graph, share, what = found
    counts, latency = netlist_counts(to_logic(graph), clock_period)
    return replace(_netlist(kernel, counts.values(), latency, share), notes=(f"counted: {what}",))


def _netlist(kernel: Sequence[Work], counts: Collection[Count], cycles: int, share: float = 1.0) -> Cost:
    """The cost of a kernel of which `counts` are there `share` times."""
    return replace(table_cost(kernel), lut=share * sum(count.lut for count in counts),
                   ff=share * sum(count.ff for count in counts), dsp=0, bram=0, cycles=cycles, source=SOURCE)


def piece(kernel: Sequence[Work], bits: int) -> tuple[Graph, float, str] | None:
    """(one position of a kernel as a graph, how often it is there, what it has of the outputs).

    At most so many `bits` enter the adders, if outputs can be left out; None where no graph can begin with its inputs.
    """
    wide = any(source.domain.bits > MAX_GIVEN for source in kernel[0].sources)
    if wide or any(work.node.op in (Op.GATHER, Op.WINDOW) for work in kernel):
        return None
    outputs = kernel[0].node.shape[-1]
    grouped = isinstance(kernel[0].node.params, Weights) and kernel[0].node.params.groups > 1
    # What reads a class has a table of all of them.
    whole = grouped or any(work.node.op is Op.ARGMAX for work in kernel[:-1])
    lanes = spaced(outputs, outputs if whole else max(1, bits // terms(kernel[0])))
    what = "all of it" if len(lanes) == outputs else f"{len(lanes)} of {outputs} outputs"
    return _position(kernel, lanes), prod(kernel[0].node.shape[:-1]) * outputs / len(lanes), what


def terms(work: Work) -> int:
    """Bits that enter the adders of an output."""
    params, width = work.node.params, work.sources[0].domain.bits
    if isinstance(params, Weights):
        return max(1, ceil(np.count_nonzero(params.effective) * width / work.node.shape[-1]))
    return width * (params.thresholds.shape[1] if isinstance(params, Steps) else 1) or 1


def spaced(count: int, most: int) -> list[int]:
    """At most so many of 0..count-1, evenly spaced."""
    return [k * count // min(count, most) for k in range(min(count, most))]


def _position(kernel: Sequence[Work], lanes: Sequence[int]) -> Graph:
    """One position of a kernel as a graph, with only the outputs `lanes`."""
    nodes: list[Node] = []
    head = kernel[0].node
    for k, source in enumerate(kernel[0].sources):
        window = source.params
        if isinstance(window, Window) and head.op in (Op.DOT, Op.MAX):  # an image as large as the window
            size = tuple((n - 1) * d + 1 for n, d in zip(window.kernel, window.dilation))
            channels = source.shape[-1] // window.taps
            if head.op is Op.MAX:
                channels = len(lanes)
            groups = channels if head.op is Op.MAX else window.groups
            one = Window(window.kernel, (1,) * len(size), window.dilation, ((0, 0),) * len(size), groups, size)
            image = Node(f"x{k}", Op.INPUT, (), (*size, channels), source.domain)
            nodes += [image, replace(source, name=f"w{k}", inputs=(image.name,), params=one,
                                     shape=(*(1 for _ in size), channels * window.taps))]
        else:
            taken = source.shape[-1] if head.op in (Op.DOT, Op.ARGMAX) else len(lanes)
            nodes.append(Node(f"x{k}", Op.INPUT, (), (taken,), source.domain))
    last = [node for node in nodes if node.op is Op.WINDOW] or nodes
    for place, work in enumerate(kernel):
        reads = tuple(node.name for node in last)
        rows = lanes if work.node.shape[-1] == head.shape[-1] else [0]  # behind an ARGMAX there is one
        node = replace(work.node, name=f"n{place}", inputs=reads, params=_taken(work.node, rows))
        shape, domain = RULES[node.op](node, last)
        node = replace(node, shape=shape, domain=domain)
        nodes.append(node)
        last, lanes = [node], lanes if node.op is not Op.ARGMAX else [0]
    return Graph(tuple(nodes), (nodes[-1].name,))


def _taken(node: Node, lanes: Sequence[int]) -> Params:
    """The parameters of some outputs."""
    p, rows = node.params, np.asarray(lanes)
    if isinstance(p, Weights):
        return Weights(p.levels[:, rows], p.mask[:, rows], p.groups)
    if isinstance(p, Steps):
        return Steps(p.start[rows], p.sign[rows], p.thresholds[rows])
    if isinstance(p, Table):
        return p if len(p.codes) == 1 else Table(p.codes[rows])
    return Affine(p.mul[rows], p.add[rows], p.shift) if isinstance(p, Affine) else p

"""Costs of kernels by logic synthesis, each alone: what a table can only count.

C++: the cell of a kernel as `backends.cells` writes it, with its constants where it is unrolled, or one lane of it with
the ROM's words as inputs where it is folded; ROMs, multiplexers and buffers by the table. Verilog: its own netlist.
Large kernels are sampled: some of their outputs, evenly spaced, and the rest in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

from flow.backends.cells import CELLS, SHARED, cell_verilog
from flow.backends.emission import Emission
from flow.backends.hls_ops import EMIT_HLS
from flow.backends.logic import to_logic
from flow.backends.project import BuildConfig
from flow.backends.rtl import to_rtl
from flow.backends.units import ASKED
from flow.backends.yosys import Size, synthesize
from flow.ir import Affine, Graph, Node, Op, Steps, Table, Weights, Window
from flow.ir.graph import Params
from flow.ir.verify import RULES
from flow.reports.costs import Cost, Costs, Work, folding, netlist_cost, table_cost
from flow.reports.parts import UNKNOWN, part_of

__all__ = ["synthesized_cost"]

BITS = 2**12  # that enter the adders of one synthesis, of a netlist BITS * 4
FAMILY = "xcup"  # of parts that are not known


def synthesized_cost(config: BuildConfig) -> Costs:
    """The cost of kernels of the project that `config` would make, for the family of its part.

    Results are kept, so that the same kernel costs nothing again. Raises ToolError where yosys is missing or fails.
    """
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    maker = _Synthesis(family.yosys or FAMILY, family.lut_factor, config.clock_period if config.pipelined else None)

    def cost(kernel: Sequence[Work]) -> Cost:
        netlist = config.backend == "Verilog" or config.strategy_of(kernel[0].node.name) == ASKED
        return (maker.netlist if netlist else maker.kernel)(kernel)

    return cost


@dataclass(frozen=True)
class _Synthesis:
    """For a family of yosys, with `factor` of its LUTs for one of six inputs, and a clock period in ns (or none)."""

    family: str
    factor: float
    clock_period: float | None

    # --- kernels in C++ -----------------------------------------------------------------------------------------------

    def kernel(self, kernel: Sequence[Work]) -> Cost:
        """The cost of a kernel: nodes that are adders and comparisons are synthesised, the rest is of the table."""
        found = sum((self._node(work) for work in kernel), Cost())
        return found if found.synthesized else table_cost(kernel)

    def _node(self, work: Work) -> Cost:
        table, emission = table_cost([work]), _emission(work)
        if emission is None or emission.kernel not in CELLS:
            return replace(table, lut=self.factor * table.lut, packed=self.factor * table.lut)
        folded = work.there.passes > 1
        rows = len(work.node.params.start) if isinstance(work.node.params, Steps) else work.node.shape[-1]
        lanes = _spaced(rows, 1 if folded or emission.kernel in ("flow_add", "flow_scale", "flow_max") else
                        max(1, BITS // _terms(work)))
        sampled = len(lanes) < rows
        common = Size("", "", {}, 0, 0, 0, 0, 0, 0, 0)
        if emission.kernel in SHARED and sampled:
            common = self._size(work, emission, [], folded, True)
        found = self._size(work, emission, lanes, folded, sampled and emission.kernel in SHARED)
        outputs = work.there.lanes(work.node)

        def whole(every: int, some: int) -> float:
            """Of all that is there, from that of the common part and that of it and the lanes."""
            return work.there.positions * (every + (some - every) * outputs / len(lanes))

        loop = folding(work)
        rest = loop.lut * self.factor
        packed = whole(common.packed or 0, found.packed) if found.packed is not None else whole(common.raw, found.raw)
        what = f"{len(lanes)} of {rows} outputs" if sampled and not folded else "a processing element" if folded else (
            "all of it")
        return replace(table, lut=rest + whole(common.raw, found.raw), packed=rest + packed,
                       carry=whole(common.carry, found.carry), tool=found.tool,
                       synthesized=(f"{work.node.name}: LUTs by yosys, {what}",))

    def _size(self, work: Work, emission: Emission, lanes: Sequence[int], folded: bool, shared: bool) -> Size:
        text = cell_verilog(emission, [s.domain for s in work.sources], work.node.domain.bits, lanes, folded, shared)
        return synthesize({"cell.v": text}, "cell", self.family)

    # --- netlists -----------------------------------------------------------------------------------------------------

    def netlist(self, kernel: Sequence[Work]) -> Cost:
        """The cost of a kernel whose nodes are a chain in a netlist of ours, one position of it synthesised."""
        table = netlist_cost(kernel)
        # A graph's own inputs have at most 24 bits.
        wide = any(source.domain.bits > 24 for source in kernel[0].sources)
        if wide or any(work.node.op in (Op.GATHER, Op.WINDOW) for work in kernel):
            return table
        outputs = kernel[0].node.shape[-1]
        grouped = isinstance(kernel[0].node.params, Weights) and kernel[0].node.params.groups > 1
        # What reads a class has a table of all of them.
        whole = grouped or any(work.node.op is Op.ARGMAX for work in kernel[:-1])
        lanes = _spaced(outputs, outputs if whole else max(1, 4 * BITS // _terms(kernel[0])))
        rtl = to_rtl(to_logic(_alone(kernel, lanes)), "cell", self.clock_period)
        size = synthesize({name: rtl.files[name] for name in rtl.sources}, "cell", self.family)
        share = prod(kernel[0].node.shape[:-1]) * outputs / len(lanes)
        what = "all of it" if len(lanes) == outputs else f"{len(lanes)} of {outputs} outputs"
        names = ", ".join(work.node.name for work in kernel)
        return replace(table, lut=size.raw * share, ff=size.ff * share, carry=size.carry * share, cycles=rtl.latency,
                       packed=(size.raw if size.packed is None else size.packed) * share, tool=size.tool,
                       synthesized=(f"{names}: LUTs and FFs by yosys, {what}",))


def _emission(work: Work) -> Emission | None:
    """The kernel of a node; that of a position for sums and maxima."""
    emit = EMIT_HLS[work.node.op]
    if emit is None or work.node.op in (Op.GATHER, Op.WINDOW):
        return None
    found = emit(work.node, list(work.sources))[0]
    found = found.cell[0].emission if found.cell else found
    # Values of each output in words of a ROM are multiplied with.
    return None if work.there.passes > 1 and int(found.members.get("n_gain", 1)) > 1 else found


def _terms(work: Work) -> int:
    """Bits that enter the adders of an output."""
    params, width = work.node.params, work.sources[0].domain.bits
    if isinstance(params, Weights):
        return max(1, ceil(np.count_nonzero(params.effective) * width / work.node.shape[-1]))
    return width * (params.cuts.shape[1] if isinstance(params, Steps) else 1) or 1


def _spaced(count: int, most: int) -> list[int]:
    """At most so many of 0..count-1, evenly spaced."""
    return [k * count // min(count, most) for k in range(min(count, most))]


def _alone(kernel: Sequence[Work], lanes: Sequence[int]) -> Graph:
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
        return Steps(p.start[rows], p.sign[rows], p.cuts[rows])
    if isinstance(p, Table):
        return p if len(p.codes) == 1 else Table(p.codes[rows])
    return Affine(p.mul[rows], p.add[rows], p.shift) if isinstance(p, Affine) else p

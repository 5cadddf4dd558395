"""Costs of kernels by logic synthesis, each alone: what a table can only count.

C++: the cell of a kernel as `backends.cells` writes it, with its constants where it is unrolled, or one lane of it with
the ROM's words as inputs where it is folded; ROMs, multiplexers and buffers by the table. Verilog: its own netlist.
Large kernels are sampled: some of their outputs, evenly spaced, and the rest in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.fusion import ASKED
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.backends.hls.ops import EMIT_HLS
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.verilog import to_verilog
from bnnflow.devices.parts import UNKNOWN, part_of
from bnnflow.estimates.costs import Cost, Costs, Work, loop_overhead, table_cost
from bnnflow.estimates.kernel_models import KERNEL_MODELS, SHARED, kernel_model
from bnnflow.estimates.netlists import counted_cost, piece, spaced, terms
from bnnflow.ir import Graph, Op, Steps
from bnnflow.toolchains.yosys import Size, synthesize

__all__ = ["synthesized_cost"]

BITS = 2**12  # that enter the adders of one synthesis, of a netlist BITS * 4
FAMILY = "xcup"  # of parts that are not known
SOURCE = "kernel synthesis"


def synthesized_cost(graph: Graph, config: BuildConfig) -> Costs:
    """The cost of kernels of the project that `config` would make of `graph`, for the family of its part.

    Results are kept, so that the same kernel costs nothing again. Raises ToolError where yosys is missing or fails.
    """
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    maker = _Synthesis(family.yosys or FAMILY, family.lut_factor, config.clock_period if config.pipelined else None,
                       counted_cost(graph, config))

    def cost(kernel: Sequence[Work]) -> Cost:
        netlist = config.target.one_netlist or config.strategy_of(kernel[0].node.name) == ASKED
        return (maker.netlist if netlist else maker.kernel)(kernel)

    return cost


@dataclass(frozen=True)
class _Synthesis:
    """For a family of yosys, with `factor` of its LUTs for one of six inputs, and a clock period in ns (or none).

    What it does not say of netlists is `counted`.
    """

    family: str
    factor: float
    clock_period: float | None
    counted: Costs

    # --- kernels in C++ -----------------------------------------------------------------------------------------------

    def kernel(self, kernel: Sequence[Work]) -> Cost:
        """The cost of a kernel: nodes that are adders and comparisons are synthesised, the rest is of the table."""
        found = sum((self._node(work) for work in kernel), Cost())
        return found if found.source else table_cost(kernel)

    def _node(self, work: Work) -> Cost:
        table, call = table_cost([work]), _kernel_call(work)
        if call is None or call.kernel not in KERNEL_MODELS:
            return replace(table, lut=self.factor * table.lut, packed=self.factor * table.lut)
        folded = work.folding.passes > 1
        rows = len(work.node.params.start) if isinstance(work.node.params, Steps) else work.node.shape[-1]
        lanes = spaced(rows, 1 if folded or call.kernel in ("flow_add", "flow_scale", "flow_max") else
                        max(1, BITS // terms(work)))
        sampled = len(lanes) < rows
        common = Size("", "", {}, 0, 0, 0, 0, 0, 0, 0)
        if call.kernel in SHARED and sampled:
            common = self._size(work, call, [], folded, True)
        found = self._size(work, call, lanes, folded, sampled and call.kernel in SHARED)
        outputs = work.folding.lanes(work.node)

        def whole(every: int, some: int) -> float:
            """Of all that is there, from that of the common part and that of it and the lanes."""
            return work.folding.positions * (every + (some - every) * outputs / len(lanes))

        loop = loop_overhead(work)
        rest = loop.lut * self.factor
        packed = whole(common.packed or 0, found.packed) if found.packed is not None else whole(common.raw, found.raw)
        what = f"{len(lanes)} of {rows} outputs" if sampled and not folded else "a processing element" if folded else (
            "all of it")
        return replace(table, lut=rest + whole(common.raw, found.raw), packed=rest + packed,
                       carry=whole(common.carry, found.carry), source=SOURCE, version=found.tool,
                       notes=(f"{work.node.name}: LUTs by yosys, {what}",))

    def _size(self, work: Work, call: KernelCall, lanes: Sequence[int], folded: bool, shared: bool) -> Size:
        text = kernel_model(call, [s.domain for s in work.sources], work.node.domain.bits, lanes, folded, shared)
        return synthesize({"cell.v": text}, "cell", self.family)

    # --- netlists -----------------------------------------------------------------------------------------------------

    def netlist(self, kernel: Sequence[Work]) -> Cost:
        """The cost of a kernel whose nodes are a chain in a netlist of ours, one position of it synthesised."""
        counted, found = self.counted(kernel), piece(kernel, 4 * BITS)
        if found is None:
            return counted
        graph, share, what = found
        rtl = to_verilog(to_logic(graph), "cell", self.clock_period)
        size = synthesize({name: rtl.files[name] for name in rtl.sources}, "cell", self.family)
        names = ", ".join(work.node.name for work in kernel)
        return replace(counted, lut=size.raw * share, ff=size.ff * share, carry=size.carry * share, cycles=rtl.latency,
                       packed=(size.raw if size.packed is None else size.packed) * share, source=SOURCE,
                       version=size.tool, notes=(f"{names}: LUTs and FFs by yosys, {what}",))


def _kernel_call(work: Work) -> KernelCall | None:
    """The kernel of a node; that of a position for sums and maxima."""
    emit = EMIT_HLS[work.node.op]
    if emit is None or work.node.op in (Op.GATHER, Op.WINDOW):
        return None
    found = emit(work.node, list(work.sources))[0]
    found = found.fused[0].call if found.fused else found
    # Values of each output in words of a ROM are multiplied with.
    return None if work.folding.passes > 1 and int(found.members.get("n_gain", 1)) > 1 else found

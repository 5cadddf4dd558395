"""Costs of kernels by logic synthesis, each alone: what a table can only count.

Of a kernel in C++ its model (`kernel_models`) is synthesised: with its constants where it is unrolled, one lane with
the ROM's words as inputs where it is folded. ROMs and buffers stay those of the table. Of a kernel in Verilog its own
netlist is synthesised. Large kernels are sampled: some of their outputs, evenly spaced, stand for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.cycles import Sizes
from bnnflow.backends.hls.folding import Folding
from bnnflow.backends.hls.fusion import ASKED
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.backends.hls.ops import EMIT_HLS
from bnnflow.backends.netlist.goals import Goal
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.verilog import to_verilog
from bnnflow.devices.parts import UNKNOWN, part_of
from bnnflow.estimates.costs import Cost, Costs, Work, parameter_cost, table_cost
from bnnflow.estimates.kernel_models import KERNEL_MODELS, SHARED, kernel_model
from bnnflow.estimates.netlists import counted_cost, piece, spaced, terms
from bnnflow.ir import Graph
from bnnflow.toolchains.yosys import Size, synthesize

__all__ = ["synthesized_cost"]

BITS = 2**12  # that enter the adders of one synthesis, of a netlist BITS * 4
FAMILY = "xcup"  # of parts that are not known
SOURCE = "kernel synthesis"
ALIKE = ("flow_add", "flow_scale", "flow_max")  # kernels whose lanes are all the same: one of them is enough
NOTHING = Size("", "", {}, 0, 0, 0, 0, 0, 0, 0)


def synthesized_cost(graph: Graph, config: BuildConfig) -> Costs:
    """The cost of kernels of the project that `config` would make of `graph`, for the family of its part.

    Results are kept, so that the same kernel costs nothing again. Raises ToolError where yosys is missing or fails.
    """
    part = part_of(config.part)
    family = part.family if part else UNKNOWN
    maker = _Synthesis(family.yosys or FAMILY, family.lut_factor, config.period if config.pipelined else None,
                       counted_cost(graph, config), config.netlist_of)

    def cost(kernel: Sequence[Work]) -> Cost:
        netlist = config.target.one_netlist or config.strategy_of(kernel[0].node.name) == ASKED
        return (maker.netlist if netlist else maker.kernel)(kernel)

    return cost


@dataclass(frozen=True)
class _Synthesis:
    """Costs by synthesis for a `family` of yosys, which has `factor` LUTs where there would be one of six inputs.

    `clock_period` is in ns, None without registers. What synthesis does not say of a netlist is taken from `counted`.
    `goal` says what a node's netlist is to be best at.
    """

    family: str
    factor: float
    clock_period: float | None
    counted: Costs
    goal: Callable[[str], Goal]

    # --- kernels in C++ -----------------------------------------------------------------------------------------------

    def kernel(self, kernel: Sequence[Work]) -> Cost:
        """The cost of a kernel: nodes that add or compare are synthesised, all others are of the table."""
        found = sum((self._node(work) for work in kernel), Cost())
        return found if found.source else table_cost(kernel)

    def _node(self, work: Work) -> Cost:
        table, call = table_cost([work]), _kernel_call(work)
        if call is None or call.kernel not in KERNEL_MODELS:
            return replace(table, lut=self.factor * table.lut, packed=self.factor * table.lut)
        f, rows = work.folding, work.node.shape[-1]
        folded = f.folds > 1
        lanes = spaced(rows, 1 if folded or call.kernel in ALIKE else max(1, BITS // terms(work)))
        shared = call.kernel in SHARED and (folded or len(lanes) < rows)
        common = self._size(work, call, [], True) if shared else NOTHING
        found = self._size(work, call, lanes, shared)
        groups = Sizes(call.members).groups if folded and shared else 1

        def whole(common: int, sample: int) -> float:
            """The kernel's count, from that of what all lanes share and that of the sample, which has it too."""
            return f.at_once * (groups * common + (sample - common) * (f.pe if folded else rows) / len(lanes))

        rest = parameter_cost(work).lut * self.factor
        packed = whole(common.raw, found.raw) if found.packed is None else whole(common.packed or 0, found.packed)
        return replace(table, lut=rest + whole(common.raw, found.raw), packed=rest + packed,
                       carry=whole(common.carry, found.carry), source=SOURCE, version=found.tool,
                       notes=(f"{work.node.name}: LUTs by yosys, {_sample(len(lanes), rows, folded)}",))

    def _size(self, work: Work, call: KernelCall, lanes: Sequence[int], shared: bool) -> Size:
        text = kernel_model(call, [s.domain for s in work.sources], work.node.domain.bits, lanes, shared)
        return synthesize({"cell.v": text}, "cell", self.family)

    # --- netlists -----------------------------------------------------------------------------------------------------

    def netlist(self, kernel: Sequence[Work]) -> Cost:
        """The cost of a kernel that is a netlist of ours: one position of it is synthesised."""
        counted, found = self.counted(kernel), piece(kernel, 4 * BITS)
        if found is None:
            return counted
        graph, share, what = found
        rtl = to_verilog(to_logic(graph, goals=self.goal(kernel[0].node.name)), "cell", self.clock_period)
        size = synthesize({name: rtl.files[name] for name in rtl.sources}, "cell", self.family)
        names = ", ".join(work.node.name for work in kernel)
        return replace(counted, lut=size.raw * share, ff=size.ff * share, carry=size.carry * share, cycles=rtl.latency,
                       packed=(size.raw if size.packed is None else size.packed) * share, source=SOURCE,
                       version=size.tool, notes=(f"{names}: LUTs and FFs by yosys, {what}",))


def _sample(lanes: int, rows: int, folded: bool) -> str:
    """Words for what was synthesised."""
    if folded:
        return "a processing element"
    return f"{lanes} of {rows} outputs" if lanes < rows else "all of it"


def _kernel_call(work: Work) -> KernelCall | None:
    """The kernel of a node at a position, in its passes; None where the table knows enough, or there is no model."""
    node, emit, f = work.node, EMIT_HLS[work.node.op], work.folding
    if emit is None or node.traits.wires:
        return None
    if node.traits.taps:
        found = emit(node, list(work.sources), f).fused[0].call
        # Folded outputs that each have values of their own multiply with words of a ROM, which no model does.
        return None if found.members.get("n_row", 1) > 1 else found
    sources = [replace(source, shape=source.shape[-1:]) for source in work.sources]
    return emit(replace(node, shape=node.shape[-1:]), sources, Folding()).of_pass(f.folds)

"""What the hardware of a node costs, by a table: from the bits that enter adders, comparators and ROMs.

One constant, that of adders, was measured with yosys. Nothing here has been measured with a vendor's tool yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import ceil, log2, prod

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.netlist.bit_heap import signed_digits
from bnnflow.ir import Affine, Node, Op, Steps, Sum, Table, Weights
from bnnflow.ir.nodes import Int

__all__ = ["COST", "Cost", "Costs", "Folding", "Work", "loop_overhead", "rom", "table_cost"]

# LUTs for each bit that enters an adder. Measured on a ternary layer written as `+` (yosys, UltraScale+): its adders
# take 2,486 bits and 3,443 LUTs, of which 150 are those of its thresholds.
LUT_PER_BIT = 1.32


@dataclass(frozen=True)
class Cost:
    """The hardware of a node or a kernel, and its latency. Costs of nodes in a row add up to that of the kernel.

    `lut`, `ff`, `dsp` count the device's units, `bram` blocks of 18 Kbit, `weight_bits` the bits of constants.
    `levels` are levels of logic from input to output. `cycles` is the latency in clock cycles where it is known, and
    then `ff` counts all flip-flops; else it is None, and both follow from `levels`.

    `source` is that of `Facts` where the LUTs were counted in a netlist or by logic synthesis, and empty where they are
    those of the table; `version` is that of the tool, and `notes` has a line a node on what was counted. Only
    logic synthesis says `packed`, the LUTs with small ones in pairs, and `carry`, the carry blocks.
    """

    lut: float = 0
    ff: float = 0
    dsp: int = 0
    bram: int = 0
    levels: float = 0
    weight_bits: int = 0
    packed: float = 0
    carry: float = 0
    cycles: int | None = None
    notes: tuple[str, ...] = ()
    source: str = ""
    version: str = ""

    def __add__(self, other: Cost) -> Cost:
        kinds = [f.name for f in fields(self) if f.name not in ("cycles", "source", "version")]
        known = [cost.cycles for cost in (self, other) if cost.cycles is not None]
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in kinds},
                    cycles=sum(known) if known else None, source=self.source or other.source,
                    version=self.version or other.version)


@dataclass(frozen=True)
class Folding:
    """How far a node is unrolled, and how often its hardware is used again for one input of the network.

    The hardware computes `positions` positions of the image at the same time. It needs `passes` passes for all outputs
    (channels) of a position, and then takes the next positions, `turns` times in all. A node that is unrolled
    completely has one pass and one turn.
    """

    positions: int
    passes: int = 1
    turns: int = 1

    def lanes(self, node: Node) -> float:
        """Outputs of a position that are computed at the same time; a mean where they do not divide evenly."""
        return max(1.0, node.shape[-1] / self.passes)


@dataclass(frozen=True)
class Work:
    """A node of a kernel, the nodes that it reads, and how it is folded."""

    node: Node
    sources: tuple[Node, ...]
    folding: Folding


Costs = Callable[[Sequence[Work]], Cost]  # the cost of a kernel, from its nodes in order of evaluation


# --- the table: the cost of a node, from its first source -----------------------------------------------------------


def _wires(node: Node, source: Node, folding: Folding) -> Cost:
    """Nodes that only move codes cost nothing."""
    return Cost()


def _dot(node: Node, source: Node, folding: Folding) -> Cost:
    """Sums. Taps of one bit are counted by a popcount; wider codes are added once for every signed digit of a level."""
    weights = node.params
    assert isinstance(weights, Weights)
    levels, domain = weights.effective, source.domain
    counts = _counts(levels)
    level_bits = _level_bits(counts)
    one_bit = domain.lo >= 0 and domain.hi <= 1
    if folding.passes > 1:  # weights come from a ROM: every tap has an adder, and what applies its weight
        each = len(levels) * (1 + LUT_PER_BIT if one_bit else (domain.bits + 1) * max(1, level_bits - 1))
        lut = folding.positions * folding.lanes(node) * each
    else:
        lut = folding.positions * float(_adders(levels, counts, domain.bits, one_bit).sum())
    return Cost(lut, levels=1 + log2(max(2, weights.l1_bound)), weight_bits=weights.mask.size * level_bits)


def _counts(levels: Int) -> Int:
    """How often each level occurs, from the lowest to the highest. Levels are small, and sorting them all is slow."""
    counts: Int = np.bincount((levels - levels.min()).ravel())
    return counts


def _level_bits(counts: Int) -> int:
    """Bits that tell one level from the others."""
    return max(1, int(np.count_nonzero(counts) - 1).bit_length())


def _adders(levels: Int, counts: Int, width: int, one_bit: bool) -> NDArray[np.float64]:
    """LUTs of the adders of every output, for codes of `width` bits; `counts` are those of `levels`."""
    lowest = int(levels.min())
    kinds = np.flatnonzero(counts) + lowest
    gain = int(np.gcd.reduce(np.abs(kinds))) or 1  # a factor of all levels is multiplied with in the end, by wires
    digits = np.zeros(len(counts), np.int64)
    digits[kinds - lowest] = [_digits(int(kind) // gain) for kind in kinds]
    entering = digits[levels - lowest].sum(axis=0).astype(np.float64)
    if not one_bit:
        bits: NDArray[np.float64] = np.maximum(entering - 1, 0) * (width + np.log2(np.maximum(entering, 1)) / 2)
        return bits
    if len(kinds) == 2 and digits.max() > 1:
        # Two levels: all taps are counted once for all outputs, and those with the rarer level for each.
        second = (levels == kinds[0]).sum(axis=0)
        fewer = np.minimum(second, len(levels) - second) + len(levels) / levels.shape[1]
        entering = np.minimum(entering, fewer)
    lut: NDArray[np.float64] = LUT_PER_BIT * entering
    return lut


def _digits(value: int) -> int:
    """How many powers of two are added or subtracted to multiply with a value."""
    return len(signed_digits(value))


def _add(node: Node, source: Node, folding: Folding) -> Cost:
    """One adder less than there are terms: the signed digits of the scales, and the constant where it is not 0."""
    total = node.params
    assert isinstance(total, Sum)
    digits = sum(_digits(int(scale)) for scale in total.scale) - (total.constant == 0)
    return Cost(folding.positions * node.shape[-1] / folding.passes * digits * node.domain.bits, levels=2)


def _max(node: Node, source: Node, folding: Folding) -> Cost:
    """An OR or AND of bits; of other codes a comparator and a multiplexer for every tap but the first."""
    taps = source.shape[-1] // node.shape[-1]
    each = ceil((taps - 1) / 5) if source.domain.size == 2 else (taps - 1) * 1.5 * source.domain.bits
    return Cost(folding.positions * node.shape[-1] / folding.passes * each, levels=2 * log2(max(2, taps)))


def _step(node: Node, source: Node, folding: Folding) -> Cost:
    """A comparator for every threshold that the input can reach; where a channel has several, their bits are added."""
    steps = node.params
    assert isinstance(steps, Steps)
    reached = int(((steps.thresholds > source.domain.lo) & (steps.thresholds <= source.domain.hi)).sum())
    width = source.domain.bits
    each = ceil(width / 2) + 1 if folding.passes > 1 else max(1, ceil((width - 1) / 5))
    places = prod(node.shape) // max(1, len(steps.start)) * folding.positions / max(1, prod(node.shape[:-1]))
    counted = max(0, reached - len(steps.start))
    lut = places * (reached * each + LUT_PER_BIT * counted) / folding.passes
    return Cost(lut, levels=1 + (steps.thresholds.shape[1] > 1) * log2(max(2, steps.thresholds.shape[1])),
                weight_bits=steps.thresholds.size * width)


def _lut(node: Node, source: Node, folding: Folding) -> Cost:
    """A ROM for every element."""
    table = node.params
    assert isinstance(table, Table)
    lut, bram = rom(node.domain.bits, table.codes.shape[1])
    each = folding.positions * node.shape[-1] / folding.passes
    return Cost(lut * each, bram=ceil(bram * each), levels=2, weight_bits=table.codes.size * node.domain.bits)


def _affine(node: Node, source: Node, folding: Folding) -> Cost:
    """A product, in DSPs of 27x18 bits, and an adder for every element."""
    affine = node.params
    assert isinstance(affine, Affine)
    width = int(np.abs(affine.mul).max(initial=1)).bit_length() + 1
    each = folding.positions * node.shape[-1] / folding.passes
    products = ceil(source.domain.bits / 26) * ceil(width / 17)
    return Cost(each * node.domain.bits, dsp=ceil(each * products), levels=6,
                weight_bits=node.shape[-1] * (width + 32))


def _argmax(node: Node, source: Node, folding: Folding) -> Cost:
    """For every channel but the first a comparator, and multiplexers of the value and its place."""
    others, place = source.shape[-1] - 1, node.domain.bits
    each = others * (1.5 * source.domain.bits + place / 2)
    return Cost(folding.positions * each / folding.passes, levels=2 * log2(max(2, others + 1)))


COST: dict[Op, Callable[[Node, Node, Folding], Cost]] = {
    Op.INPUT: _wires, Op.GATHER: _wires, Op.WINDOW: _wires, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


def rom(width: int, depth: int) -> tuple[float, int]:
    """(LUTs, blocks of 18 Kbit) of a ROM of `depth` words of `width` bits: LUTs of 64 bits where it is shallow."""
    return (width * ceil(depth / 64), 0) if depth <= 128 else (0, ceil(width / 36) * ceil(depth / 512))


# --- kernels --------------------------------------------------------------------------------------------------------


def table_cost(kernel: Sequence[Work]) -> Cost:
    """The cost of a kernel, in LUTs of six inputs."""
    return sum((_of_table(work) for work in kernel), Cost())


def _of_table(work: Work) -> Cost:
    return COST[work.node.op](work.node, work.sources[0], work.folding) + loop_overhead(work)


def loop_overhead(work: Work) -> Cost:
    """What a folded node needs beside the hardware of one pass: multiplexers of what it reads, a ROM of parameters."""
    return Cost(_multiplexers(work)) + _parameter_rom(work)


def _multiplexers(work: Work) -> float:
    """LUTs that bring the hardware its codes, pass for pass: one chooses from four bits."""
    folding, traits = work.folding, work.node.traits
    # All outputs of a position read the same taps, so that the passes of a sum or maximum need none.
    uses = folding.turns if traits.taps else folding.turns * folding.passes if traits.pixelwise else 1
    bits = sum(source.shape[-1] * source.domain.bits for source in work.sources)
    return folding.positions * folding.turns * bits / 4 if uses > 1 else 0.0


def _parameter_rom(work: Work) -> Cost:
    """The ROM with the weights or thresholds of every pass; parameters of a single pass are wired in."""
    node, folding, width = work.node, work.folding, 0
    if folding.passes == 1:
        return Cost()
    if isinstance(node.params, Weights):
        width = len(node.params.levels) * _level_bits(_counts(node.params.effective))
    elif isinstance(node.params, Steps):
        width = node.params.thresholds.shape[1] * work.sources[0].domain.bits
    lut, bram = rom(ceil(folding.lanes(node) * width), folding.passes)
    return Cost(lut, bram=bram)

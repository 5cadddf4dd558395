"""What a node costs, by a table: bits that enter adders, comparators, bits of ROM.

The one measured constant is that of adders, by yosys; nothing here has been measured with a vendor's tool yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import ceil, log2, prod

import numpy as np
from numpy.typing import NDArray

from bnnflow.ir import Affine, Node, Op, Steps, Sum, Table, Weights
from bnnflow.ir.nodes import Int

__all__ = ["COST", "Cost", "Costs", "Hardware", "Work", "folding", "rom", "table_cost"]

# LUTs for each bit that enters an adder: 3,443 for the 2,486 bits of a ternary layer, its thresholds' 150 aside (yosys,
# `+` chains, UltraScale+).
LUT_PER_BIT = 1.32


@dataclass(frozen=True)
class Cost:
    """LUTs, flip-flops, DSPs and blocks of 18 Kbit, `levels` of logic from input to output, bits of constants.

    Where a netlist or logic synthesis said the LUTs, `source` is that of `Facts`, `version` the tool's, `notes` a line
    for each node on what it was given; of synthesis, `packed` is the estimate with small LUTs in pairs, `carry` the
    carry blocks. `cycles` is the latency where it is known (then `ff` are all flip-flops), else that of the levels.
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
class Hardware:
    """How much of a node is there at once: `positions` of its image, each of its outputs in `passes` turns.

    `turns`: how often other positions take the place of those.
    """

    positions: int
    passes: int = 1
    turns: int = 1

    def lanes(self, node: Node) -> float:
        """Outputs of a position that are made at once."""
        return max(1.0, node.shape[-1] / self.passes)


@dataclass(frozen=True)
class Work:
    """A node of a kernel, what it reads, and how much of it is there at once."""

    node: Node
    sources: tuple[Node, ...]
    there: Hardware


Costs = Callable[[Sequence[Work]], Cost]  # of a kernel: its nodes in a row


def _dot(node: Node, source: Node, there: Hardware) -> Cost:
    """Sums: a popcount takes the bits of its taps; other codes are added digit by digit of their levels."""
    weights = node.params
    assert isinstance(weights, Weights)
    levels, domain = weights.effective, source.domain
    lowest, counts = int(levels.min()), _counted(levels)
    level_bits = _level_bits(counts)
    one_bit = domain.lo >= 0 and domain.hi <= 1
    if there.passes > 1:  # weights come from a ROM: every tap is there, with what chooses it
        each = len(levels) * (1 + LUT_PER_BIT if one_bit else (domain.bits + 1) * max(1, level_bits - 1))
        lut = there.positions * there.lanes(node) * each
    else:
        lut = there.positions * float(_adders(levels, lowest, counts, domain.bits, one_bit).sum())
    return Cost(lut, levels=1 + log2(max(2, weights.l1_bound)), weight_bits=weights.mask.size * level_bits)


def _counted(levels: Int) -> Int:
    """How often every level from the lowest on is there; levels are small, sorting them all is slow."""
    counts: Int = np.bincount((levels - levels.min()).ravel())
    return counts


def _level_bits(counts: Int) -> int:
    """Bits that tell one level from the others."""
    return max(1, int(np.count_nonzero(counts) - 1).bit_length())


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


def rom(width: int, depth: int) -> tuple[float, int]:
    """(LUTs, blocks of 18 Kbit) of a ROM: LUTs of 64 bits where it is shallow."""
    return (width * ceil(depth / 64), 0) if depth <= 128 else (0, ceil(width / 36) * ceil(depth / 512))


def _step(node: Node, source: Node, there: Hardware) -> Cost:
    """Comparators, one a threshold that the input can reach; their bits are counted where there are several."""
    steps = node.params
    assert isinstance(steps, Steps)
    thresholds = int(((steps.thresholds > source.domain.lo) & (steps.thresholds <= source.domain.hi)).sum())
    width = source.domain.bits
    each = ceil(width / 2) + 1 if there.passes > 1 else max(1, ceil((width - 1) / 5))
    places = prod(node.shape) // max(1, len(steps.start)) * there.positions / max(1, prod(node.shape[:-1]))
    counted = max(0, thresholds - len(steps.start))  # of channels with several thresholds
    lut = places * (thresholds * each + LUT_PER_BIT * counted) / there.passes
    return Cost(lut, levels=1 + (steps.thresholds.shape[1] > 1) * log2(max(2, steps.thresholds.shape[1])),
                weight_bits=steps.thresholds.size * width)


def _lut(node: Node, source: Node, there: Hardware) -> Cost:
    table = node.params
    assert isinstance(table, Table)
    lut, bram = rom(node.domain.bits, table.codes.shape[1])
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


def _argmax(node: Node, source: Node, there: Hardware) -> Cost:
    others, place = source.shape[-1] - 1, node.domain.bits
    each = others * (1.5 * source.domain.bits + place / 2)
    return Cost(there.positions * each / there.passes, levels=2 * log2(max(2, others + 1)))


def _wires(node: Node, source: Node, there: Hardware) -> Cost:
    return Cost()


COST: dict[Op, Callable[[Node, Node, Hardware], Cost]] = {
    Op.INPUT: _wires, Op.GATHER: _wires, Op.WINDOW: _wires, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


def folding(work: Work) -> Cost:
    """What a loop adds to one of its passes: the ROM that they read, and the multiplexers that bring each of them its
    codes, four codes a LUT.
    """
    node, there = work.node, work.there
    bits = [source.shape[-1] * source.domain.bits for source in work.sources]
    mux = 0.0
    if node.op in (Op.DOT, Op.MAX):  # whole positions; the outputs of one read the same taps
        mux = there.positions * there.turns * sum(bits) / 4 if there.turns > 1 else 0.0
    elif node.op in (Op.ADD, Op.STEP, Op.LUT, Op.AFFINE, Op.ARGMAX) and there.turns * there.passes > 1:
        mux = there.positions * there.turns * sum(bits) / 4
    if there.passes == 1:
        return Cost(mux)
    width = 0
    if isinstance(node.params, Weights):
        width = len(node.params.levels) * _level_bits(_counted(node.params.effective))
    elif isinstance(node.params, Steps):
        width = node.params.thresholds.shape[1] * work.sources[0].domain.bits
    lut, bram = rom(ceil(there.lanes(node) * width), there.passes)
    return Cost(mux + lut, bram=bram)


def table_cost(kernel: Sequence[Work]) -> Cost:
    """The cost of a kernel, in LUTs of six inputs."""
    return sum((_of_table(work) for work in kernel), Cost())


def _of_table(work: Work) -> Cost:
    return COST[work.node.op](work.node, work.sources[0], work.there) + folding(work)

"""What the hardware of a node costs, by a table: from the bits that enter adders, comparators and ROMs.

Two constants, those of adders, were measured with yosys. Nothing here has been measured with a vendor's tool yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.folding import Folding, groups_of
from bnnflow.backends.hls.kernel_call import WORD, signed_bits
from bnnflow.backends.hls.sums import dot
from bnnflow.backends.hls.types import IntType
from bnnflow.backends.netlist.bit_heap import signed_digits
from bnnflow.ir import Affine, Node, Op, Steps, Sum, Table, Weights
from bnnflow.ir.nodes import Int
from bnnflow.ir.ramps import NO_TIE, Ramps, ramps_of

__all__ = ["COST", "Cost", "Costs", "Work", "follower", "parameter_cost", "ram", "rom", "table_cost"]

# LUTs for each bit that enters an adder. Measured on a ternary layer written as `+` (yosys, UltraScale+): its adders
# take 2,486 bits and 3,443 LUTs, of which 150 are those of its thresholds.
LUT_PER_BIT = 1.32
# The same where weights come from a ROM: LUTs of a full adder, whose three bits are compared with the ROM's, for each
# masked tap, and for each bit of a partial sum. Measured on lanes of 1 to 256 taps (yosys, UltraScale+): 123 LUTs of 64
# taps and a constant, 152 where taps are masked, 138 with the sum of chunks.
FULL_ADDER, MASKED_TAP, PARTIAL_BIT = 2.0, 0.45, 1.6


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
class Work:
    """A node of a kernel, the nodes that it reads, and how it is folded: as the sum or maximum that heads the kernel.

    The hardware makes `folding.pe` outputs of `folding.at_once` positions at the same time; where that takes several
    cycles, constants come from ROMs.
    """

    node: Node
    sources: tuple[Node, ...]
    folding: Folding


def follower(node: Node, known: Mapping[str, Node], folding: Folding) -> Work:
    """A node that is computed behind the sum or maximum with that folding, in its passes."""
    outputs = node.shape[-1]
    passes = 1 if folding.apart else folding.passes
    return Work(node, tuple(known.get(name, node) for name in node.inputs),
                replace(folding, outputs=outputs, taps=1, pe=outputs // passes, simd=1))


Costs = Callable[[Sequence[Work]], Cost]  # the cost of a kernel, from its nodes in order of evaluation


# --- the table: the cost of a node, from its first source -----------------------------------------------------------


def _wires(node: Node, source: Node, folding: Folding) -> Cost:
    """Nodes that only move codes cost nothing."""
    return Cost()


def _dot(node: Node, source: Node, folding: Folding) -> Cost:
    """Sums. Taps of one bit are counted by a popcount; wider codes are added once for every signed digit of a level."""
    if folding.folds > 1:
        return _folded(node, source, folding)
    whole = _unfolded(node, source)
    return replace(whole, lut=folding.at_once * whole.lut)


@lru_cache(maxsize=64)  # a node is looked at for many foldings
def _unfolded(node: Node, source: Node) -> Cost:
    """A sum at one position whose weights are wired in."""
    weights = node.params
    assert isinstance(weights, Weights)
    levels, domain = weights.effective, source.domain
    counts = _counts(levels)
    lut = float(_adders(levels, counts, domain.bits, domain.lo >= 0 and domain.hi <= 1).sum())
    return Cost(lut, levels=1 + log2(max(2, weights.l1_bound)), weight_bits=weights.mask.size * _level_bits(counts))


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


def _folded(node: Node, source: Node, folding: Folding) -> Cost:
    """A sum whose weights come from a ROM: in every lane adders of a chunk, of the chunks, and of the constant."""
    form, taps, f = sum_form(node, source), folding.simd, folding
    kept = form.acc_bits * (f.chunks > 1)  # bits of a partial sum
    count = max(1.0, FULL_ADDER * (taps - taps.bit_length())) + PARTIAL_BIT * kept
    if form.level_bits:  # products, digit by digit of the level, and a tree of adders
        width = source.domain.bits + 1
        lane = taps * (width * (form.level_bits - 1) + width + form.level_bits) + PARTIAL_BIT * kept
    else:
        lane = form.popcounts * (count + form.own_bits * form.acc_bits) + MASKED_TAP * taps * form.masked
    sums = max(1, form.popcounts)
    return Cost(f.at_once * (f.pe * (lane + form.terms * form.sum_bits) + form.common * count),
                f.at_once * kept * (f.pe * sums + form.common), levels=1 + log2(max(2, taps)) + 2 * (f.chunks > 1),
                weight_bits=form.weight_bits)


@dataclass(frozen=True)
class SumForm:
    """What the kernel of a folded sum is made of, whatever its folding.

    An output has so many `popcounts` of its own, `masked` or not, or multiplies with levels of `level_bits`; with
    `common` there is another popcount, of all taps. So many `terms` are added to the constant; what they are multiplied
    with is wired, or each output's own number of `own_bits`. Partial sums have `acc_bits`, sums `sum_bits`, constants,
    one for each of `classes` of borders, `offset_bits`.
    """

    popcounts: int
    masked: bool
    level_bits: int
    common: bool
    terms: int
    own_bits: int
    acc_bits: int
    sum_bits: int
    classes: int
    offset_bits: int
    weight_bits: int


@lru_cache(maxsize=64)
def sum_form(node: Node, source: Node) -> SumForm:
    """The form of a sum that reads `source`, as its kernel has it."""
    assert isinstance(node.params, Weights)
    outputs, taps = node.shape[-1], source.shape[-1] // groups_of(node, source)
    folding = Folding(outputs, taps, 1, taps) if outputs > 1 else Folding(outputs, taps, 1, 1)
    call = dot(node, [source], folding).fused[0].call
    roms, m = {rom.name: rom.values for rom in call.roms}, call.members
    factors = [int(n) for name in ("base", "value") for n in roms.get(name, np.zeros(1))[:1].ravel()]
    acc, total = call.types["acc_t"], call.types["sum_t"]
    assert isinstance(acc, IntType) and isinstance(total, IntType)
    common, own = call.kernel == "flow_values", m.get("n_row", 1) > 1
    popcounts = 0 if call.kernel == "flow_mac" else m.get("n_value", 1)
    return SumForm(
        popcounts, bool(m.get("masked", 1)) and not common, m.get("level_bits", 0), common,
        popcounts + 1 if own else sum(map(_digits, factors)) if common else _digits(m["gain"]),
        max(bits_of(roms[name]) for name in ("base", "value")) if own else 0, acc.bits,
        min(total.bits, node.domain.bits + 1), m.get("n_border", 1), bits_of(roms["offset"]),
        node.params.mask.size * _level_bits(_counts(node.params.effective)))


def bits_of(values: NDArray[Any]) -> int:
    """Bits of the integers of a ROM; 0 where all are the same."""
    lo, hi = int(values.min()), int(values.max())
    return 0 if lo == hi else signed_bits(lo, hi) - (lo >= 0)


def _add(node: Node, source: Node, folding: Folding) -> Cost:
    """One adder less than there are terms: the signed digits of the scales, and the constant where it is not 0."""
    total = node.params
    assert isinstance(total, Sum)
    digits = sum(_digits(int(scale)) for scale in total.scale) - (total.constant == 0)
    return Cost(_lanes(folding) * digits * node.domain.bits, levels=2)


def _lanes(folding: Folding) -> int:
    """Outputs that are made at the same time; passes that are apart are."""
    return (folding.outputs if folding.apart else folding.pe) * folding.at_once


def _max(node: Node, source: Node, folding: Folding) -> Cost:
    """An OR or AND of bits; of other codes a comparator and a multiplexer for every tap but the first."""
    taps = source.shape[-1] // node.shape[-1]
    each = ceil((taps - 1) / 5) if source.domain.size == 2 else (taps - 1) * 1.5 * source.domain.bits
    return Cost(_lanes(folding) * each, levels=2 * log2(max(2, taps)))


def _step(node: Node, source: Node, folding: Folding) -> Cost:
    """A comparator for every threshold that the input can reach; where a channel has several, their bits are added."""
    steps = node.params
    assert isinstance(steps, Steps)
    ramps = ramps_of(steps, source.domain)
    if ramps is not None:
        return _ramps(ramps, node, source, folding)
    width, (channels, each) = source.domain.bits, steps.thresholds.shape
    reached = int(((steps.thresholds > source.domain.lo) & (steps.thresholds <= source.domain.hi)).sum())
    if folding.folds > 1:  # thresholds come from a ROM: every lane has them all
        lut = _lanes(folding) * (each * (ceil(width / 2) + 1) + LUT_PER_BIT * max(0, each - 1) + 2)
    else:
        lut = folding.at_once * (reached * max(1, ceil((width - 1) / 5)) + LUT_PER_BIT * max(0, reached - channels))
    return Cost(lut, levels=1 + (each > 1) * log2(max(2, each)), weight_bits=steps.thresholds.size * width)


def _ramps(ramps: Ramps, node: Node, source: Node, folding: Folding) -> Cost:
    """Of every ramp a product, where it is no shift, an adder, a test for ties and the clipping; exceptions compare."""
    width, (channels, each) = source.domain.bits, ramps.mul.shape
    factor = ramps.mul // np.maximum(ramps.mul & -ramps.mul, 1)  # the common shift costs nothing
    size = int(factor.max()).bit_length()
    products = ceil(width / 26) * ceil((size + 1) / 17) if size > 1 else 0
    ties = bool((ramps.tie != NO_TIE).any())
    lut = each * ((0 if products else width + 1) + (2 + ties) * node.domain.bits + ties * ceil(ramps.shift / 5))
    lut += ramps.at.shape[1] * (ceil(width / 5) + 1) * bool(ramps.more.any())
    return Cost(_lanes(folding) * lut, dsp=_lanes(folding) * each * products, levels=4 + 4 * (products > 0),
                weight_bits=channels * (each * (size + width) + ramps.at.shape[1] * width))


def _lut(node: Node, source: Node, folding: Folding) -> Cost:
    """A ROM for every element."""
    table = node.params
    assert isinstance(table, Table)
    rows, codes = table.codes.shape
    lut, bram = rom(node.domain.bits, codes * (folding.folds if rows > 1 else 1))
    return Cost(lut * _lanes(folding), bram=bram * _lanes(folding), levels=2,
                weight_bits=table.codes.size * node.domain.bits)


def _affine(node: Node, source: Node, folding: Folding) -> Cost:
    """A product, in DSPs of 27x18 bits, and an adder for every element."""
    affine = node.params
    assert isinstance(affine, Affine)
    width = int(np.abs(affine.mul).max(initial=1)).bit_length() + 1
    products = ceil(source.domain.bits / 26) * ceil(width / 17)
    return Cost(_lanes(folding) * node.domain.bits, dsp=_lanes(folding) * products, levels=6,
                weight_bits=node.shape[-1] * (width + 32))


def _argmax(node: Node, source: Node, folding: Folding) -> Cost:
    """For every channel but the first a comparator, and multiplexers of the value and its place."""
    others, place = source.shape[-1] - 1, node.domain.bits
    each = others * (1.5 * source.domain.bits + place / 2)
    return Cost(folding.at_once * each, levels=2 * log2(max(2, others + 1)))


COST: dict[Op, Callable[[Node, Node, Folding], Cost]] = {
    Op.INPUT: _wires, Op.GATHER: _wires, Op.WINDOW: _wires, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


# --- memories -------------------------------------------------------------------------------------------------------

# Words and bits of a block of 18 Kbit, of which the best fitting form is taken (UG473, UG573).
BLOCKS = tuple((2**k, bits) for k, bits in zip(range(9, 15), (36, 18, 9, 4, 2, 1)))
SHALLOW = 128  # words of a memory that is made of LUTs


def rom(width: int, depth: int) -> tuple[float, int]:
    """(LUTs, blocks of 18 Kbit) of a ROM of `depth` words of `width` bits: LUTs of 64 bits where it is shallow.

    Of one or two words every bit is a constant, the address or its complement: nothing.
    """
    if depth <= SHALLOW:
        return width * ceil(depth / 64) * (depth > 2), 0
    return 0, _blocks(width, depth)


def ram(width: int, depth: int) -> tuple[float, int]:
    """(LUTs, blocks of 18 Kbit) of a memory that is written at one place and read at another in the same cycle.

    Of LUTs 8 hold 14 bits of 32 words (RAM32M16, UG574).
    """
    if depth <= SHALLOW:
        return ceil(width * 4 / 7) * ceil(depth / 32), 0
    return 0, _blocks(width, depth)


def _blocks(width: int, depth: int) -> int:
    return int(min(ceil(width / bits) * ceil(depth / words) for words, bits in BLOCKS))


# --- kernels --------------------------------------------------------------------------------------------------------


def table_cost(kernel: Sequence[Work]) -> Cost:
    """The cost of a kernel, in LUTs of six inputs."""
    return sum((_of_table(work) for work in kernel), Cost())


def _of_table(work: Work) -> Cost:
    return COST[work.node.op](work.node, work.sources[0], work.folding) + parameter_cost(work)


def parameter_cost(work: Work) -> Cost:
    """The ROMs with the constants of a folded node; constants of a single cycle are wired in.

    Every word that a cycle reads is a memory by itself, because the ROMs are partitioned so.
    """
    found = [(count, *rom(width, depth)) for count, width, depth in _memories(work)]
    return Cost(sum(count * lut for count, lut, _ in found), bram=sum(count * bram for count, _, bram in found))


def _memories(work: Work) -> list[tuple[int, int, int]]:
    """(how many, bits of a word, words) of the memories of constants."""
    p, source, f = work.node.params, work.sources[0], work.folding
    if isinstance(p, Weights) and f.folds > 1:
        form = sum_form(work.node, source)
        rows = f.pe * (max(1, form.popcounts) + form.masked)  # of fields
        fields = [(rows * count, bits, f.folds) for count, bits in _words(f.simd, form.level_bits or 1)]
        own = (f.pe * (1 + form.popcounts), form.own_bits, f.passes)
        return [*fields, own, (f.pe, form.offset_bits, form.classes * f.passes)]
    ramps = ramps_of(p, source.domain) if isinstance(p, Steps) else None
    if f.folds > 1 and ramps is not None:
        each = (ramps.mul, ramps.add, ramps.count, ramps.tie, ramps.at, ramps.more)
        return [(f.pe * values.shape[1], bits_of(values), f.passes) for values in each]
    if f.folds > 1 and isinstance(p, Steps):
        thresholds = (f.pe * p.thresholds.shape[1], source.domain.bits, f.passes)
        return [thresholds, (f.pe, bits_of(p.start), f.passes), (f.pe, bits_of(p.sign > 0), f.passes)]
    if f.folds > 1 and isinstance(p, Affine):
        return [(f.pe, bits_of(values), f.passes) for values in (p.mul, p.add)]
    return []


def _words(fields: int, width: int) -> list[tuple[int, int]]:
    """(how many, bits) of the words that hold so many fields of `width` bits, none across a word's end."""
    per_word = WORD // width
    whole, rest = divmod(fields, per_word)
    return [(whole, per_word * width)] * (whole > 0) + [(1, rest * width)] * (rest > 0)

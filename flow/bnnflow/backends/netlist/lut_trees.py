"""Weighted sums of bits as trees of LUTs: few LUTs in a row, where carry chains (`bit_heap`) take fewer of them.

The bits lie in columns, one for each power of two, with the ps at which they are ready. What is ready is compressed
first: six bits of a column become the three bits of their sum in one LUT each (three become two where LUTs have four
inputs), and so late bits enter near the root.
A comparison needs no sum: the lowest columns leave as functions of their carry, and once two rows of LUTs can decide,
they do (`_in_two_rows`).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from itertools import product
from operator import ge, gt, or_
from typing import NamedTuple

from bnnflow.backends.netlist.gates import FALSE, TRUE
from bnnflow.backends.netlist.netlist import Netlist

__all__ = ["added", "in_two_rows", "not_less", "reached"]

Bits = list[tuple[int, int]]  # (ps, literal), ascending
MOST_GROUPS = 3  # of as many bits as a LUT has inputs, on which two rows of LUTs decide: two bits of code each
MOST_COLUMNS = 14  # of these bits; of more columns the lowest leave first, as sets of sums would be large
MANY = 200  # bits of a comparison for which only one tree is made: the others take longer to make than they save
ANY = 0.01  # how good a counter is where every counter will do
# The trees that are tried: how good a counter is, at least, before a tree waits for its next bits, and their order.
WAYS = ((1.0, 0), (0.6, 0), (0.3, 0), (0.6, 1))

Counter = tuple[tuple[int, int, int], float]  # (how many literals of three neighbouring columns, how good it is)


@lru_cache
def counters(inputs: int, order: int) -> list[Counter]:
    """Counters for LUTs of so many inputs: literals that become the bits of their sum, a LUT each, the best ones first.

    How good one is are the bits that go with a LUT, as a part of the most. Of six inputs, 6:3 and then 5,1:3 are the
    best, or the other way round in `order` 1, and 3:2 is among the last; of four inputs it is the best.
    """
    found = [((a, b, c), (a + b + c) / (a + 2 * b + 4 * c).bit_length() - 1)
             for a, b, c in product(range(2, inputs + 1), range(4), range(2))
             if a + b + c <= inputs and (a + 2 * b + 4 * c).bit_length() < min(4, a + b + c)]
    most = max(rate for _, rate in found)
    return sorted([(shape, rate / most) for shape, rate in found],
                  key=lambda entry: (-entry[1], (1 if order else -1) * entry[0][0]))


class Item(NamedTuple):
    """A part of a sum: `values[code]` where `literals` are the bits of the code, lowest first, ready at `time`."""

    values: tuple[int, ...]
    literals: tuple[int, ...]
    time: int


class Columns:
    """Columns of literals: column k holds those of weight 2^k; `constant` is added. `order` is that of counters.

    With `absorb` counters add bits of the constant where their own sums leave room for these.
    """

    def __init__(self, net: Netlist, constant: int, order: int = 0, absorb: bool = False):
        self.net, self.constant, self.order, self.absorb, self.now = net, constant, order, absorb, 0
        self.columns: list[Bits] = []

    def put(self, column: int, literal: int) -> None:
        """Add a literal to a column."""
        if literal <= TRUE:
            self.constant += literal << column
            return
        self.columns += [[] for _ in range(column + 1 - len(self.columns))]
        insort(self.columns[column], (self.net.when[literal >> 1], literal))

    def items(self) -> list[Item]:
        """All bits, the heaviest first, of equal ones those that are ready first."""
        return [Item((0, 1 << k), (literal,), time) for k in reversed(range(len(self.columns)))
                for time, literal in self.columns[k]]

    def ready(self, column: int) -> int:
        """How many literals of a column are ready now."""
        return bisect_right(self.columns[column], (self.now + 1, 0))

    def count(self, column: int, shape: Sequence[int]) -> None:
        """Replace the first literals from `column` on by the bits of their sum."""
        literals, weights = self.take(column, shape)
        most = sum(weights)
        constant = self.constant >> column & 1 if self.absorb and most & (most + 1) else 0
        self.constant -= constant << column
        for k in range(most.bit_length()):
            self.put(column + k, self.net.sum_bit(literals, weights, constant, k))

    def take(self, column: int, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        """(literals, weights) after removing the first shape[k] literals, of weight 2^k, from every `column` + k."""
        literals, weights = [], []
        for k, n in enumerate(shape):
            if n:
                literals += [literal for _, literal in self.columns[column + k][:n]]
                del self.columns[column + k][:n]
                weights += [1 << k] * n
        return literals, weights

    def compress(self, least: float, most_height: int = 0) -> bool:
        """Apply counters to literals that are ready, the best first, while one is as good as `least`.

        Columns of at most so many literals are left alone. False where nothing was done.
        """
        ready = [*map(self.ready, range(len(self.columns))), 0, 0]
        before = sum(ready)
        for (a, b, c), rate in counters(self.net.fabric.inputs, self.order):
            if rate < least:
                break
            for k, column in enumerate(self.columns[: len(ready) - 2]):
                while ready[k] >= a and ready[k + 1] >= b and ready[k + 2] >= c and len(column) > most_height:
                    self.count(k, (a, b, c))  # its bits are ready later, in columns that there are or a new one
                    ready[k : k + 3] = ready[k] - a, ready[k + 1] - b, ready[k + 2] - c
        return sum(ready) < before

    def left(self) -> tuple[list[tuple[int, int]], int]:
        """(all bits as (column, literal), the constant)."""
        return [(k, literal) for k, part in enumerate(self.columns) for _, literal in part], self.constant

    def wait(self) -> bool:
        """Go on to when the next literal is ready; False where all are."""
        later = [time for column in self.columns for time, _ in column if time > self.now]
        self.now = min(later, default=self.now)
        return bool(later)


# --- comparisons ----------------------------------------------------------------------------------------------------


def reached(net: Netlist, bits: Sequence[tuple[int, int]], constant: int) -> int:
    """The literal of [sum of 2^column of the `bits` (column, literal) + constant >= 0].

    Of the trees with eager and with lazy counters, in either order, the smallest one is made that is ready at the net's
    deadline; where none is, the one that is ready first.
    """
    first, trees = len(net.gates), []
    for way in WAYS if len(bits) <= MANY else WAYS[:1]:
        literal = _tree(net, bits, constant, *way)
        late = max(0, net.when[literal >> 1] - net.deadline)
        trees.append((late, len(net.gates) - first, way))
        net.forget(first)
    return _tree(net, bits, constant, *min(trees)[2])


def _tree(net: Netlist, bits: Sequence[tuple[int, int]], constant: int, least: float, order: int) -> int:
    heap = Columns(net, constant, order)
    for column, literal in bits:
        heap.put(column, literal)
    while True:
        _drop_single_bits(heap)
        if heap.constant >= 0:
            return TRUE
        if heap.constant + sum(len(part) << k for k, part in enumerate(heap.columns)) < 0:
            return FALSE
        decided = _decided(heap)
        if decided is not None:
            return decided
        if _floor(heap, 1.0) or heap.compress(least) or heap.wait():
            continue
        if len(heap.columns) <= MOST_COLUMNS:
            return _in_rows(net, heap.items(), -heap.constant)
        _floor(heap, 0.0)


def _decided(heap: Columns) -> int | None:
    """The literal of [sum >= 0] if two rows of LUTs can make it as soon as can be; None where other rows come first."""
    level = heap.net.fabric.level
    if sum(map(len, heap.columns)) > MOST_GROUPS * heap.net.fabric.inputs or len(heap.columns) > MOST_COLUMNS:
        return None
    items = heap.items()
    last = max(item.time for item in items)
    ends = (last + level, last + 2 * level) if last <= heap.now else (last + level,)
    found = (_in_two_rows(heap.net, items, -heap.constant, end) for end in ends)
    return next((literal for literal in found if literal is not None), None)


def _drop_single_bits(heap: Columns) -> None:
    """Drop the lowest columns while they have at most one literal.

    2 H + x + 2 c >= 0 is H + c >= 0, and 2 H + x + 2 c + 1 >= 0 is H + x + c >= 0.
    """
    while len(heap.columns) > 1 >= len(heap.columns[0]):
        low, odd = heap.columns.pop(0), heap.constant & 1
        heap.constant >>= 1
        if low and odd:
            heap.put(0, low[0][1])


def _floor(heap: Columns, least: float) -> bool:
    """Replace the lowest columns by the bits of their carry into the next one, a LUT each.

    It is done if the columns are ready and at least so many bits go with a LUT.
    """
    best = (least, 0, 0)
    taken = most = 0
    for end, column in enumerate(heap.columns[:3], 1):
        taken, most = taken + len(column), most + (len(column) << (end - 1))
        if taken > heap.net.fabric.inputs or heap.ready(end - 1) < len(column):
            break
        outputs = (most + heap.constant % (1 << end) >> end).bit_length()
        if outputs:  # else two literals or more would be dropped above
            best = max(best, (taken / outputs - 1, end, outputs))
    _, end, outputs = best
    if end:
        low = heap.constant % (1 << end)
        literals, weights = heap.take(0, [len(column) for column in heap.columns[:end]])
        heap.constant -= low
        for k in range(end, end + outputs):
            heap.put(k, heap.net.sum_bit(literals, weights, low, k))
    return end > 0


# --- the last rows --------------------------------------------------------------------------------------------------

Group = tuple[int, int, tuple[int, ...]]  # items from one to another, and the least values of their sum's classes


def _in_two_rows(net: Netlist, items: Sequence[Item], need: int, deadline: int) -> int | None:
    """The literal of [sum of items >= need], ready at the deadline in ps; None where two rows of LUTs do not do.

    The LUT of the second row reads items as they are, and codes that the first row makes of groups of them.
    """
    early = tuple([item.time + 2 * net.fabric.level <= deadline for item in items])
    groups = _groups(tuple([item.values for item in items]), early, need, net.fabric.inputs)
    return None if groups is None else _decision(net, _grouped(net, items, groups), need)


def _in_rows(net: Netlist, items: Sequence[Item], need: int) -> int:
    """The literal of [sum of items >= need] in as many rows as it takes."""
    inputs = net.fabric.inputs
    while (bits := sum(len(item.literals) for item in items)) > inputs:
        values, early = tuple([item.values for item in items]), (True,) * len(items)
        groups = _groups(values, early, need, inputs) or _groups(values, early, need, inputs, bits)
        if groups is None or len(groups) == len(items):
            break
        items = _grouped(net, items, groups)
    return _decision(net, items, need)


def _decision(net: Netlist, items: Sequence[Item], need: int) -> int:
    """The literal of [sum of items >= need], one LUT if it has an input for every bit of their codes."""
    table = 0
    for row, parts in enumerate(product(*[_padded(item) for item in reversed(items)])):
        table |= (sum(parts) >= need) << row
    return net.function([literal for item in items for literal in item.literals], table)


def _padded(item: Item) -> list[int]:
    """The values of an item for all patterns of its bits: one that never comes has that of the last code."""
    return [*item.values, *[item.values[-1]] * ((1 << len(item.literals)) - len(item.values))]


def _grouped(net: Netlist, items: Sequence[Item], groups: Sequence[Group]) -> list[Item]:
    """The items after a row of LUTs: of every group of several the code of its sum's class."""
    result: list[Item] = []
    for first, end, least in groups:
        part = items[first:end]
        if len(part) == 1:
            result += part
            continue
        literals = [literal for item in part for literal in item.literals]
        codes = [bisect_right(least, sum(values)) - 1
                 for values in product(*[_padded(item) for item in reversed(part)])]
        code = [net.lut(literals, sum((code >> k & 1) << row for row, code in enumerate(codes)))
                for k in range((len(least) - 1).bit_length())]
        result.append(Item(least, tuple(code), max(item.time for item in part) + net.fabric.level))
    return result


@lru_cache(maxsize=2**14)
def _groups(values: tuple[tuple[int, ...], ...], early: tuple[bool, ...], need: int, inputs: int, room: int = 0
            ) -> list[Group] | None:
    """Groups of neighbouring items, those of several `early` ones, whose codes have at most `room` bits in all.

    Without `room` the codes are those that a LUT can read, and the groups take the fewest LUTs; else they leave the
    fewest bits. A LUT has so many `inputs`.
    None where there are none. Two sums of a group are of one class if the other items make no difference between them.
    """
    width = [(len(v) - 1).bit_length() for v in values]
    best: list[dict[int, tuple[tuple[int, int], list[Group]]]] = [{} for _ in range(len(values) + 1)]
    best[len(values)][0] = (0, 0), []
    for first in reversed(range(len(values))):
        for group, bits, luts in _options(values, early, need, inputs, first, width):
            for used, (cost, groups) in best[group[1]].items():
                total = used + bits
                new = (cost[0] + luts, total) if not room else (total, cost[1] + luts)
                if total <= (room or inputs) and (total not in best[first] or new < best[first][total][0]):
                    best[first][total] = new, [group, *groups]
    found = min(best[0].values(), default=None, key=lambda entry: entry[0])
    return None if found is None else found[1]


def _options(values: tuple[tuple[int, ...], ...], early: Sequence[bool], need: int, inputs: int, first: int,
             width: Sequence[int]) -> Iterator[tuple[Group, int, int]]:
    """(group, bits, LUTs) of the groups that begin with an item: the item alone, or with as many as a LUT can read."""
    yield (first, first + 1, ()), width[first], 0
    end = first + 1
    while end < len(values) and sum(width[first : end + 1]) <= inputs and all(early[first : end + 1]):
        end += 1
        own = sorted({sum(parts) for parts in product(*values[first:end])})
        least = _classes(own, _sums(values[:first] + values[end:]), need)
        bits = (len(least) - 1).bit_length()
        if bits < sum(width[first:end]):
            yield (first, end, tuple(least)), bits, bits


@lru_cache(maxsize=2**14)
def _sums(values: tuple[tuple[int, ...], ...]) -> int:
    """The sums of items as a set of bits: bit s is 1 where a value of each can add up to s."""
    found = 1
    for item in values:
        found = reduce(or_, [found << value for value in item])
    return found


def _classes(own: Sequence[int], others: int, need: int) -> list[int]:
    """The least sums of the classes of a group's sums `own`, ascending; `others` are the sums of the other items."""
    least = [own[0]]
    for before, value in zip(own, own[1:]):
        low, high = max(need - value, 0), need - before
        if high > low and others >> low & ((1 << (high - low)) - 1):
            least.append(value)
    return least


# --- words ----------------------------------------------------------------------------------------------------------


def added(net: Netlist, bits: Sequence[tuple[int, int]], constant: int) -> tuple[list[tuple[int, int]], int]:
    """The same sum as (bits (column, literal), a constant), after all of the best counters.

    Of the orders of counters the one stays that leaves bits which are ready first, of equal ones the fewest.
    """
    first, ends = len(net.gates), []
    for order in (0, 1):
        left, _ = _compressed(net, bits, constant, order)
        ends.append((max([net.when[literal >> 1] for _, literal in left], default=0), len(left), order))
        net.forget(first)
    return _compressed(net, bits, constant, min(ends)[2])


def _compressed(net: Netlist, bits: Sequence[tuple[int, int]], constant: int, order: int
                ) -> tuple[list[tuple[int, int]], int]:
    heap = Columns(net, constant, order)
    for column, literal in bits:
        heap.put(column, literal)
    while heap.compress(1.0) or heap.wait():
        pass
    return heap.left()


def in_two_rows(net: Netlist, bits: Sequence[tuple[int, int]], constant: int, width: int
                ) -> tuple[list[tuple[int, int]], int]:
    """The same sum modulo 2^width, with at most two literals in a column."""
    heap = Columns(net, constant % (1 << width), absorb=True)
    for column, literal in bits:
        heap.put(column, literal)
    while heap.compress(1.0) or heap.wait() or heap.compress(ANY, most_height=2):
        del heap.columns[width:]
    return _beside_constant(heap, width)


def _beside_constant(heap: Columns, width: int) -> tuple[list[tuple[int, int]], int]:
    """(bits, constant) of columns with at most two literals: two in a column, the bit of the constant counted.

    Where there are three, or would be with the carry of the column below, they become a sum and a carry, all in one row
    of LUTs. Added one after the other, every column would wait for the carry of the one below.
    """
    net, constant = heap.net, heap.constant % (1 << width)
    bits: list[tuple[int, int]] = []
    carry = FALSE
    for k in range(width):
        literals = [literal for _, literal in heap.columns[k]] if k < len(heap.columns) else []
        one, out = constant >> k & 1, FALSE
        if len(literals) + one + (carry != FALSE) > 2:
            out, total = (net.sum_bit(literals, [1] * len(literals), one, place) for place in (1, 0))
            literals, constant = [total], constant & ~(1 << k)
        bits += [(k, literal) for literal in [*literals, carry] if literal != FALSE]
        carry = out
    return bits, constant


def not_less(net: Netlist, one: Sequence[int], other: Sequence[int]) -> int:
    """The literal of [one >= other] of two words without sign and of one width, the lowest literals first.

    It is a prefix tree: of every three places (two, if LUTs have four inputs), whether one word is more there, and
    whether it is not less.
    """
    places, parts = net.fabric.inputs // 2, []
    for k in range(0, len(one), places):
        literals = [*one[k : k + places], *other[k : k + places]]
        half = len(literals) // 2
        pairs = [(row & ((1 << half) - 1), row >> half) for row in range(1 << len(literals))]
        parts.append([net.lut(literals, sum(test(*pair) << row for row, pair in enumerate(pairs)))
                      for test in (gt, ge)])
    while len(parts) > 1:
        parts = [_joined(net, parts[k : k + places]) for k in range(0, len(parts), places)]
    return parts[0][1]


def _joined(net: Netlist, parts: Sequence[Sequence[int]]) -> list[int]:
    """[one is more, one is not less] at neighbouring places, from the same of every part of them, the lowest first."""
    low = list(parts[0])
    if len(parts) == 1:
        return low
    # Of the parts above, from the lowest on: more, or not less and so is what lies below.
    literals = [literal for part in parts[1:] for literal in part]
    table = 0
    for row in range(1 << (len(literals) + 1)):
        value = row & 1
        for k in range(1, len(literals), 2):
            value = row >> k & 1 | (row >> (k + 1) & 1 & value)
        table |= value << row
    return [net.lut([literal, *literals], table) for literal in low]
